"""From the bytes of one webhook event to its envelope: key, labels, and how it may recur.

Nothing here decides what becomes of an event. The endpoint takes whatever was signed, so `envelope`
never fails; what cannot be understood is refused later, by the mapper, where people can see it.
"""

from hashlib import blake2b
from typing import Any, Literal

import msgspec

from forwarder.courier import event, vocabulary
from forwarder.courier.event import UsualMessage, channel_key, status_of
from forwarder.courier.json_text import decode, is_plain
from forwarder.errors import Unmappable
from forwarder.model import Envelope, Labels, Recurrence, RouteName

# The sources whose senders may give an event an id of their own: those of internal events.
OWN_IDS = frozenset({"events", "nats", "kafka", "redis"})

# Courier's longest gap between two attempts is 15 minutes, its last attempt comes after a day.
RESEND_S = 1_200
RESEND_MAX_S = 93_600

DIGEST_SIZE = 16
_LABEL_CHARACTERS_MAX = 256
_NO_LABELS = Labels()
_ROUTE = RouteName.COURIER_TO_RUDDERSTACK
_encode = msgspec.json.Encoder(order="deterministic").encode


def envelope(payload: bytes, *, received_at_ms: int, source: str) -> Envelope:
    """Wrap one event's bytes for the spool, with its key, its labels and how it may recur.

    Never raises, whatever the bytes are: what is no JSON object has the hash of its bytes for a key
    and empty labels, and the mapper will refuse it. With a `source` of `OWN_IDS` the sender's
    own top-level `id` makes the key.
    """
    try:
        return usual(payload, received_at_ms=received_at_ms, source=source) or _envelope(
            payload, decode(payload), received_at_ms, source
        )
    except (Unmappable, RecursionError):  # the second: what could just be decoded is too deep to be hashed
        return _wrap(payload, digest_of_bytes(payload), received_at_ms, source)


class _Entry(msgspec.Struct, gc=False):
    provider: Any = None
    channel: Any = None
    status: Any = None


class _Message(msgspec.Struct, gc=False):
    id: str
    status: str
    providers: list[_Entry] = []
    recipientId: Any = None  # noqa: N815  Courier's name
    recipient: Any = None
    user_id: Any = None
    timestamp: Any = None
    enqueued: Any = None
    sent: Any = None
    delivered: Any = None
    opened: Any = None
    clicked: Any = None


class _Webhook(msgspec.Struct, gc=False):
    type: Literal["message:updated"]
    data: _Message
    id: Any = None


_decode_nearly_usual = msgspec.json.Decoder(_Webhook).decode


def usual(payload: bytes, *, received_at_ms: int, source: str) -> Envelope | None:
    """Wrap a message of which the key and the labels can be told without all of it; None for all else.

    The same as `envelope` makes of it, at a third of the cost.
    """
    message: UsualMessage | _Message | None = event.usual(payload)
    if message is None and (message := _nearly_usual(payload, source)) is None:
        return None
    message_id, status = message.id, message.status
    if not message_id:
        return None
    upper = status.upper()
    field = vocabulary.TIME_FIELDS.get(upper)
    time = getattr(message, field) if field else None
    user = message.recipientId
    if not user or type(user) is not str:
        user = _text(user) or _text(message.recipient)
    summary = None
    if isinstance(message, _Message):
        time = message.timestamp if time is None else time
        user = user or _text(message.user_id)
    else:
        summary = event.summary_of(message)
    pairs = [
        _encode([entry.provider, entry.status]).decode() for entry in message.providers if entry.provider is not None
    ]
    if len(pairs) != len(message.providers):
        return None
    if len(pairs) > 1:
        pairs = sorted(set(pairs))
    return Envelope(
        route=_ROUTE,
        event_key=digest("message", vocabulary.MESSAGE_UPDATED, message_id, status, time, pairs),
        partition_key="",
        received_at_ms=received_at_ms,
        payload=payload,
        source=source,
        labels=Labels(
            type=vocabulary.MESSAGE_UPDATED,
            event=event.event_name(vocabulary.MESSAGE_UPDATED, upper)[:_LABEL_CHARACTERS_MAX],
            message_id=message_id[:_LABEL_CHARACTERS_MAX],
            user_id=user[:_LABEL_CHARACTERS_MAX],
        ),
        summary=summary,
    )


def _nearly_usual(payload: bytes, source: str) -> _Message | None:
    """Return a message of which only what the key and the labels need is decoded; it may hold anything beside that."""
    try:
        webhook = _decode_nearly_usual(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    has_own_id = webhook.id is not None and source in OWN_IDS
    return None if has_own_id or not is_plain(payload) else webhook.data


def _envelope(payload: bytes, body: Any, received_at_ms: int, source: str) -> Envelope:
    if not isinstance(body, dict):
        return _wrap(payload, digest_of_bytes(payload), received_at_ms, source)
    kind = _text(body.get("type"))
    data = body.get("data")
    fields: dict[str, Any] = data if isinstance(data, dict) else {}
    key, recurrence = _identity(body, kind, fields, source)
    return _wrap(payload, key, received_at_ms, source, labels=_labels(kind, fields), recurrence=recurrence)


def _wrap(
    payload: bytes,
    key: bytes,
    received_at_ms: int,
    source: str,
    *,
    labels: Labels | None = None,
    recurrence: Recurrence | None = None,
) -> Envelope:
    return Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK,
        event_key=key,
        partition_key="",  # outbound events carry their own time, and Courier sends them in no order
        received_at_ms=received_at_ms,
        payload=payload,
        source=source,
        labels=labels or _NO_LABELS,
        recurrence=recurrence,
    )


def _identity(
    body: dict[str, Any],
    kind: str,
    fields: dict[str, Any],
    source: str,
) -> tuple[bytes, Recurrence | None]:
    if source in OWN_IDS and (own_id := _id(body.get("id"))) is not None:
        return digest("own", own_id, kind, fields.get("status")), None
    if kind == vocabulary.MESSAGE_UPDATED and (message_id := _id(fields.get("id"))) is not None:
        return digest("message", kind, message_id, fields.get("status"), _own_time(fields), _pairs(fields)), None
    if not kind or body.get("data") is not fields:
        return digest("opaque", body), None  # malformed: what is missing and what is null differ
    key = digest("data", body["type"], fields)
    if kind == vocabulary.AUDIENCES_CALCULATED:
        return key, Recurrence(resend_s=RESEND_S, resend_max_s=RESEND_MAX_S, subject=None, side="")
    if kind.startswith(vocabulary.AUDIENCES_USER_FAMILY):
        audience, user = _id(fields.get("audience_id")), _id(fields.get("user_id"))
        subject = None if audience is None or user is None else digest("audiences:user", audience, user)
        return key, Recurrence(resend_s=RESEND_S, resend_max_s=RESEND_MAX_S, subject=subject, side=kind)
    return key, None


def _own_time(fields: dict[str, Any]) -> Any:
    name = vocabulary.TIME_FIELDS.get(status_of(fields))
    time = fields.get(name) if name else None
    # One page of Courier's documentation shows this field instead of the status' own.
    return fields.get("timestamp") if time is None else time


def _pairs(fields: dict[str, Any]) -> list[str]:
    entries = fields.get("providers")
    if entries is None:
        return []
    if not isinstance(entries, list):
        return [_canonical_text(entries)]
    return sorted({_pair(entry) for entry in entries})


def _pair(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _canonical_text(entry)
    provider = entry.get("provider")
    return _canonical_text([channel_key(entry) if provider is None else provider, entry.get("status")])


def _canonical_text(value: Any) -> str:
    return _encode(value).decode()


def _labels(kind: str, fields: dict[str, Any]) -> Labels:
    user = _text(fields.get("recipientId")) or _text(fields.get("recipient")) or _text(fields.get("user_id"))
    return Labels(
        type=kind[:_LABEL_CHARACTERS_MAX],
        event=event.event_name(kind, status_of(fields))[:_LABEL_CHARACTERS_MAX],
        message_id=_text(fields.get("id"))[:_LABEL_CHARACTERS_MAX],
        user_id=user[:_LABEL_CHARACTERS_MAX],
    )


def _id(value: Any) -> str | int | float | None:
    """Return what can serve as an id: text that is not empty, or a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return None if value == "" else value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def digest(*parts: Any) -> bytes:
    """Return 16 bytes that depend on every part, its type and its place.

    A part is any decoded JSON value. Objects count without regard to the order of their keys; `1`,
    `1.0` and `"1"` are three different values, and integers of any size stay exact. JSON's own
    quotes and commas keep the parts apart: `("ab", "c")` is not `("a", "bc")`.
    """
    return blake2b(_encode(parts), digest_size=DIGEST_SIZE).digest()


def digest_of_bytes(content: bytes) -> bytes:
    """Return 16 bytes for content that is no JSON; they are never those of `digest`."""
    return blake2b(content, digest_size=DIGEST_SIZE, person=b"opaque").digest()
