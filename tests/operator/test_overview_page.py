"""The overview at the level of HTTP."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from forwarder.delivery.route_status import RouteStatus, ScopeStop
from forwarder.model import RouteName, State
from forwarder.operator.pages.overview import advice

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
Start = Callable[..., Awaitable[Any]]


async def test_an_untouched_daemon_says_what_to_paste_where(world: Any) -> None:
    """Before the first event the page gives the exact URLs for Courier, RudderStack, Segment and an SDK."""
    text = await world.page("/")
    for path in ("/webhooks/courier", "/inbound/rudderstack", "/inbound/segment"):
        assert f"http://127.0.0.1:8080{path}" in text
    assert "forwarder send-sample" in text


async def test_the_books_are_an_equation_with_links(world: Any) -> None:
    """The account of a route is written out, says that it balances, and leads to the events behind each term."""
    await world.arrive(state=State.DELIVERED)
    await world.arrive(state=State.DEAD, reason="no id")
    await world.arrive()
    text = await world.page("/")
    assert "accepted <b>3</b>" in text
    assert "/events?route=courier_to_rudderstack&amp;state=dead" in text
    assert "does not balance" not in text
    assert "No event has arrived yet" not in text


@pytest.mark.parametrize("path", ["/", "/events", "/dead-letters", "/destination-events", "/settings", "/audit", "/no"])
async def test_while_new_events_are_refused_every_page_says_so(world: Any, path: str) -> None:
    """In red, with the reason, in the title, and by the icon; otherwise nothing of it is there."""
    usual = await world.get(path)
    assert ("Not accepting" in usual.words, "<title>(" in usual.html) == (False, False)
    facts = replace(await world.spool.facts(), is_accepting=False, refusal="storage limit")

    async def refusing() -> Any:
        return facts

    world.replace(facts=refusing)
    page = await world.get(path)
    assert "Not accepting new events: storage limit. Senders are told to come back" in page.words
    assert 'class="notice bad" role="alert"' in page.html
    assert "<title>(refusing) " in page.html
    assert 'href="/static/alarm.svg"' in page.html


async def test_the_summary_says_the_worst_first(world: Any) -> None:
    """One sentence tells how everything is, and beside it is what waits for a person."""
    assert "running Both routes run; queue empty." in (await world.get("/")).words
    await world.arrive()
    await world.arrive(state=State.DEAD, reason="r")
    await world.arrive(route=INBOUND, state=State.UNMAPPED, reason="nothing is linked")
    page = await world.get("/")
    assert (
        "1 event pending. 1 dead-lettered Put the cause right, then replay 1 unmapped Link, then replay" in page.words
    )
    assert '<span class="badge">1</span>' in page.html
    world.routes[OUTBOUND].state = "paused"
    page = await world.get("/events")
    assert "<title>(paused) Events" in page.html
    world.routes[INBOUND].hold("answered 401")
    page = await world.get("/")
    assert (
        "held RudderStack → Courier is held: answered 401; Courier → RudderStack is paused; 1 event pending."
        in page.words
    )
    assert "<title>(held) Overview" in page.html
    facts = replace(await world.spool.facts(), is_accepting=False, refusal="storage limit")

    async def refusing() -> Any:
        return facts

    world.replace(facts=refusing)
    assert "refusing New events are refused: storage limit; 1 event pending." in (await world.get("/")).words


async def test_a_group_that_stands_still_is_its_routes_trouble(world: Any) -> None:
    """A hold of one rate-limit group is in the sentence, the title and the icon; a back-off in the sentence alone."""
    answered = ScopeStop(scope="automations", state="held", reason="answered 403", since_ms=0, next_try_ms=0)
    world.routes[INBOUND].families = (answered,)
    await world.arrive(route=INBOUND)
    page = await world.get("/")
    assert "held RudderStack → Courier (automations) is held: answered 403; 1 event pending." in page.words
    assert "Both routes run" not in page.words
    assert "<title>(held) Overview" in page.html
    assert 'href="/static/alarm.svg"' in page.html
    world.routes[INBOUND].families = (replace(answered, state="backing_off"), replace(answered, scope="lists"))
    world.routes[OUTBOUND].hold("answered 401")
    told = (
        "held Courier → RudderStack is held: answered 401; RudderStack → Courier (lists) is held: answered 403; "
        "RudderStack → Courier (automations) backs off: answered 403; 1 event pending."
    )
    assert told in (await world.get("/")).words
    await world.routes[OUTBOUND].resume(who="me")
    world.routes[INBOUND].families = (replace(answered, state="backing_off"),)
    page = await world.get("/")
    assert "backing off RudderStack → Courier (automations) backs off: answered 403" in page.words
    assert "<title>Overview" in page.html
    world.routes[INBOUND].state = "paused"
    assert "paused RudderStack → Courier is paused; 1 event pending." in (await world.get("/")).words


async def test_discarded_events_are_nothing_to_do(world: Any) -> None:
    """What was put aside stays dead in the totals, and leaves the figures of what is left to do."""
    sequence = await world.arrive(state=State.DEAD, reason="r")
    await world.api("/api/discard", {"sequences": [sequence]})
    page = await world.get("/")
    assert 'class="badge"' not in page.html
    assert "dead</a> <b>1</b>" in page.html
    route = (await world.api("/api/status"))["routes"][0]
    assert (route["totals"]["dead"], route["open_dead"], route["discarded"]) == (1, 0, 1)


async def test_what_waits_is_shown_with_its_age(world: Any) -> None:
    """Backlog and the age of the oldest are there, with units."""
    await world.arrive()
    world.clock.now_ms += 65_000
    text = await world.page("/")
    assert "1 min 5 s" in text
    assert "oldest pending" in text
    assert "pending" in text


@pytest.mark.one_daemon("shows what one process counted")
async def test_rates_and_latencies_come_from_the_counters(world: Any) -> None:
    """In and out per second, the median and the 99th of 100 are those of the daemon's own counters."""
    world.rates.sample()
    world.metrics.received.labels(OUTBOUND.value).inc(50)
    world.metrics.settled.labels(OUTBOUND.value, "delivered").inc(20)
    world.metrics.latency.labels(OUTBOUND.value).observe(0.2)
    world.clock.now_ms += 10_000
    world.rates.sample()
    await world.arrive()
    text = await world.page("/")
    assert ">5.0/s<" in text
    assert ">2.0/s<" in text
    assert "p99 delivery latency" in text


async def test_a_route_that_is_held_says_why_since_when_and_what_to_do(world: Any) -> None:
    """A hold shows its reason, its age, the next try, which settings to check, and that nothing is lost."""
    world.routes[OUTBOUND].hold("answered 401")
    world.routes[INBOUND].families = (
        ScopeStop(scope="lists", state="held", reason="answered 403", since_ms=0, next_try_ms=0),
    )
    text = await world.page("/")
    for words in ("answered 401", "for 5.0 s", "in 30 s", "RUDDERSTACK_WRITE_KEY", "Nothing is lost", "lists", "403"):
        assert words in text


async def test_a_route_that_is_off_says_how_to_switch_it_on(start: Start) -> None:
    """A route without settings names the variables that it needs."""
    world = await start(running=(OUTBOUND,))
    text = await world.page("/")
    assert "FORWARDER_INBOUND_KEYS" in text
    assert "/routes/rudderstack_to_courier/pause" not in text


async def test_pausing_asks_first_and_is_written_down(world: Any) -> None:
    """Without a yes the page asks; with it the route pauses, the audit log has who, and resuming is offered."""
    path = "/routes/courier_to_rudderstack/pause"
    async with world.http.post(path) as answer:
        asked = await answer.text()
        assert (answer.status, world.routes[OUTBOUND].state) == (200, "running")
    assert 'name="confirmed" value="1"' in asked
    given = {"confirmed": "1", "reason": "<the plane> moves", "for_s": "900"}
    async with world.http.post(path, data=given) as answer:
        text = await answer.text()
    assert world.routes[OUTBOUND].state == "paused"
    assert "Paused by page (127.0.0.1), until 2027-01-15 08:15:00.000 UTC." in text
    assert "&lt;the plane&gt; moves" in text
    assert "/routes/courier_to_rudderstack/resume" in text
    (row,) = await world.spool.audit(limit=5)
    assert row.action == "pause"
    assert row.detail == "courier_to_rudderstack until 2027-01-15 08:15:00.000 UTC: <the plane> moves"
    assert row.who.startswith("page (127.0.0.1")


async def test_resuming_needs_no_question(world: Any) -> None:
    """Resuming destroys nothing: one click, and it is written down."""
    world.routes[OUTBOUND].state = "paused"
    async with world.http.post("/routes/courier_to_rudderstack/resume", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/?did=resumed")
    assert world.routes[OUTBOUND].state == "running"
    assert (await world.spool.audit(limit=5))[0].action == "resume"


async def test_a_route_that_does_not_run_cannot_be_paused(world: Any) -> None:
    """An unknown route is a page with 404, not a crash."""
    async with world.http.post("/routes/nowhere/pause", data={"confirmed": "1"}) as answer:
        assert answer.status == 404
        assert "No route of that name" in await answer.text()


async def test_an_unknown_path_is_a_page_except_below_the_api(world: Any) -> None:
    """People get a page, programs JSON."""
    page = await world.page("/nowhere/at/all", status=404)
    assert "There is no page of that name" in page
    assert "<title>Page not found · forwarder</title>" in page
    async with world.http.get("/api/nowhere") as answer:
        assert (answer.status, answer.content_type) == (404, "application/json")


async def test_a_change_from_elsewhere_is_refused(world: Any) -> None:
    """A form on another site cannot pause a route."""
    headers = {"Origin": "https://evil.example"}
    data = {"confirmed": "1"}
    async with world.http.post("/routes/courier_to_rudderstack/pause", data=data, headers=headers) as answer:
        assert answer.status == 403
    assert world.routes[OUTBOUND].state == "running"


async def test_what_an_act_did_comes_from_a_closed_set(world: Any) -> None:
    """A link cannot put words of its own onto the page."""
    assert "&lt;b" not in await world.page("/?did=%3Cb%3Eowned&count=7")
    assert "some event(s)" in await world.page("/?did=replayed&count=%3Cscript")
    assert "Replayed: 1,234 event(s)" in await world.page("/?did=replayed&count=1234")


async def test_a_host_name_of_version_six_is_bracketed(world: Any) -> None:
    """The URL to paste is right where the page was asked for by an IPv6 address."""
    async with world.http.get("/", headers={"Host": "[::1]:8081"}) as answer:
        assert "http://[::1]:8080/webhooks/courier" in await answer.text()


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("style", "/static/page.css", "text/css"),
        ("script", "/static/page.js", "text/javascript"),
        ("icon", "/static/icon.svg", "image/svg+xml"),
    ],
)
async def test_own_files_are_checked_not_sent_again(world: Any, name: str, path: str, kind: str) -> None:
    """Style, script and icon have a validator, and an unchanged one costs no body."""
    async with world.http.get(path) as answer:
        assert (answer.status, answer.content_type) == (200, kind), name
        tag = answer.headers["ETag"]
    async with world.http.get(path, headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with world.http.get(path, headers={"If-None-Match": '"other"'}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", ""), ("paused", "Paused by somebody"), ("held", "COURIER_API_KEY"), ("backing_off", "tried again")],
)
def test_advice_fits_the_state(state: str, words: str) -> None:
    """Every state but running says what to do."""
    status = RouteStatus(
        name=INBOUND,
        state=state,
        since_ms=0,
        reason="",
        stop=None,
        families=(),
        in_flight=0,
        in_hand=0,
        concurrency_limit=1,
    )
    told = advice(INBOUND, status)
    assert words in told
    assert bool(told) == bool(words)
