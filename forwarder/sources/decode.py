"""From one message to its envelopes. Pure.

A message is what `POST /events` takes (one object, an array, one object a line), or CloudEvents 1.0: structured, a
batch, or binary, whose attributes are headers (`ce-…`; in Kafka `ce_…`). It never fails: what is no JSON object is an
envelope, too, and the mapper will refuse it where people can see it.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from forwarder.courier import wire
from forwarder.ingress import elements
from forwarder.ingress.cutting import Steps, events_of
from forwarder.ingress.elements import NotJson, TooManyElements
from forwarder.model import Envelope
from forwarder.sources.port import Message

_ELEMENTS_PER_STEP = 200
_BINARY = ("ce-", "ce_")  # of HTTP, NATS and Redis; of Kafka
_MARK = b'"specversion"'


class _CloudEvent(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: str | None = None


class _Inner(msgspec.Struct):
    """What `/events` takes, as the data of a CloudEvent."""

    type: str
    data: dict[str, msgspec.Raw]
    id: Any = None


_decode_cloud_event = msgspec.json.Decoder(_CloudEvent).decode
_decode_inner = msgspec.json.Decoder(_Inner).decode
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(str).decode
_pass_over = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


def traceparent_of(message: Message) -> str:
    """Return the W3C trace context of a message, by its header or that of a CloudEvent; "" without one."""
    names = ("traceparent", *(f"{prefix}traceparent" for prefix in _BINARY))
    return next((message.headers[name] for name in names if name in message.headers), "")


def envelopes(message: Message, *, received_at_ms: int, source: str) -> Steps[list[Envelope]]:
    """Return what to store of a message, in steps, so that others get a turn in between; never nothing."""
    if (attributes := _attributes(message.headers)) is not None:
        data = message.body or b"null"  # an event need have no data
        try:
            _pass_over(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [_kept(data, received_at_ms, source)]  # no JSON: it is shown as it came
        return [_kept(_unwrapped(attributes, data), received_at_ms, source)]
    try:
        pieces, _, _ = yield from events_of(message.body)
    except (NotJson, TooManyElements):
        pieces = []
    found = []
    for number, raw in enumerate(pieces, 1):
        if number % _ELEMENTS_PER_STEP == 0:
            yield
        found.append(_element(raw, received_at_ms, source))
    return found or [_kept(message.body, received_at_ms, source)]


def _element(raw: bytes, received_at_ms: int, source: str) -> Envelope:
    if (usual := wire.usual(raw, received_at_ms=received_at_ms, source=source)) is not None:
        return usual
    read = elements.line(raw)
    payload = raw if read is None else read.payload
    if _MARK in payload:
        payload = _of_cloud_event(payload) or payload
    return _kept(payload, received_at_ms, source)


def _kept(payload: bytes, received_at_ms: int, source: str) -> Envelope:
    return wire.envelope(payload, received_at_ms=received_at_ms, source=source)


def _of_cloud_event(payload: bytes) -> bytes | None:
    """Return the event that a CloudEvent in JSON carries; None for what is none."""
    try:
        event = _decode_cloud_event(payload)
        data = bytes(event.data) if event.data_base64 is None else base64.b64decode(event.data_base64, validate=True)
        _pass_over(data)
        attributes = _decode_attributes(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error):
        return None
    return _unwrapped({name: value for name, value in attributes.items() if name not in ("data", "data_base64")}, data)


def _attributes(headers: Mapping[str, str]) -> dict[str, msgspec.Raw] | None:
    """Return the attributes of a CloudEvent in binary mode; None for what is none."""
    found = {}
    for name, value in headers.items():
        if name.startswith(_BINARY):
            # Where a header's name has a dash, its binding has the value percent-encoded.
            found[name[3:]] = msgspec.Raw(_encode(unquote(value) if name[2] == "-" else value))
    return found if found.keys() >= {"specversion", "id", "source", "type"} else None


def _unwrapped(attributes: Mapping[str, msgspec.Raw], data: bytes) -> bytes:
    """Return the event as `/events` takes it, the data in the bytes it came in.

    Data that is such an event itself is taken out. The CloudEvent's source and id together are unique by its
    specification: they are the sender's own id, unless the data brings one. What else it said stays beside it.
    """
    own_id = f"{_decode(attributes['source'])} {_decode(attributes['id'])}"  # a URI holds no blank
    try:
        inner = _decode_inner(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        event = {"id": own_id, "type": attributes["type"], "data": msgspec.Raw(data), "cloudevent": attributes}
        return _encode(event | ({"timestamp": attributes["time"]} if "time" in attributes else {}))
    brought: dict[str, Any] = {"cloudevent": attributes, **_decode_attributes(data)}
    return _encode(brought | {"id": own_id} if inner.id in (None, "") else brought)
