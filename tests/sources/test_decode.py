"""What becomes of a message: the same as `POST /events` makes of it, and of CloudEvents what they carry."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.courier import wire
from forwarder.courier.event import read
from forwarder.ingress.cutting import at_once
from forwarder.model import Envelope
from forwarder.sources.decode import envelopes
from forwarder.sources.port import Message

_STEP = {"type": "workflow:step", "id": "s1", "data": {"user_id": "u1", "big": 12345678901234567890}}
_WEBHOOK = {"type": "message:updated", "data": {"id": "m1", "status": "SENT", "sent": 1_700_000_000_000}}
_ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order:paid", "time": "2026-11-29T05:00:00Z"}


def _found(body: bytes, headers: dict[str, str] | None = None) -> list[Envelope]:
    return at_once(envelopes(Message(body, headers or {}, None), received_at_ms=5, source="nats"))


def _one(body: Any, headers: dict[str, str] | None = None) -> Envelope:
    (found,) = _found(body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
    return found


def _keys(found: list[Envelope]) -> list[bytes]:
    return [one.event_key for one in found]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([_STEP, _WEBHOOK]).encode(),
        json.dumps(_STEP).encode() + b"\n" + json.dumps(_WEBHOOK).encode() + b"\n",
    ],
    ids=["an array", "one a line"],
)
def test_a_message_holds_what_events_takes(body: bytes) -> None:
    """An array and lines are cut into their events, each in its sender's own bytes."""
    found = _found(body)

    assert [json.loads(one.payload) for one in found] == [_STEP, _WEBHOOK]
    assert [one.source for one in found] == ["nats", "nats"]


@pytest.mark.parametrize("event", [_STEP, _WEBHOOK, {**_WEBHOOK, "id": "own"}], ids=["a step", "usual", "own id"])
def test_the_same_event_has_one_key_however_it_comes(event: dict[str, Any]) -> None:
    """What comes by the bus and by `POST /events` is one event."""
    payload = json.dumps(event).encode()

    assert _one(payload).event_key == wire.envelope(payload, received_at_ms=9, source="events").event_key


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"not json", b'"text"', b"[]", b"{", b'{"type":"a"} x'])
def test_what_is_no_object_is_kept_as_it_came(body: bytes) -> None:
    """Nothing is dropped: the mapper will refuse it, where people can see it."""
    assert _one(body).payload == body


def test_a_bad_element_does_not_spoil_its_neighbours() -> None:
    """Each element is judged alone, and the bad ones are kept beside the good."""
    found = _found(b'[{"type":"a:b","data":{}}, 7]')

    assert [one.payload for one in found] == [b'{"type":"a:b","data":{}}', b"7"]


def test_a_structured_cloud_event_is_taken_out() -> None:
    """Its type, data and time become the event's; source and id together its sender's own id; numbers keep digits."""
    found = _one(json.dumps({**_ATTRIBUTES, "data": _STEP["data"], "subject": "x"}).encode())

    event = read(found.payload)
    assert (event.type, event.data["user_id"], event.timestamp) == ("order:paid", "u1", _ATTRIBUTES["time"])
    assert b"12345678901234567890" in found.payload
    assert json.loads(found.payload)["cloudevent"] == {**_ATTRIBUTES, "subject": "x"}
    assert found.labels.user_id == "u1"


def test_data_that_is_an_event_of_ours_is_the_event() -> None:
    """A webhook's envelope as the data of a CloudEvent is what `/events` takes, with its own type."""
    event = read(_one({**_ATTRIBUTES, "data": _WEBHOOK}).payload)

    assert (event.type, event.status, event.data["id"]) == ("message:updated", "SENT", "m1")


def test_the_datas_own_id_wins() -> None:
    """An event that brings an id keeps it, whoever wraps it."""
    assert _one({**_ATTRIBUTES, "data": _STEP}).event_key == _one(_STEP).event_key


@pytest.mark.parametrize("id_", [None, ""])
def test_data_whose_id_says_nothing_has_the_cloud_events(id_: str | None) -> None:
    """Two CloudEvents with equal data are two events."""
    step = {**_STEP, "id": id_}
    one, other = _one({**_ATTRIBUTES, "data": step}), _one({**_ATTRIBUTES, "id": "8", "data": step})

    assert one.event_key != other.event_key
    assert b"12345678901234567890" in one.payload


def test_a_batch_holds_cloud_events() -> None:
    """Each element of the batch is one event; two ids are two events."""
    found = _found(json.dumps([{**_ATTRIBUTES, "data": {}}, {**_ATTRIBUTES, "id": "8", "data": {}}]).encode())

    assert len(set(_keys(found))) == 2
    assert [read(one.payload).type for one in found] == ["order:paid"] * 2


def test_data_in_base64_is_unpacked() -> None:
    """JSON that a sender packed as bytes is the data."""
    packed = base64.b64encode(b'{"user_id":"u1"}').decode()

    assert read(_one({**_ATTRIBUTES, "data_base64": packed}).payload).data == {"user_id": "u1"}


@pytest.mark.parametrize("prefix", ["ce-", "ce_"])
def test_binary_mode_is_the_same_event(prefix: str) -> None:
    """Attributes as headers and data as the body make the event that the structured mode makes."""
    headers = {f"{prefix}{name}": value for name, value in _ATTRIBUTES.items()}

    binary = _one({"user_id": "u1"}, headers)

    structured = _one({**_ATTRIBUTES, "data": {"user_id": "u1"}})
    assert binary.event_key == structured.event_key
    assert json.loads(binary.payload) == json.loads(structured.payload)


def test_header_values_are_percent_decoded_where_the_binding_says_so() -> None:
    """In NATS and HTTP they are encoded, in Kafka they are not."""
    attributes = {**_ATTRIBUTES, "id": "a%20b"}

    dashed = _one({}, {f"ce-{name}": value for name, value in attributes.items()})
    scored = _one({}, {f"ce_{name}": value for name, value in attributes.items()})

    assert json.loads(dashed.payload)["id"] == "/shop a b"
    assert json.loads(scored.payload)["id"] == "/shop a%20b"


def test_binary_data_that_is_no_json_is_kept() -> None:
    """It ends dead, in the bytes it came in."""
    headers = {f"ce-{name}": value for name, value in _ATTRIBUTES.items()}

    assert _one(b"\x00\x01", headers).payload == b"\x00\x01"


def test_two_in_binary_mode_without_data_are_two_events() -> None:
    """Nothing of them is lost: what they are called stands in their headers."""
    headers = {f"ce-{name}": value for name, value in _ATTRIBUTES.items()}

    one, other = _one(b"", headers), _one(b"", {**headers, "ce-id": "8"})

    assert one.event_key != other.event_key
    assert one.event_key == _one(_ATTRIBUTES).event_key


@pytest.mark.parametrize("left_out", ["specversion", "id", "source", "type"])
def test_what_lacks_an_attribute_is_no_cloud_event(left_out: str) -> None:
    """It is judged as any other object."""
    body: dict[str, Any] = {name: value for name, value in _ATTRIBUTES.items() if name != left_out}
    body["data"] = {}

    assert json.loads(_one(body).payload) == body


_HEADERS = st.dictionaries(st.sampled_from([f"ce-{name}" for name in _ATTRIBUTES]), st.text(), min_size=4)


@given(st.binary(max_size=200) | st.sampled_from([b"{}", json.dumps(_STEP).encode()]), st.just({}) | _HEADERS)
def test_it_never_fails_and_never_returns_nothing(body: bytes, headers: dict[str, str]) -> None:
    """Whatever the bytes and headers are, something is kept."""
    assert _found(body, headers)
