"""The list of events at the level of HTTP."""

import asyncio
import csv
import io
import json
import re
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import SpoolClosed
from forwarder.model import Attempt, RouteName, State
from forwarder.operator import searching

INBOUND = RouteName.RUDDERSTACK_TO_COURIER
HOSTILE = "\"><script>alert(1)</script>\u202e\u0000\u001b[31m\u2028&amp;'"


def _listed(text: str) -> list[int]:
    return [int(number) for number in re.findall(r'<tr data-sequence="(\d+)">', text)]


async def test_an_empty_list_says_what_to_do(world: Any) -> None:
    """Where nothing has come yet the page gives the URLs to paste, and follows what comes."""
    text = await world.page("/events")
    assert "http://127.0.0.1:8080/webhooks/courier" in text
    assert " data-live>" in text
    assert "data-rows" in text


async def test_both_routes_newest_first(world: Any) -> None:
    """The list has the events of both routes, the newest above, each with its state as a word."""
    first = await world.arrive(state=State.DELIVERED)
    second = await world.arrive(route=INBOUND, event="Order Completed", state=State.UNMAPPED, reason="nothing linked")
    text = await world.page("/events")
    assert _listed(text) == [second, first]
    for words in ("delivered", "unmapped", "nothing linked", "Order Completed", "RudderStack → Courier"):
        assert words in text


async def test_every_filter_narrows(world: Any) -> None:
    """Route, state, event, user, message, text and time each leave only what they name, and stay in their field."""
    wanted = await world.arrive(
        b'{"needle":1}', route=INBOUND, event="E", user="anna", message="m-7", state=State.DEAD, reason="broken"
    )
    world.clock.now_ms += 3_600_000
    other = await world.arrive()
    filters = ("route=rudderstack_to_courier", "state=dead", "event=E", "user=anna", "message=m-7", "text=needle")
    for one in (*filters, "reason=broken", "to=2027-01-15T08:30", "&".join(filters)):
        text = await world.page(f"/events?{one}")
        assert _listed(text) == [wanted], one
    text = await world.page("/events?from=2027-01-15T08:30&user=u1")
    assert _listed(text) == [other]
    assert 'value="2027-01-15T08:30:00"' in text
    assert 'value="u1"' in text


async def test_history_is_not_followed(world: Any) -> None:
    """A search of history, and an older page, take no new rows and offer the way back to what is live."""
    await world.arrive()
    for path in ("/events?text=number", "/events?before=100", "/events?to=2030-01-01"):
        text = await world.page(path)
        assert " data-live>" not in text
        assert "Newest, live" in text
    assert " data-live>" in await world.page("/events?state=dead")


async def test_older_pages_go_on_where_the_last_ended(world: Any) -> None:
    """Pages are cut by sequence: none is missed, none is shown twice, and filters travel along."""
    sequences = [await world.arrive(user="same") for _ in range(60)]
    text = await world.page("/events?user=same")
    first = _listed(text)
    (older,) = re.findall(r'href="(/events\?user=same&amp;before=\d+)" rel="next"', text)
    second_text = await world.page(older.replace("&amp;", "&"))
    assert [*first, *_listed(second_text)] == sequences[::-1]
    assert 'rel="next"' not in second_text


@pytest.mark.one_daemon("a search is one process's")
async def test_a_search_goes_on_until_all_is_read(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps of one event the page says the true count and how far it is, and lives until all is read."""
    first = await world.arrive(b'{"needle":1}')
    world.clock.now_ms += 60_000
    for _ in range(5):
        await world.arrive()
    gate = asyncio.Semaphore(0)
    events = world.spool.events

    async def stepping(query: Any) -> Any:
        if query.text is not None:
            await gate.acquire()
        return await events(query)

    world.replace(events=stepping)
    monkeypatch.setattr(searching, "_STEP_EVENTS", 1)
    monkeypatch.setattr(searching, "_FIRST_S", 0.01)
    text = await world.page("/events?text=needle")
    assert " data-live>" in text
    assert "0 events so far; looked at 0 events, going on" in (await world.get("/events?text=needle")).words
    gate.release()
    await _until(world, "looked at 1 event, back to 2027-01-15 08:01:00.000 UTC, going on")
    for _ in range(5):
        gate.release()
    await _until(world, "1 event ; looked at all 6 events, back to 2027-01-15 08:00:00.000 UTC")
    text = await world.page("/events?text=needle")
    assert _listed(text) == [first]
    assert " data-live>" not in text


async def _until(world: Any, words: str) -> None:
    async with asyncio.timeout(60):
        while words not in (await world.get("/events?text=needle")).words:
            pass


@pytest.mark.one_daemon("a search is one process's")
async def test_a_search_is_stopped_and_goes_on(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it says in how many it looked; it goes on from there when asked to, and nobody else reads meanwhile."""
    for _ in range(5):
        await world.arrive()
    gate = asyncio.Semaphore(2)
    events = world.spool.events

    async def stepping(query: Any) -> Any:
        if query.text is not None:
            await gate.acquire()
        return await events(query)

    world.replace(events=stepping)
    monkeypatch.setattr(searching, "_STEP_EVENTS", 1)
    monkeypatch.setattr(searching, "_FIRST_S", 0.01)
    await _until(world, "looked at 2 events")
    assert 'http-equiv="refresh"' in await world.page("/events?text=needle"), "without script it is followed, too"
    (fields,) = (await world.get("/events?text=needle")).forms("/events/search")
    stopped = await world.post("/events/search", fields)
    assert (stopped.status, stopped.location) == (303, "/events?text=needle&everywhere=1")
    gate.release()
    await _until(world, "in the 3 events, back to 2027-01-15 08:00:00.000 UTC that were looked at; older ones were not")
    (fields,) = (await world.get("/events?text=needle")).forms("/events/search")
    for _ in range(2):
        gate.release()
    assert (await world.post("/events/search", fields)).status == 303
    await _until(world, "0 events ; looked at all 5 events")


@pytest.mark.one_daemon("a search is one process's")
@pytest.mark.parametrize("asked", ["period=15m", "period=15m&before=6"])
async def test_a_search_outlasts_the_minute(world: Any, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """A period moves on while it is searched in: the search goes on, is stopped, and goes on; left behind it is new."""
    for _ in range(6):
        await world.arrive()
    monkeypatch.setattr(searching, "_STEP_EVENTS", 1)
    monkeypatch.setattr(searching, "_FIRST_S", 0.01)
    path = f"/events?text=needle&{asked}"
    gate, came, looked, events = asyncio.Semaphore(2), asyncio.Semaphore(0), asyncio.Semaphore(0), world.spool.events

    async def stepping(query: Any) -> Any:
        if query.text is None:
            return await events(query)
        came.release()
        await gate.acquire()
        looked.release()
        return await events(query)

    world.replace(events=stepping)
    page = await world.get(path)
    await _steps(came, 3)  # the third step waits: it was begun before the minute was over
    await _steps(looked, 2)
    world.clock.now_ms += 60_000
    (fields,) = page.forms("/events/search")
    assert (await world.post("/events/search", fields)).status == 303
    gate.release()
    await _steps(looked, 1)
    page = await world.get(path)
    assert "Stopped: 0 events in the 3 events" in page.words
    world.clock.now_ms += 60_000
    (fields,) = page.forms("/events/search")
    assert (await world.post("/events/search", fields)).status == 303
    assert "looked at 3 events, back" in (await world.get(path)).words
    world.clock.now_ms += 60_000
    assert "looked at 0 events, going on" in (await world.get(path)).words


async def _steps(looked: asyncio.Semaphore, count: int) -> None:
    """Wait until so many steps were taken."""
    async with asyncio.timeout(60):
        for _ in range(count):
            await looked.acquire()


@pytest.mark.one_daemon("a search is one process's")
async def test_a_search_that_nobody_looks_at_ends(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves the page leaves no search behind; who comes back finds it go on."""
    await world.arrive()
    await world.arrive()
    query = EventQuery(text="needle")
    monkeypatch.setattr(searching, "_STEP_EVENTS", 1)
    searches = searching.Searches(world.parts)
    events = world.spool.events

    async def late(query: Any) -> Any:
        world.clock.now_ms += 60_000
        return await events(query)

    world.replace(events=late)
    search = await searches.look("needle", query)
    await searches.close()
    assert (search.scanned, search.is_running) == (1, True)
    assert (await searches.look("needle", query)) is search
    await searches.close()
    assert search.scanned == 2


async def test_few_searches_run_and_few_are_known(world: Any) -> None:
    """Beyond the limit the one that was not asked for longest is forgotten; an error of the spool is told."""
    searches = searching.Searches(world.parts)
    first = await searches.look("0", EventQuery(text="0"))
    for number in range(1, searching.SEARCHES_KEPT_MAX + 1):
        await searches.look(str(number), EventQuery(text=str(number)))
    assert (await searches.look("0", EventQuery(text="0"))) is not first

    async def shut(query: Any) -> Any:
        del query
        raise SpoolClosed("the spool is shut")

    world.replace(events=shut)
    assert (await searches.look("x", EventQuery(text="x"))).error == "the spool is shut"


async def test_a_filtered_list_is_counted(world: Any) -> None:
    """How many events the filters leave is said, also beyond the page; of a search within a part it is the part's."""
    for number in range(70):
        await world.arrive(user="anna", state=State.DEAD if number % 2 else State.DELIVERED, reason="r")
    assert "35 events" in (await world.get("/events?state=dead")).words
    assert "70 events" in (await world.get("/events?user=anna")).words
    assert (await world.api("/api/events?user_id=anna&limit=0"))["matched"] == 70


async def test_newer_and_older_pages_meet(world: Any) -> None:
    """From any page the newer and the older one are a click away, without gap or overlap, back to the live one."""
    sequences = [await world.arrive(user="same") for _ in range(120)]

    def link(text: str, rel: str) -> str:
        (path,) = re.findall(rf'href="(/events\?[^"]*)" rel="{rel}"', text)
        return str(path).replace("&amp;", "&")

    first = await world.page("/events?user=same")
    assert 'rel="prev"' not in first
    second = await world.page(link(first, "next"))
    third = await world.page(link(second, "next"))
    assert _listed(third) == sequences[:20][::-1]
    assert _listed(await world.page(link(third, "prev"))) == _listed(second)
    newest = await world.page(link(second, "prev"))
    assert _listed(newest) == _listed(first)
    assert _listed(await world.page(link(newest, "next"))) == _listed(second)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("status=503", [2]),
        ("status=5xx", [2]),
        ("status=none", [3]),
        ("status=200..299", [1]),
        ("attempts=1&state=delivered", [1]),
        ("attempts=2..", []),
        ("attempts=..0", [4]),
    ],
)
async def test_status_and_attempts_narrow(world: Any, query: str, left: list[int]) -> None:
    """By the status of the last answer, or that none came, and by the number of attempts; page and API alike."""
    for status, state in ((200, State.DELIVERED), (503, State.PENDING), (None, State.DEAD)):
        attempt = Attempt(at_ms=1, duration_ms=1, operation="o", status=status, outcome="x", reason="", answer=b"")
        await world.arrive(state=state, reason="r", attempt=attempt)
    await world.arrive()
    assert _listed(await world.page(f"/events?{query}")) == left
    found = (await world.api(f"/api/events?{query}"))["events"]
    assert [event["sequence"] for event in found] == left


async def test_a_period_is_a_click(world: Any) -> None:
    """The last quarter, hour, day or week: it stays live, and begins at a whole minute."""
    old = await world.arrive()
    world.clock.now_ms += 2_000_000
    new = await world.arrive()
    text = await world.page("/events?period=15m")
    assert _listed(text) == [new]
    assert " data-live>" in text
    assert '<option value="15m" selected>' in text
    assert _listed(await world.page("/events?period=1h")) == [new, old]
    await world.page("/events?period=2h", status=400)


async def test_what_is_exactly_named_is_opened(world: Any) -> None:
    """An id leads to its message, user, name or event at once; one of several is asked about; a part is searched."""
    sequence = await world.arrive(event="Order Completed", user="anna@example.com", message="m/1")
    assert (await world.get("/events?text=m/1")).location == "/messages/m%2F1"
    assert (await world.get("/events?text=anna@example.com")).location == "/events?user=anna@example.com"
    assert (await world.get("/events?text=Order%20Completed")).location == "/events?event=Order+Completed"
    assert (await world.get(f"/events?text={sequence}")).location == f"/events/{sequence}"
    for part in ("anna", "EXAMPLE.com", "order comp", "M/", "anna@example.com&everywhere=1"):
        assert _listed(await world.page(f"/events?text={part}")) == [sequence], part
    await world.arrive(user=str(sequence))
    text = await world.page(f"/events?text={sequence}")
    assert f'<a href="/events/{sequence}">Event ID {sequence}</a>, <a href="/events?user={sequence}">' in text
    assert "Also where it is a part of something" in await world.page("/events?user=anna@example.com")


async def test_all_that_is_listed_is_acted_on(world: Any) -> None:
    """Replay and discard take the list's own filters, ask with the count, and do all of it."""
    await world.put_many(60, State.DEAD, "r")
    other = await world.arrive(user="anna", state=State.DEAD, reason="r")
    page = await world.get("/events?state=dead&text=track")
    assert not (await world.get("/events?text=track")).forms("/events/replay")
    (fields,) = page.forms("/events/discard")
    assert fields == {"text": "track", "state": "dead"}
    asked = await world.post("/events/discard", fields)
    assert "60 events (text track, state dead) will be put aside" in asked.words
    assert (await world.finish(await world.post("/events/discard", fields | {"confirmed": "1"}))).status == 200
    assert Counter((await world.states()).values()) == {"dead*": 60, "dead": 1}
    done = await world.finish(await world.post("/events/replay", {"state": "dead", "user": "anna", "confirmed": "1"}))
    assert "1 of 1 events replayed" in done.words
    assert (await world.states())[other] == "pending"
    assert (await world.post("/events/discard", {"state": "delivered"})).status == 400


async def test_what_is_discarded_is_not_acted_on(world: Any) -> None:
    """An act on a list that also shows discarded events asks for the others alone, does them, and explains no gap."""
    await world.put_many(5, State.DEAD, "r")
    await world.spool.discard([1, 2])
    fields = {"state": "dead"}
    assert len(_listed(await world.page("/events?state=dead"))) == 5
    assert "Replay 3 events" in (await world.post("/events/replay", fields)).words
    done = await world.finish(await world.post("/events/discard", fields | {"confirmed": "1"}))
    assert "3 of 3 events discarded" in done.words
    assert "The others" not in done.words
    assert "Discard 0 events" in (await world.post("/events/discard", fields)).words


async def test_a_yes_is_for_the_events_that_were_asked_about(world: Any) -> None:
    """Neither the period, which goes on, nor what arrives between the question and the yes changes what is done."""
    await world.arrive(state=State.DEAD, reason="r")
    world.clock.now_ms += 840_000
    asked = await world.post("/events/discard", {"state": "dead", "period": "15m"})
    assert "1 events (state dead, period 15m)" in asked.words
    assert 'href="/events?state=dead&amp;period=15m">Cancel' in asked.html
    (fields,) = asked.forms("/events/discard")
    world.clock.now_ms += 120_000
    await world.arrive(state=State.DEAD, reason="r")
    assert "1 of 1 events discarded" in (await world.finish(await world.post("/events/discard", fields))).words
    assert await world.states() == {1: "dead*", 2: "dead"}


async def test_no_match_is_not_taken_for_no_event(world: Any) -> None:
    """A filter that finds nothing says that, and offers all events."""
    await world.arrive()
    text = await world.page("/events?user=nobody")
    assert "No event matches" in text
    assert "Show all events" in text


@pytest.mark.parametrize("query", ["state=wrong", "from=yesterday", "before=-1", "route=x", "text=" + "a" * 1_001])
async def test_an_impossible_filter_is_explained(world: Any, query: str) -> None:
    """What cannot be asked is a page with 400 that says what to write."""
    text = await world.page(f"/events?{query}", status=400)
    assert "That cannot be asked" in text


async def test_a_hostile_event_is_text(world: Any, replicas: int) -> None:
    """Names and ids of HTML, control and direction characters appear as text, made visible, in list and links."""
    nul, shown = ("\ufffd", "\ufffd") if replicas > 1 else ("\0", "⟨U+0000⟩")  # Postgres keeps no NUL
    kept = HOSTILE.replace("\0", nul)
    await world.arrive(event=HOSTILE, user=HOSTILE, message=HOSTILE, state=State.DEAD, reason=HOSTILE)
    text = await world.page("/events")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", text)
    assert f"⟨U+202E⟩{shown}⟨U+001B⟩[31m⟨U+2028⟩&amp;amp;" in text
    assert f"user={quote(kept, safe='')}" in text
    text = await world.page(f"/events?user={quote(HOSTILE)}")
    assert len(_listed(text)) == 1


async def test_a_shut_spool_is_a_page_too(world: Any) -> None:
    """While the spool cannot be read the page says so with 503."""

    async def shut(query: Any) -> Any:
        del query
        raise SpoolClosed("the spool is shut")

    world.replace(events=shut)
    assert "the spool is shut" in await world.page("/events", status=503)


async def test_what_the_filters_leave_is_exported_whole(world: Any) -> None:
    """As NDJSON with payloads and as CSV without, oldest first, however many; never as a formula."""
    for number in range(60):
        await world.arrive(user="anna" if number % 2 else "bob", event="=1+1", state=State.DEAD, reason="r")
    text = await world.page("/events?user=anna")
    assert "/events/export?user=anna" in text
    page = await world.get("/events/export?user=anna")
    events = [json.loads(line) for line in page.html.splitlines()]
    assert [event["sequence"] for event in events] == list(range(2, 61, 2))
    assert events[0]["payload"] == '{"number": 2}'
    page = await world.get("/events/export?user=anna&format=csv")
    rows = list(csv.DictReader(io.StringIO(page.html)))
    assert "text/csv" in page.headers["Content-Type"]
    assert 'filename="events.csv"' in page.headers["Content-Disposition"]
    assert len(rows) == 30
    assert {row["event"] for row in rows} == {"'=1+1"}
    assert (await world.get("/events/export?state=gone")).status == 400
