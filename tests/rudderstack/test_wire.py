"""One inbound event's envelope: which resends share a key, whose events stay in order, what survives to the byte."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import Envelope, RouteName
from forwarder.rudderstack import wire

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "rudderstack_events.json").read_text("utf-8"))
SINGLES = [case for case in CASES if isinstance(case["body"], dict) and "batch" not in case["body"]]

TRACK: dict[str, Any] = {
    "type": "track",
    "event": "Order Completed",
    "userId": "u1",
    "anonymousId": "a1",
    "messageId": "m1",
    "properties": {"total": 1},
    "context": {"traits": {"plan": "basic"}},
    "originalTimestamp": "2026-01-01T00:00:00.000Z",
    "sentAt": "2026-01-01T00:00:01.000Z",
}


class Unique:
    """Makes bytes that never repeat, and counts how often it was asked."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = count()
        self.asked = 0

    def __call__(self) -> bytes:
        """Return the next number."""
        self.asked += 1
        return next(self._numbers).to_bytes(16, "big")


def wrap(event: dict[str, Any], unique: Unique | None = None) -> Envelope:
    """Wrap an event as the endpoint does."""
    payload = json.dumps(event).encode()
    return wire.envelope(event, payload, received_at_ms=7, source="v1", unique=unique or Unique())


def key(event: dict[str, Any]) -> bytes:
    """Return the event's key."""
    return wrap(event).event_key


def without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the event without some of its fields."""
    return {name: value for name, value in event.items() if name not in names}


def test_every_sample_is_wrapped() -> None:
    """Whatever object RudderStack or Segment sends, it is wrapped, and its payload is untouched."""
    for case in SINGLES:
        payload = json.dumps(case["body"]).encode()
        envelope = wire.envelope(case["body"], payload, received_at_ms=7, source="segment", unique=Unique())
        wrapped = (envelope.route, len(envelope.event_key), envelope.payload, envelope.received_at_ms)
        assert wrapped == (RouteName.RUDDERSTACK_TO_COURIER, 16, payload, 7), case["name"]
        assert (envelope.source, envelope.recurrence) == ("segment", None), case["name"]


@pytest.mark.parametrize(
    "change",
    [
        {"messageId": "m2"},
        {"type": "identify"},
        {"event": "Order Refunded"},
        {"userId": "u2"},
        {"userId": None},
        {"anonymousId": "a2"},
        {"groupId": "g1"},
        {"properties": {"total": 2}},
        {"properties": {"total": "1"}},
        {"properties": {"total": 9007199254740993}},
        {"traits": {"plan": "basic"}},
        {"context": {"traits": {"plan": "pro"}}},
    ],
    ids=str,
)
def test_events_that_a_transformation_split_are_told_apart(change: dict[str, Any]) -> None:
    """Two events that share a messageId but differ in what they say have two keys."""
    assert key(TRACK) != key(TRACK | change)


@pytest.mark.parametrize(
    "change",
    [
        {"sentAt": "2026-01-01T09:00:00.000Z"},
        {"receivedAt": "2026-01-01T09:00:00.000Z"},
        {"request_ip": "203.0.113.9"},
        {"timestamp": "2026-01-01T09:00:00.000Z"},
        {"messageId": " m1\u200b "},
        {"context": {"traits": {"plan": "basic"}, "ip": "203.0.113.9"}},
        {"rudderId": "x"},
    ],
    ids=str,
)
def test_a_resend_shares_the_key(change: dict[str, Any]) -> None:
    """What is stamped anew on the way makes no new event of one that has a messageId."""
    assert key(TRACK) == key(TRACK | change)


def test_large_integers_count_to_the_last_digit() -> None:
    """Two properties that are the same double are two events all the same."""
    first, second = ({"order": 9007199254740992 + odd} for odd in (0, 1))
    assert key(TRACK | {"properties": first}) != key(TRACK | {"properties": second})
    first, second = ({"order": 2**80 + odd} for odd in (0, 1))
    assert key(TRACK | {"properties": first}) != key(TRACK | {"properties": second})


def test_the_order_of_keys_does_not_count() -> None:
    """A sender that writes the same object in another order sends the same event."""
    forth = {"properties": {"a": 1, "b": 2}}
    back = {"properties": {"b": 2, "a": 1}}
    assert key(TRACK | forth) == key(dict(reversed((TRACK | back).items())))


@pytest.mark.parametrize("identifier", [None, "", "  ", "\u200b", 12345, {"a": 1}, True], ids=repr)
def test_what_is_no_message_id_for_the_gateway_is_none_here(identifier: object) -> None:
    """Empty, invisible and non-text messageIds count as none: then the content makes the key."""
    event = TRACK | {"messageId": identifier}
    assert wire.message_id(event) == ""
    assert key(event) != key(event | {"originalTimestamp": "2026-01-02T00:00:00.000Z"})


def test_without_message_id_the_content_makes_the_key() -> None:
    """A resend is recognised by everything but what is stamped anew on every attempt."""
    event = without(TRACK, "messageId")
    unique = Unique()
    resend = event | {"sentAt": "later", "receivedAt": "later", "request_ip": "elsewhere"}
    assert wrap(event, unique).event_key == wrap(resend, unique).event_key
    assert unique.asked == 0
    assert key(event) != key(event | {"context": {}})


@pytest.mark.parametrize("times", [{}, {"timestamp": None}, {"originalTimestamp": ""}, {"receivedAt": "now"}], ids=str)
def test_without_message_id_and_time_an_event_is_always_new(times: dict[str, Any]) -> None:
    """Nothing tells a resend from a second occurrence, so none is ever suppressed."""
    event = without(TRACK, "messageId", "originalTimestamp") | times
    unique = Unique()
    assert wrap(event, unique).event_key != wrap(event, unique).event_key


@pytest.mark.parametrize(
    ("ids", "partition", "user"),
    [
        ({"userId": "u", "anonymousId": "a", "groupId": "g"}, "u", "u"),
        ({"userId": "", "anonymousId": "a", "groupId": "g"}, "a", "a"),
        ({"userId": None, "anonymousId": "a"}, "a", "a"),
        ({"userId": "\u200b \u00ad", "anonymousId": "a"}, "a", "a"),
        ({"groupId": "g"}, "g", ""),
        ({"userId": 48213307}, "48213307", "48213307"),
        ({"userId": 0, "anonymousId": "a"}, "0", "0"),
        ({"userId": False}, "false", "false"),
        ({"userId": {}}, "{}", "{}"),
        ({"userId": " u "}, " u ", " u "),
        ({"userId": "Jürgen 👩‍👧"}, "Jürgen 👩‍👧", "Jürgen 👩‍👧"),
        ({}, "", ""),
    ],
    ids=str,
)
def test_order_is_kept_per_user(ids: dict[str, Any], partition: str, user: str) -> None:
    """The first id that is not empty for the gateway decides with whose events this one stays in order."""
    envelope = wrap({"type": "track", "messageId": "m"} | ids)
    assert envelope.partition_key == partition
    assert envelope.labels.user_id == user


def test_a_huge_id_does_not_get_into_an_index() -> None:
    """A long id is replaced by its digest where it would be indexed, and cut where it is shown."""
    one, other = (wrap({"userId": "u" * 100_000 + end}) for end in "ab")
    assert one.partition_key != other.partition_key
    assert len(one.partition_key) < 64
    assert len(one.labels.user_id) == 256


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "track", "event": "Order"}, ("track", "Order")),
        ({"type": "TRACK", "event": "Order"}, ("TRACK", "Order")),
        ({"type": "track"}, ("track", "track")),
        ({"type": "identify", "event": "Order"}, ("identify", "identify")),
        ({"type": None, "event": 7}, ("", "")),
        ({"type": ["track"]}, ('["track"]', '["track"]')),
        ({"type": "track", "event": 7}, ("track", "7")),
    ],
    ids=str,
)
def test_labels_name_the_call(event: dict[str, Any], expected: tuple[str, str]) -> None:
    """People find a track call by its event's name, every other call by its type."""
    labels = wrap(event).labels
    assert (labels.type, labels.event) == expected


def test_the_door_decides_the_type() -> None:
    """`POST /v1/track` makes a track call of whatever it gets, and keeps every other byte."""
    payload = b'{"type":"identify", "big":123456789012345678901234567890, "f":1.10, "\xc3\xa9":"\\u00e9"}'
    event, changed = wire.with_type(json.loads(payload), payload, "track")
    assert event["type"] == "track"
    assert json.loads(changed) == json.loads(payload) | {"type": "track"}
    assert b"123456789012345678901234567890" in changed
    assert b"1.10" in changed
    assert b'"\\u00e9"' in changed


def test_a_type_that_is_right_changes_nothing() -> None:
    """An event that already has the endpoint's type keeps its bytes."""
    payload = b' {"type" : "track"}'
    assert wire.with_type({"type": "track"}, payload, "track") == ({"type": "track"}, payload)


def test_unreadable_events_are_known_by_their_bytes() -> None:
    """What cannot be read is wrapped, and a resend of the same bytes is a resend."""
    one = wire.unreadable(b"{[[[", received_at_ms=1, source="v1")
    again = wire.unreadable(b"{[[[", received_at_ms=2, source="v1")
    other = wire.unreadable(b"{[[", received_at_ms=1, source="v1")
    assert one.event_key == again.event_key != other.event_key
    assert (one.payload, one.partition_key, one.labels.type) == (b"{[[[", "", "")


def test_an_event_too_deep_to_be_hashed_is_unreadable() -> None:
    """An object that was just read but is too deep to be written again is wrapped all the same."""
    event: dict[str, Any] = {}
    for _ in range(100_000):
        event = {"properties": event}
    event["messageId"] = "m"
    envelope = wire.envelope(event, b"deep", received_at_ms=1, source="v1", unique=Unique())
    assert envelope.event_key == wire.unreadable(b"deep", received_at_ms=1, source="v1").event_key
    while event:  # Python itself would not get through it at once
        event = event.pop("properties", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("  blanks  ", "blanks"),
        ("\u00a0\t\r\nx\u2003", "x"),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
        ("\u2800\u3164\u115f\uffa0", ""),
        ("a b", "a b"),
        ("naïve", "naïve"),
    ],
    ids=ascii,
)
def test_visible_text(text: str, expected: str) -> None:
    """An id is empty when the gateway would find nothing visible in it."""
    assert wire.visible(text) == expected


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_EVENTS = st.dictionaries(
    st.sampled_from(["messageId", "type", "event", "userId", "anonymousId", "properties", "timestamp", "sentAt", "x"]),
    _JSON,
)


@settings(max_examples=150, deadline=None)
@given(event=_EVENTS, later=st.text(max_size=8))
def test_any_object_is_wrapped_and_its_resend_recognised(event: dict[str, Any], later: str) -> None:
    """Whatever the object, wrapping never fails; with a messageId or a time, `sentAt` never makes it new."""
    again = event | {"sentAt": later}
    if wire.message_id(event) or event.get("timestamp"):
        assert key(event) == key(again)
    else:
        unique = Unique()
        assert wrap(event, unique).event_key != wrap(again, unique).event_key
    assert wrap(event).partition_key or not any(
        wire.visible(str(event.get(n) or "")) for n in ("userId", "anonymousId")
    )


@pytest.mark.parametrize("written", [b"1234", b"1234.0", b"1.234e3", b'"1234"'])
def test_one_user_however_a_number_is_written(written: bytes) -> None:
    """A fraction that says nothing makes no other user: order, label and id are one."""
    payload = b'{"type":"track","event":"x","messageId":"m","userId":%b}' % written
    made = wire.envelope(json.loads(payload), payload, received_at_ms=0, source="v1", unique=lambda: b"")
    assert (made.partition_key, made.labels.user_id) == ("1234", "1234")
