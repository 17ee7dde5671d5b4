"""Wrap one event of RudderStack or Segment for the spool: its key, its user, its labels.

Pure, and total over JSON objects: an event without ids, type or anything else that the gateway demands
is wrapped like any other and judged by the mapper. Deliberately absent: how a request is cut into
events, and what an event means.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from forwarder.model import Envelope, Labels, RouteName

_KEY_SIZE = 16
_LABEL_CHARACTERS_MAX = 256
_PARTITION_CHARACTERS_MAX = 256
# When an event happened, as the sender says; the others are stamped anew on every attempt.
_OWN_TIMES = ("timestamp", "originalTimestamp")
_STAMPED_IN_TRANSIT = frozenset({"sentAt", "receivedAt", "request_ip", "writeKey"})
# What the gateway takes out of ids beside Go's non-printables: fillers that count as letters or marks.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")

_canonical = msgspec.json.Encoder(order="deterministic")
_encoder = msgspec.json.Encoder()
_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw])


def envelope(
    event: Mapping[str, Any],
    payload: bytes,
    *,
    received_at_ms: int,
    source: str,
    unique: Callable[[], bytes],
) -> Envelope:
    """Wrap an event. `payload` is its own JSON, of which `event` is the decoded object.

    `unique` makes bytes that no other event has; it is asked only for an event that carries neither
    a messageId nor a time of its own, which can therefore be no resend of another.
    """
    try:
        key, partition_key = event_key(event, unique=unique), _partition_key(event)
    except RecursionError:  # what could just be decoded is too deep to be encoded
        return unreadable(payload, received_at_ms=received_at_ms, source=source)
    return Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER,
        event_key=key,
        partition_key=partition_key,
        received_at_ms=received_at_ms,
        payload=payload,
        source=source,
        labels=_labels(event),
    )


def unreadable(payload: bytes, *, received_at_ms: int, source: str) -> Envelope:
    """Wrap what is an object but cannot be read (too deep, a number out of range); the mapper will say so.

    Its key is made of its bytes: whatever a resend of it looks like, it is dead like the first copy.
    """
    return Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER,
        event_key=_digest(b"unreadable", payload),
        partition_key="",
        received_at_ms=received_at_ms,
        payload=payload,
        source=source,
    )


def event_key(event: Mapping[str, Any], *, unique: Callable[[], bytes]) -> bytes:
    """Return 16 bytes that a resend of this event shares with it, and no other event.

    A messageId alone does not do: a transformation inside RudderStack that splits one event into
    several leaves them all the same one.
    """
    context = event.get("context")
    if identifier := message_id(event):
        parts: Any = [
            identifier,
            *(
                event.get(name)
                for name in ("type", "event", "userId", "anonymousId", "groupId", "properties", "traits")
            ),
            context.get("traits") if isinstance(context, Mapping) else None,
        ]
        return _digest(b"id", _canonical.encode(parts))
    lasting = {name: value for name, value in event.items() if name not in _STAMPED_IN_TRANSIT}
    if not any(event.get(name) for name in _OWN_TIMES):
        return _digest(b"unique", unique())
    return _digest(b"content", _canonical.encode(lasting))


def message_id(event: Mapping[str, Any]) -> str:
    """Return the messageId as the gateway keeps it: a text without invisible characters and outer blanks.

    "" when it is missing, empty or no text; the gateway would then draw a random one.
    """
    value = event.get("messageId")
    return visible(value) if isinstance(value, str) else ""


def user_of(event: Mapping[str, Any]) -> str:
    """Return the userId, else the anonymousId, as it came (numbers and the like as text); "" without both."""
    return _first_id(event, "userId", "anonymousId")


def with_type(event: Mapping[str, Any], payload: bytes, kind: str) -> tuple[Mapping[str, Any], bytes]:
    """Return the event and its JSON with `type` set to `kind`, as `POST /v1/<kind>` does to whatever it gets.

    Every other byte stays, so that no number loses a digit.
    """
    if event.get("type") == kind:
        return event, payload
    rest = _shallow.decode(payload)
    rest.pop("type", None)
    return {**event, "type": kind}, _encoder.encode({"type": kind, **rest})


def visible(text: str) -> str:
    """Return the text without invisible characters and outer blanks: what the gateway sees of an id.

    rudder-go-kit `sanitize`: whatever Go calls non-printable (every blank but the ASCII space), and fillers.
    """
    if text.isascii() and text.isprintable():
        return text.strip(" ")
    return "".join(character for character in text if _is_visible(character)).strip(" ")


def number_text(value: float) -> str:
    """Return a number as an id: `1234.0` is the user `1234`, whoever writes it with a fraction that says nothing."""
    whole = int(value)
    return _encoder.encode(whole if whole == value else value).decode()


def _is_visible(character: str) -> bool:
    if character == " ":
        return True
    return unicodedata.category(character)[0] not in "CZ" and character not in _FILLERS


def _first_id(event: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if visible(text := _id_text(event.get(name))):
            return text
    return ""


def _id_text(value: Any) -> str:
    """Return an id as text; any JSON value but null is an id for the gateway, even 0, false and {}."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return number_text(value)
    return "" if value is None else _canonical.encode(value).decode()


def _partition_key(event: Mapping[str, Any]) -> str:
    key = _first_id(event, "userId", "anonymousId", "groupId")
    if len(key) <= _PARTITION_CHARACTERS_MAX:
        return key
    # The spool indexes it; an id of a megabyte must not go into an index.
    return "digest:" + _digest(b"partition", key.encode()).hex()


def _labels(event: Mapping[str, Any]) -> Labels:
    kind = _id_text(event.get("type"))
    name = _id_text(event.get("event"))
    return Labels(
        type=kind[:_LABEL_CHARACTERS_MAX],
        event=(name if kind.lower() == "track" and name else kind)[:_LABEL_CHARACTERS_MAX],
        message_id=_id_text(event.get("messageId"))[:_LABEL_CHARACTERS_MAX],
        user_id=user_of(event)[:_LABEL_CHARACTERS_MAX],
    )


def _digest(kind: bytes, content: bytes) -> bytes:
    # The kinds live in separate worlds: a messageId can never imitate the content of another event.
    return hashlib.blake2b(content, digest_size=_KEY_SIZE, person=kind).digest()
