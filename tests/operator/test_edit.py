"""Edit and replay: an edited copy becomes a new event, the old one is discarded."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.archive_port import EventDetail, EventQuery, EventRow
from forwarder.errors import SpoolFull, Unmappable
from forwarder.model import Delivery, Labels, Lease, RouteName, State
from forwarder.operator.edits import EDIT_BYTES_MAX, Edits, edited_envelope, edits_of
from forwarder.operator.explain import explainer
from forwarder.ports import Mapped
from stand_ins.spool_acts import leased

SENT = {"type": "message:updated", "data": {"id": "m1", "status": "SENT", "recipient": "u1"}}
TRACK = {"type": "track", "event": "E", "userId": "u1", "messageId": "x", "properties": {"n": 1}}


class Repeating:
    """Sends the payload as it is, but for what asks to be refused."""

    def map(self, lease: Lease) -> Mapped:
        """Repeat the payload."""
        if b"refuse" in lease.envelope.payload:
            raise Unmappable("no such thing")
        return (Delivery(sequence=lease.sequence, operation="track", body=lease.envelope.payload),)


async def _edit(desk: Any, sequence: int, typed: str) -> Any:
    """Look at what would be sent, then agree to it."""
    path = f"/dead-letters/{sequence}/edit"
    shown = await desk.post(path, {"payload": typed}, is_multipart=True)
    if shown.status != 200:
        return shown
    (fields,) = shown.forms(path)
    return await desk.post(path, {"payload": typed} | fields, is_multipart=True)


async def test_the_form_shows_the_payload(start: Any) -> None:
    """The text field holds the payload, indented, escaped, with no digit changed."""
    desk = await start()
    sequence = await desk.put(
        b'{"a": "</textarea><script>", "b": 1.0e5, "c": 12345678901234567890.10}', State.DEAD, "r"
    )
    page = await desk.get(f"/dead-letters/{sequence}/edit")
    assert page.status == 200
    assert "&lt;/textarea&gt;&lt;script&gt;" in page.html
    assert "1.0e5" in page.html
    assert "12345678901234567890.10" in page.html


@pytest.mark.parametrize("event", [SENT, TRACK], ids=["outbound", "inbound"])
async def test_an_edited_copy_is_a_new_event(start: Any, event: dict[str, Any]) -> None:
    """The copy is pending with a key and labels of its own and the same source; the original is discarded as it was."""
    desk = await start()
    sequence = await desk.put(event, State.DEAD, "r", inbound=event is TRACK)
    edited = json.loads(json.dumps(event).replace("u1", "u2"))
    page = await _edit(desk, sequence, json.dumps(edited, indent=2).replace("\n", "\r\n"))
    assert (page.status, page.location) == (303, "/events/2?did=edited&count=1")
    assert await desk.states() == {1: "dead*", 2: "pending"}
    old, new = await desk.spool.event(1), await desk.spool.event(2)
    assert json.loads(old.payload) == event
    assert json.loads(new.payload) == edited
    assert b"\n" not in new.payload
    assert new.event_key != old.event_key
    assert (new.row.source, new.row.labels.user_id) == (old.row.source, "u2")
    told = ("edit", "event 1 was replaced by event 2, an edited copy", 1, "stored, the original discarded")
    assert await desk.acts_told() == [told]


async def test_what_would_be_sent_is_seen_before_it_is(start: Any) -> None:
    """The first answer shows what the mapping makes of the edit and both differences; only what was seen is stored."""
    desk = await start(explain={RouteName.COURIER_TO_RUDDERSTACK: explainer(Repeating())})
    sequence = await desk.put(SENT, State.DEAD, "r")
    path = f"/dead-letters/{sequence}/edit"
    typed = json.dumps(SENT | {"edited": "<b>"})
    shown = await desk.post(path, {"payload": typed}, is_multipart=True)
    assert shown.status == 200
    assert "What would be sent 1 request" in shown.words
    assert shown.html.count("<ins>+  &#34;edited&#34;: &#34;&lt;b&gt;&#34;</ins>") == 2
    assert await desk.states() == {sequence: "dead"}
    (fields,) = shown.forms(path)
    other = await desk.post(path, {"payload": typed.replace("b", "i")} | fields, is_multipart=True)
    assert (other.status, "&lt;i&gt;" in other.html) == (200, True)
    assert await desk.states() == {sequence: "dead"}
    assert (await desk.post(path, {"payload": typed} | fields, is_multipart=True)).status == 303


async def test_an_edit_that_would_not_be_sent_says_so(start: Any) -> None:
    """Where the mapping refuses the edit, too, that is said before it is stored."""
    desk = await start(explain={RouteName.COURIER_TO_RUDDERSTACK: explainer(Repeating())})
    sequence = await desk.put(SENT, State.DEAD, "r")
    typed = json.dumps({"refuse": True})
    shown = await desk.post(f"/dead-letters/{sequence}/edit", {"payload": typed}, is_multipart=True)
    assert "Nothing: it would end" in shown.words
    assert "no such thing" in shown.words


async def test_an_edited_event_keeps_its_users_order(start: Any) -> None:
    """The copy of an inbound event is leased in the order of the user that it names now."""
    desk = await start()
    sequence = await desk.put(TRACK, State.DEAD, "r", inbound=True)
    await _edit(desk, sequence, json.dumps(TRACK | {"userId": "u9"}))
    (lease,) = await leased(desk.spool, RouteName.RUDDERSTACK_TO_COURIER, fresh=1, retry=1, size=1)
    assert lease.envelope.partition_key == "u9"


async def test_the_same_edit_twice_is_one_copy(start: Any) -> None:
    """A form that is sent again, as after a crash before the discard, stores no second copy."""
    desk = await start()
    sequence = await desk.put(SENT, State.DEAD, "r")
    discard = desk.spool.discard

    async def fail(_: object) -> int:
        raise SpoolFull("no room", retry_after_s=1)

    desk.replace(discard=fail)
    typed = json.dumps(SENT | {"edited": True})
    assert (await _edit(desk, sequence, typed)).status == 503
    desk.replace(discard=discard)
    assert (await _edit(desk, sequence, typed)).location == "/events/2?did=edited&count=1"
    assert await desk.states() == {1: "dead*", 2: "pending"}
    assert (await _edit(desk, sequence, typed)).status == 400, "it is discarded by now"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        pytest.param('{\r\n  "a": oops\r\n}', "This is no JSON: Expecting value at line 2, column 8", id="no JSON"),
        pytest.param('{"a": 1', "line 1, column 8", id="cut off"),
        pytest.param("[1]", "This is JSON, but no object", id="a list"),
        pytest.param("", "the body is empty", id="nothing"),
        pytest.param('{"a": NaN}', "NaN is no JSON value", id="NaN"),
        pytest.param(json.dumps(SENT, indent=4), "Nothing was changed", id="unchanged but for blanks"),
        pytest.param("{" + " " * EDIT_BYTES_MAX + "}", "longer than", id="too long"),
    ],
)
async def test_what_cannot_be_is_told_with_its_place(start: Any, typed: str, told: str) -> None:
    """A mistake is told beside the field, which keeps what was written; nothing changes."""
    desk = await start()
    sequence = await desk.put(SENT, State.DEAD, "r")
    page = await _edit(desk, sequence, typed)
    assert page.status == 400
    assert told in page.words
    assert 'aria-invalid="true"' in page.html
    assert await desk.states() == {sequence: "dead"}
    assert await desk.audits() == []


async def test_only_dead_events_are_edited(start: Any) -> None:
    """Events that are not dead, are discarded, too large or unknown have no form."""
    desk = await start()
    delivered = await desk.put(SENT, State.DELIVERED, "")
    huge = await desk.put({"x": "y" * EDIT_BYTES_MAX}, State.DEAD, "huge")
    discarded = await desk.put({"n": 1}, State.DEAD, "r")
    await desk.spool.discard([discarded])
    for sequence, status in ((delivered, 400), (huge, 400), (discarded, 400), (999, 404)):
        assert (await desk.get(f"/dead-letters/{sequence}/edit")).status == status
        assert (await _edit(desk, sequence, '{"a":1}')).status == status


async def test_a_payload_that_is_gone_is_not_edited(start: Any) -> None:
    """Without its payload an event cannot be edited, and the page says why."""
    desk = await start()
    sequence = await desk.put(SENT, State.DEAD, "r")
    found: EventDetail = await desk.spool.event(sequence)

    async def purged(_: int) -> EventDetail:
        return replace(found, payload=None)

    desk.replace(event=purged)
    page = await desk.get(f"/dead-letters/{sequence}/edit")
    assert page.status == 400
    assert "no payload any more" in page.words


async def test_odd_objects_are_stored_all_the_same(start: Any) -> None:
    """An edited object that is too deep, or holds a number no double can, is kept; the mapper will say so."""
    desk = await start()
    first = await desk.put(TRACK, State.DEAD, "r", inbound=True)
    deep = '{"a":' * 3_000 + "1" + "}" * 3_000
    assert (await _edit(desk, first, deep)).status == 303
    second = await desk.put(TRACK | {"messageId": "y"}, State.DEAD, "r", inbound=True)
    assert (await _edit(desk, second, '{"type":"track","n":1e999}')).status == 303
    assert sorted((await desk.states()).values()) == ["dead*", "dead*", "pending", "pending"]


async def test_original_and_copy_know_each_other(start: Any) -> None:
    """Which copy was made of which event is known of both; of others there is nothing."""
    desk = await start()
    first = await desk.put(SENT, State.DEAD, "r")
    assert (await _edit(desk, first, '{"type":"message:updated","data":{"a":1}}')).status == 303
    second = (await desk.spool.events(EventQuery(limit=1))).rows[0].sequence
    assert await edits_of(desk.spool, first) == Edits(copy=second)
    assert await edits_of(desk.spool, second) == Edits(original=first)
    await desk.acts.audit("somebody", "links", f"event {first} was replaced by event 99, an edited copy")
    assert await edits_of(desk.spool, 99) == Edits()


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8), max_size=4),
    st.sampled_from(RouteName),
)
def test_every_object_can_be_stored(changed: dict[str, Any], route: RouteName) -> None:
    """Any JSON object becomes an event of the same route, with a key that depends on old key and content alone."""
    found = _dead(route)
    wrapped = edited_envelope(found, json.dumps(changed, indent=3), now_ms=5)
    assert json.loads(wrapped.payload) == changed
    assert (wrapped.route, wrapped.source, wrapped.recurrence) == (route, "webhook", None)
    assert wrapped.event_key == edited_envelope(found, json.dumps(changed), now_ms=9).event_key
    assert wrapped.event_key != edited_envelope(replace(found, event_key=b"1"), json.dumps(changed), now_ms=5).event_key


def _dead(route: RouteName) -> EventDetail:
    row = EventRow(
        sequence=1,
        route=route,
        state=State.DEAD,
        labels=Labels(),
        source="webhook",
        received_at_ms=0,
        settled_at_ms=0,
        attempts=0,
        reason="r",
        not_before_ms=None,
        is_discarded=False,
        size_bytes=2,
    )
    return EventDetail(row=row, event_key=b"0", payload=b"{}", progress=b"", attempts=())
