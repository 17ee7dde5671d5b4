"""One event's page, its message's timeline and its replay, at the level of HTTP."""

import json
import re
import time
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any

import msgspec
import pytest

from forwarder.delivery.plan import Fate, Plan, PlannedCall, idempotency_key
from forwarder.errors import SpoolFull, Unmappable
from forwarder.mapping.outbound import OutboundMapping
from forwarder.model import (
    Attempt,
    Delivery,
    Envelope,
    Filtered,
    HttpRequest,
    Lease,
    Replay,
    RouteName,
    State,
    Unmapped,
)
from forwarder.operator.edits import store_edited
from forwarder.operator.explain import Explain, PastMappings, explainer
from forwarder.operator.pages.render import coloured
from forwarder.operator.readable import words_of
from forwarder.ports import Mapped
from stand_ins.spool_acts import stored

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
Start = Callable[..., Awaitable[Any]]
HOSTILE = '</pre><script>alert(1)</script>\u202e"onmouseover=x'


class SayingMapper:
    """Maps by what the payload says: `{"as": "filtered"}` and the like; else one call that repeats the payload."""

    def map(self, lease: Lease) -> Mapped:
        """Return what the payload asks for."""
        wanted = json.loads(lease.envelope.payload).get("as")
        if wanted == "filtered":
            return Filtered(reason="a rule says so")
        if wanted == "unmapped":
            return Unmapped(reason="nothing is linked")
        if wanted == "dead":
            raise Unmappable("no user")
        return (Delivery(sequence=lease.sequence, operation="POST /v1/batch", body=lease.envelope.payload),)


async def test_the_trace_of_an_event_is_told(start: Start) -> None:
    """Page and API name the trace to look for; of an event that was not traced the page says nothing."""
    world = await start()
    untraced = await world.arrive()
    envelope = Envelope(
        route=OUTBOUND,
        event_key=bytes(16),
        partition_key="",
        received_at_ms=world.clock.now_ms,
        payload=b"{}",
        trace=f"00-{7:032x}-{9:016x}-01",
    )
    await stored(world.spool, [envelope])
    traced = (await world.newest())[0]
    assert [(await world.api(f"/api/events/{one}"))["trace_id"] for one in (traced, untraced)] == [f"{7:032x}", ""]
    assert [f"{7:032x}" in await world.page(f"/events/{one}") for one in (traced, untraced)] == [True, False]
    assert "<dt>Trace</dt>" not in await world.page(f"/events/{untraced}")


async def test_what_arrived_what_is_sent_and_every_attempt(start: Start) -> None:
    """The page has the payload indented, what the mapping makes of it, and each attempt with its answer."""
    world = await start(explain={OUTBOUND: explainer(SayingMapper())})
    attempt = Attempt(
        at_ms=world.clock.now_ms,
        duration_ms=37,
        operation="POST /v1/batch",
        status=400,
        outcome="refused",
        reason="answered 400",
        answer=b'{"error":"<b>no</b>"}',
    )
    sequence = await world.arrive(b'{"a":{"b":1}}', state=State.DEAD, reason="answered 400", attempt=attempt)
    text = await world.page(f"/events/{sequence}")
    assert text.count("{\n  <b>&#34;a&#34;</b>: {\n    <b>&#34;b&#34;</b>: <u>1</u>\n  }\n}") == 2
    for words in (
        "Preview with current mapping",
        "refused",
        "400",
        "in 37 ms",
        "&lt;b&gt;no&lt;/b&gt;",
        "Message Sent",
    ):
        assert words in text
    assert 'href="/messages/m1"' in text
    assert 'href="/events?user=u1"' in text
    assert f'action="/events/{sequence}/replay"' in text


@pytest.mark.parametrize(
    ("wanted", "words"), [("filtered", "a rule says so"), ("unmapped", "nothing is linked"), ("dead", "no user")]
)
async def test_what_would_not_be_sent_says_why(start: Start, wanted: str, words: str) -> None:
    """Where the mapping sends nothing, the page says in which state the event would end and why."""
    world = await start(explain={OUTBOUND: explainer(SayingMapper())})
    sequence = await world.arrive(json.dumps({"as": wanted}).encode())
    text = await world.page(f"/events/{sequence}")
    assert "it would end" in text
    assert words in text
    assert f"state-{wanted}" in text


async def test_a_hostile_payload_is_text(start: Start) -> None:
    """HTML, quotes and direction characters in payload, names and reasons are shown, not obeyed."""
    world = await start(explain={OUTBOUND: explainer(SayingMapper())})
    payload = json.dumps({"x": HOSTILE}, ensure_ascii=False).encode()
    sequence = await world.arrive(
        payload, event=HOSTILE, user=HOSTILE, message=HOSTILE, state=State.DEAD, reason=HOSTILE
    )
    text = await world.page(f"/events/{sequence}")
    assert "alert(1)" in text
    assert "\u202e" not in text
    assert "⟨U+202E⟩" in text


async def test_times_in_a_payload_can_be_read(world: Any) -> None:
    """A number of milliseconds has its moment beside it, outside the text that is copied."""
    sequence = await world.arrive(b'{"sent": 1630512468691, "price": 1630512, "word": "1630512468691"}')
    text = await world.page(f"/events/{sequence}")
    assert '<u data-when="2021-09-01 16:07:48.691 UTC">1630512468691</u>' in text
    assert text.count("data-when") == 1


@pytest.mark.parametrize("payload", ['"', '"\\"', '"\\\n', "\\", '"a" ', "-"], ids=repr)
def test_colours_are_given_in_one_look(payload: str) -> None:
    """However strangers arrange quotes and backslashes, nothing is read twice: all of it is back, and at once."""
    written = payload * 8_000
    begun_s = time.process_time()
    assert unescape(re.sub("</?[bius]>", "", coloured(written))) == written
    assert time.process_time() - begun_s < 1


@pytest.mark.parametrize(
    "payload",
    [b"\xff\xfe\x00", b"", b"[" * 100_000, b'"\\ud800"', b'{"a":NaN}', b'{"t":"' + b"<x>" * 1_400_000 + b'"}'],
    ids=["no text", "nothing", "deep", "lone surrogate", "no JSON", "four megabytes"],
)
async def test_no_payload_breaks_the_page(start: Start, payload: bytes) -> None:
    """Whatever was stored is shown up to a bound, and all of it is a download away, as it was."""
    world = await start(explain={OUTBOUND: explainer(SayingMapper())} if payload.startswith(b'"') else {})
    world.parts.explain.clear()
    sequence = await world.arrive(payload)
    text = await world.page(f"/events/{sequence}")
    assert len(text) < 500_000
    assert ("Only the beginning is shown" in text) == (len(payload) > 65_536)
    async with world.http.get(f"/events/{sequence}/payload") as answer:
        assert await answer.read() == payload
        assert answer.headers["Content-Disposition"] == f'attachment; filename="event-{sequence}.json"'
        assert answer.content_type == "application/octet-stream"


async def test_a_large_payload_is_not_mapped_for_the_page(start: Start) -> None:
    """An event above a megabyte is not mapped just to be looked at, and the page says what to use instead."""
    world = await start(explain={OUTBOUND: explainer(SayingMapper())})
    sequence = await world.arrive(b'{"t":"' + b"x" * 1_100_000 + b'"}')
    assert "use forwarder map" in await world.page(f"/events/{sequence}")


async def test_an_inbound_event_shows_its_calls(world: Any) -> None:
    """The plan of an inbound event is listed with what was done, refused and is still to do."""
    plan = Plan(
        calls=[
            PlannedCall(operation="PUT /profiles/u1", group="profiles", fate=Fate.DONE),
            PlannedCall(
                operation="POST /lists", group="lists", fate=Fate.REFUSED, reason="answered 400", words="bad list"
            ),
            PlannedCall(operation="POST /automations/a/invoke", group="automations", is_unknown=True),
        ]
    )
    sequence = await world.arrive(route=INBOUND, progress=plan.encoded())
    text = await world.page(f"/events/{sequence}")
    for words in ("Calls to Courier", "PUT /profiles/u1", "done", "refused: answered 400 (bad list)", "unknown"):
        assert words in text


async def test_a_plan_of_another_version_is_left_out(world: Any) -> None:
    """Progress that cannot be read is not shown, and breaks nothing."""
    sequence = await world.arrive(route=INBOUND, progress=b"no plan")
    assert "Calls to Courier" not in await world.page(f"/events/{sequence}")


async def test_a_replay_asks_then_moves_and_is_written_down(world: Any) -> None:
    """The event becomes pending only after a yes; the audit log names it."""
    sequence = await world.arrive(state=State.DEAD, reason="x")
    path = f"/events/{sequence}/replay"
    async with world.http.post(path) as answer:
        assert f"Replay event {sequence}?" in await answer.text()
    assert (await world.spool.event(sequence)).row.state is State.DEAD
    async with world.http.post(path, data={"confirmed": "1"}) as answer:
        assert "Replayed: 1 event(s)" in await answer.text()
    assert (await world.spool.event(sequence)).row.state is State.PENDING
    assert (await world.spool.audit(limit=1))[0].action == "replay"


@pytest.mark.parametrize(
    ("route", "state", "words"),
    [
        (OUTBOUND, State.DELIVERED, "recognises a repetition"),
        (INBOUND, State.DEAD, "are not repeated"),
        (OUTBOUND, State.PENDING, "is pending already"),
    ],
)
async def test_a_replay_says_what_it_does(world: Any, route: RouteName, state: State, words: str) -> None:
    """The question says what happens to an event that was delivered, half done, or waits anyway."""
    sequence = await world.arrive(route=route, state=state, reason="r")
    async with world.http.post(f"/events/{sequence}/replay") as answer:
        assert words in await answer.text()


async def test_a_message_has_one_timeline(world: Any) -> None:
    """All events of a message, the first above, each with its distance from the first."""
    message = "m/1 ?&#"
    await world.arrive(event="Message Enqueued", message=message, state=State.FILTERED, reason="not wanted")
    world.clock.now_ms += 1_500
    await world.arrive(event="Message Sent", message=message, state=State.DELIVERED)
    await world.arrive(event="Of another", message="m2")
    listed = await world.page("/events")
    (path, *_) = re.findall(r'href="(/messages/m%2F[^"]*)"', listed)
    text = await world.page(path)
    assert text.index("Message Enqueued") < text.index("Message Sent")
    assert "+ 1.5 s" in text
    assert "Of another" not in text


async def test_how_a_message_fares_and_what_arrived_are_two_things(world: Any) -> None:
    """An undeliverable message whose event was delivered is not shown as delivered; channel, provider, template are."""
    entry = {"channel": {"key": "email:sendgrid"}, "provider": "sendgrid", "status": "UNDELIVERABLE"}
    data = {"id": "m1", "status": "UNDELIVERABLE", "notification": "T1", "reason": "BOUNCED", "providers": [entry]}
    world.clock.now_ms += 1_809_000
    payload = json.dumps({"type": "message:updated", "data": data}).encode()
    sequence = await world.arrive(payload, event="Message Undeliverable", state=State.DELIVERED)
    await world.arrive(event="Message Enqueued", state=State.FILTERED, reason="not wanted")
    words = (await world.get("/messages/m1")).words
    assert "At Courier Undeliverable : BOUNCED In RudderStack 1 of 2 events" in words
    assert "Channel email, by sendgrid Template T1" in words
    assert "In RudderStack: yes , 08:30:09" in words
    assert "In RudderStack: no , filtered" in words
    for path in ("/messages/m1", f"/events/{sequence}"):
        assert "✓ delivered" not in (await world.get(path)).words
    assert "Message Undeliverable In RudderStack: yes , 08:30:09" in (await world.get(f"/events/{sequence}")).words


async def test_the_destinations_own_words_come_first(world: Any) -> None:
    """What RudderStack said stands before our reason, at the head of the page and with the attempt."""
    answer = b"event is not a valid rudder event"
    attempt = Attempt(at_ms=1, duration_ms=1, operation="o", status=400, outcome="refused", reason="r", answer=answer)
    sequence = await world.arrive(state=State.DEAD, reason="400: not an object", attempt=attempt)
    words = (await world.get(f"/events/{sequence}")).words
    assert "“event is not a valid rudder event” said RudderStack. 400: not an object" in words
    (shown,) = (await world.api(f"/api/events/{sequence}"))["attempt_log"]
    assert shown["words"] == answer.decode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"type":"invalid","message":"no such list"}', "no such list"),
        (b'{"error":{"message":"a\\nb"}}', "a b"),
        (b'{"errors":[{"detail":"x"}]}', "x"),
        (b"<!doctype html><p>no", ""),
        (b'{"cut', '{"cut'),
        (b"null", ""),
        (b"\xff", "\ufffd"),
    ],
)
def test_words_are_found_in_an_answer(answer: bytes, words: str) -> None:
    """A JSON error's message, however it is wrapped; a page has none."""
    assert words_of(answer) == words


async def test_the_request_is_shown_without_secrets(start: Start) -> None:
    """Line and headers are those of the sink, the key hidden; an inbound call has the key that its retries have."""

    def request_of(one: Delivery) -> HttpRequest:
        headers = {"Authorization": "Bearer secret", "Idempotency-Key": one.idempotency_key}
        return HttpRequest(method="POST", url="https://c/x", headers=headers, body=one.body, timeout_s=1)

    world = await start(explain={INBOUND: explainer(SayingMapper(), request_of)})
    plan = Plan(calls=[PlannedCall(operation="POST /v1/batch", group="", suffix=3)])
    sequence = await world.arrive(route=INBOUND, progress=plan.encoded())
    text = await world.page(f"/events/{sequence}")
    key = idempotency_key((await world.spool.event(sequence)).event_key, plan.calls[0])
    assert f"POST https://c/x\nAuthorization: Bearer •••\nIdempotency-Key: {key}</pre>" in text
    assert "secret" not in text


async def _delivered(world: Any, mapping: str) -> int:
    attempt = Attempt(
        at_ms=1, duration_ms=1, operation="o", status=200, outcome="delivered", reason="", answer=b"", mapping=mapping
    )
    payload = b'{"type":"message:updated","data":{"id":"m1","status":"SENT","recipient":"u1"}}'
    sequence: int = await world.arrive(payload, state=State.DELIVERED, attempt=attempt)
    return sequence


def _explain_with(one: OutboundMapping) -> Explain:
    return explainer(one.mapper())


async def test_what_was_sent_is_made_again(start: Start) -> None:
    """By the mark that stands with its attempt: the same, another one with the difference, or that it is not known."""
    then = OutboundMapping(version="2", event_names="courier", events=("SENT",))
    today = msgspec.structs.replace(then, event_names="channel")
    older = msgspec.structs.replace(then, version="1")
    world = await start(explain={OUTBOUND: _explain_with(today)})
    for one in (older, then):
        await PastMappings.load(world.spool, one, _explain_with)
    past = await PastMappings.load(world.spool, today, _explain_with)
    for side in world.own.values():
        object.__setattr__(side.parts, "past", past)
    words = (await world.get(f"/events/{await _delivered(world, today.mark)}")).words
    assert "What was sent As the mapping was then and is now" in words
    page = await world.get(f"/events/{await _delivered(world, then.mark)}")
    assert "What was sent The mapping of today would send something else. The difference:" in page.words
    assert "<ins>+" in page.html
    assert re.search(r'"event"\s*:\s*"Message Sent"', page.words)
    words = (await world.get(f"/events/{await _delivered(world, older.mark)}")).words
    assert "Preview with current mapping Not known to be what was sent: that was made by version 1." in words
    for mark in ("", "gone"):
        words = (await world.get(f"/events/{await _delivered(world, mark)}")).words
        assert "Preview with current mapping Whether it was the same when it was sent is not known." in words


async def test_few_mappings_are_kept(world: Any) -> None:
    """The newest so many, whatever was there before, and a spool that cannot keep them stops nothing."""
    await world.spool.put("mappings", b"of another version")
    for number in range(60):
        mapping = OutboundMapping(version=str(number), event_names="courier", events=())
        for _ in range(2):
            await PastMappings.load(world.spool, mapping, _explain_with)
    kept = [one["version"] for one in json.loads(await world.spool.get("mappings"))]
    assert kept == [str(number) for number in range(10, 60)]

    async def full(*_: object) -> None:
        raise SpoolFull("no room", retry_after_s=1)

    world.replace(put=full)
    await PastMappings.load(world.spool, msgspec.structs.replace(mapping, version="60"), _explain_with)


@pytest.mark.parametrize(("body", "words"), [(b'{"a":1}', "What was sent"), (b'{"a":2}', "Not what was sent")])
async def test_an_inbound_call_that_has_changed_is_marked(start: Start, body: bytes, words: str) -> None:
    """A call keeps the digest of its body: one that today's links would not make so is marked."""
    world = await start(explain={INBOUND: explainer(SayingMapper())})
    plan = Plan(calls=[PlannedCall(operation="POST /v1/batch", group="g", body=body)])
    plan.calls[0].close(Fate.DONE)
    attempt = Attempt(at_ms=1, duration_ms=1, operation="o", status=200, outcome="delivered", reason="", answer=b"")
    sequence = await world.arrive(
        b'{"a":1}', route=INBOUND, state=State.DELIVERED, attempt=attempt, progress=plan.encoded()
    )
    page = await world.get(f"/events/{sequence}")
    assert words in page.words
    assert ("is not what it would be today" in page.words) is (words == "Not what was sent")


async def test_a_message_that_is_unknown_says_so(world: Any) -> None:
    """An unknown message is a page with 404 that says why it may be missing."""
    assert "No event of this message is known" in await world.page("/messages/none", status=404)


@pytest.mark.parametrize("path", ["/events/999999", "/events/999999/payload"])
async def test_an_event_that_is_unknown_is_a_page(world: Any, path: str) -> None:
    """An unknown event is a page with 404."""
    assert "Page not found" in await world.page(path, status=404)


async def test_an_impossible_number_is_a_page(world: Any) -> None:
    """A path that is no number is a page with 400."""
    await world.page("/events/abc", status=400)


async def test_a_payload_that_is_gone_is_told(world: Any) -> None:
    """Where the payload was purged the page says why, offers no replay, and the download is 404."""
    sequence = await world.arrive(state=State.DELIVERED)
    found = await world.spool.event(sequence)
    gone = type(found)(row=found.row, event_key=found.event_key, payload=None, progress=b"", attempts=())

    async def purged(_: int) -> Any:
        return gone

    world.replace(event=purged)
    text = await world.page(f"/events/{sequence}")
    assert "no longer kept" in text
    assert "/replay" not in text
    await world.page(f"/events/{sequence}/payload", status=404)


async def test_an_event_without_labels_has_a_page(world: Any) -> None:
    """An event without name, user and message still has a page and a line."""
    sequence = await world.arrive(event="", user="", message="", source="")
    assert "message:updated" in await world.page(f"/events/{sequence}")
    assert "message:updated" in await world.page("/events")


async def test_a_timeline_goes_by_the_events_own_times(world: Any) -> None:
    """Statuses that arrive in the wrong order are shown in the order in which they were reached, with both times."""

    async def told(event: str, **fields: object) -> None:
        payload = json.dumps({"type": "message:updated", "data": {"id": "m1", **fields}}).encode()
        await world.arrive(payload, event=event)

    now_ms = world.clock.now_ms
    await told("Message Delivered", status="DELIVERED", delivered=now_ms - 1_000)
    await told("Message Sent", status="SENT", sent=now_ms - 61_000)
    await world.arrive(b"no JSON", event="Message Unknown")
    text = await world.page("/messages/m1")
    names = re.findall(r"<strong>(Message \w+)</strong>", text)
    assert names == ["Message Sent", "Message Delivered", "Message Unknown"]
    assert "over 1 min 1 s" in text
    assert "1 min 1 s later" in text
    assert text.count("; arrived ") == 2
    beside = await world.page("/events/1")
    assert beside.index(">Message Sent</a>") < beside.index('<span class="muted">this one</span>')


async def test_a_timeline_shows_the_way_from_enqueued_to_clicked(world: Any) -> None:
    """Each station says when it was reached; what lies off the usual way stands beside it."""
    for status, at_ms in (("ENQUEUED", 1_630_512_466_000), ("SENT", 1_630_512_528_000), ("UNDELIVERABLE", None)):
        data = {"id": "m", "status": status, "recipient": "u"} | ({status.lower(): at_ms} if at_ms else {})
        await world.put({"type": "message:updated", "data": data}, State.DELIVERED)
    text = (await world.get("/messages/m")).words.partition("As a list")[2]
    assert "Enqueued 16:07:46 Sent 16:08:48 Delivered not seen Opened not seen Clicked not seen Undeliverable" in text


async def test_a_timeline_reads_no_large_payload(world: Any) -> None:
    """An event too large to be one of Courier's keeps its arrival as its time."""
    data = {"id": "m1", "status": "SENT", "sent": 1_000, "filling": "x" * 70_000}
    await world.arrive(json.dumps({"type": "message:updated", "data": data}).encode())
    assert "; arrived " not in await world.page("/messages/m1")


async def test_everything_again_is_offered_where_calls_were_made(world: Any) -> None:
    """An inbound event that made calls offers to make them again, warns first, and the log says it."""
    plan = Plan(calls=[PlannedCall(operation="POST /automations/x", group="automations", fate=Fate.DONE)])
    progress = msgspec.json.encode(plan)
    made = await world.arrive(route=INBOUND, state=State.DEAD, reason="refused", progress=progress)
    text = await world.page(f"/events/{made}")
    assert "Replay everything" in text
    assert "a second time" in text
    async with world.http.post(f"/events/{made}/replay", data={"everything": "1"}) as answer:
        asked = await answer.text()
        assert "a second time" in asked
        assert '<input type="hidden" name="everything" value="1">' in asked
    form = {"everything": "1", "confirmed": "1"}
    async with world.http.post(f"/events/{made}/replay", data=form, allow_redirects=False) as answer:
        assert answer.status == 303
    assert "with what was done before" in (await world.spool.audit(limit=1))[0].detail
    _, lease = await world.lease(INBOUND, made)
    assert lease.replay is Replay.EVERYTHING


@pytest.mark.parametrize(
    ("route", "state"),
    [(OUTBOUND, State.DELIVERED), (INBOUND, State.UNMAPPED), (INBOUND, State.PENDING)],
    ids=["outbound is recognised by its key", "made no call", "is not settled"],
)
async def test_everything_again_is_not_offered_elsewhere(world: Any, route: RouteName, state: State) -> None:
    """Where nothing would be repeated there is no second button, and its form replays as the first does."""
    sequence = await world.arrive(route=route, state=state, reason="r" if state is State.UNMAPPED else "")
    assert "Replay everything" not in await world.page(f"/events/{sequence}")
    async with world.http.post(f"/events/{sequence}/replay", data={"everything": "1"}) as answer:
        assert "a second time" not in await answer.text()


async def test_an_edited_copy_and_its_original_link_to_each_other(world: Any) -> None:
    """Whoever looks at one finds the other."""
    original = await world.arrive(b'{"a": 1}', state=State.DEAD, reason="r")
    await store_edited(world.acts, await world.spool.event(original), '{"a": 2}', who="somebody")
    copy = (await world.newest())[0]
    assert f'Replaced by an edited copy, <a href="/events/{copy}">' in await world.page(f"/events/{original}")
    assert f'An edited copy of <a href="/events/{original}">' in await world.page(f"/events/{copy}")
