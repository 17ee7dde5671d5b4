"""Read what Courier's webhook posts: JSON bytes to an envelope at the door, to a typed view for the mapper.

Nothing here decides what becomes of an event. The door takes whatever was signed, so `envelope`
never fails; `read` is strict and says why an event cannot be understood.

What decides whether bytes are JSON is one decoder, `decode`: msgspec (RFC 8259, exact integers, the
last of duplicate keys wins), and for the one thing it refuses although the grammar allows it, a
lone surrogate in an escape, Python's own, with the surrogate replaced by U+FFFD as RudderStack's
gateway does. NaN, Infinity, broken UTF-8 and numbers beyond a double are not taken.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import isinf
from typing import Any, NoReturn

import msgspec

from forwarder.courier import vocabulary
from forwarder.courier.keys import digest
from forwarder.errors import Unmappable
from forwarder.model import Envelope, Labels, Recurrence, RouteName

EVENTS = "events"  # the source whose senders may give an event an id of their own

# Courier's longest gap between two attempts is 15 minutes, its last attempt comes after a day.
RESEND_S = 1_200
RESEND_MAX_S = 93_600

_LABEL_CHARACTERS_MAX = 256
_fast_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def envelope(payload: bytes, *, received_at_ms: int, source: str) -> Envelope:
    """Wrap one event's bytes for the spool, with its key, its labels and how it may recur.

    Never raises, whatever the bytes are: what is no JSON object has the hash of its bytes for a key
    and empty labels, and the mapper will refuse it. With `source` "events" the sender's own
    top-level `id` makes the key.
    """
    try:
        return _envelope(payload, decode(payload), received_at_ms, source)
    except (Unmappable, RecursionError):  # the second: what could just be decoded is too deep to be hashed
        return _wrap(payload, digest("opaque", payload), received_at_ms, source)


def _envelope(payload: bytes, body: Any, received_at_ms: int, source: str) -> Envelope:
    if not isinstance(body, dict):
        return _wrap(payload, digest("opaque", payload), received_at_ms, source)
    kind = _text(body.get("type"))
    data = body.get("data")
    fields: dict[str, Any] = data if isinstance(data, dict) else {}
    key, recurrence = _identity(body, kind, fields, source)
    return _wrap(payload, key, received_at_ms, source, labels=_labels(kind, fields), recurrence=recurrence)


def decode(payload: bytes) -> Any:
    """Return the JSON value; raises `Unmappable` with what is wrong, never with a value out of it."""
    try:
        return _fast_decode(payload)
    except RecursionError:
        raise Unmappable("nested too deeply to be read") from None
    except UnicodeDecodeError:
        raise Unmappable("not UTF-8") from None
    except msgspec.MsgspecError:
        return _decode_slowly(payload)


def _decode_slowly(payload: bytes) -> Any:
    try:
        value = json.loads(payload.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise Unmappable("nested too deeply to be read") from None
    except UnicodeDecodeError:
        raise Unmappable("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unmappable(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # an integer of more than 4,300 digits
        raise Unmappable("a number is out of range") from None
    return _without_surrogates(value)


def _refuse_constant(name: str) -> NoReturn:
    raise Unmappable(f"not JSON: {name} is no JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise Unmappable("a number is out of range")
    return number


def _without_surrogates(value: Any) -> Any:
    # Depth is bounded by what the decoder before took.
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CourierEvent:
    """One webhook event of good form. Every field of `data` but those that were checked may be anything."""

    type: str  # not empty
    data: dict[str, Any]
    body: dict[str, Any]  # the whole webhook, `type` and `data` included

    @property
    def status(self) -> str:
        """The message's status as Courier wrote it; "" when there is none or it is no text."""
        status = self.data.get("status")
        return status if isinstance(status, str) else ""

    @property
    def providers(self) -> list[dict[str, Any]]:
        """The provider entries that are objects, oldest first; empty when there are none."""
        return provider_entries(self.data)

    @property
    def time_field(self) -> str:
        """The field that says when the status was reached (`delivered`); "" for a status that has none."""
        return vocabulary.TIME_FIELDS.get(self.status, "")

    def deciding_provider(self) -> dict[str, Any]:
        """Return the entry this status came from; empty when there are no entries.

        It is the one whose status equals the message's; of several the one with the message's own
        time, else the newest. Without any it is the last entry.
        """
        entries = self.providers
        if not entries:
            return {}
        matching = [entry for entry in entries if entry.get("status") == self.data.get("status")]
        if len(matching) > 1 and (field := self.time_field):
            time = self.data.get(field)
            matching = [entry for entry in matching if entry.get(field) == time] or matching
        return matching[-1] if matching else entries[-1]


def read(payload: bytes) -> CourierEvent:
    """Return the event; raises `Unmappable` for what is no `{"type": text, "data": object}`."""
    body = decode(payload)
    if not isinstance(body, dict):
        raise Unmappable("not a JSON object")
    kind = body.get("type")
    if not isinstance(kind, str) or not kind.strip():
        raise Unmappable("`type` is missing or not a text")
    data = body.get("data")
    if not isinstance(data, dict):
        raise Unmappable("`data` is missing or not an object")
    return CourierEvent(type=kind, data=data, body=body)


def provider_entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return those of `data.providers` that are objects."""
    entries = data.get("providers")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def channel_of(entry: dict[str, Any]) -> str:
    """Return a provider entry's channel: its key before the first colon, else what its provider serves, else ""."""
    key = channel_key(entry)
    if key:
        return key.partition(":")[0].strip().lower()
    provider = entry.get("provider")
    return vocabulary.CHANNEL_OF_PROVIDER.get(provider, "") if isinstance(provider, str) else ""


def channel_key(entry: dict[str, Any]) -> str:
    """Return the entry's `channel.key` (`direct_message:slack`), "" when it has none."""
    channel = entry.get("channel")
    key = channel.get("key") if isinstance(channel, dict) else channel
    return key if isinstance(key, str) else ""


def event_name(kind: str, status: str) -> str:
    """Return what people call the event: `Message Sent`, `Audience User Matched`, else its type."""
    if kind == vocabulary.MESSAGE_UPDATED and status:
        return vocabulary.MESSAGE_NAMES.get(status) or vocabulary.message_name(status)
    return vocabulary.TYPE_NAMES.get(kind, kind)


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
        labels=labels or Labels(),
        recurrence=recurrence,
    )


def _identity(
    body: dict[str, Any],
    kind: str,
    fields: dict[str, Any],
    source: str,
) -> tuple[bytes, Recurrence | None]:
    if source == EVENTS and (own_id := _id(body.get("id"))) is not None:
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
    status = fields.get("status")
    name = vocabulary.TIME_FIELDS.get(status) if isinstance(status, str) else None
    time = fields.get(name) if name else None
    # One page of Courier's documentation shows this field instead of the status' own.
    return fields.get("timestamp") if time is None else time


def _pairs(fields: dict[str, Any]) -> list[str]:
    entries = fields.get("providers")
    if not isinstance(entries, list):
        return [_canonical_text(entries)]
    return sorted({_pair(entry) for entry in entries})


def _pair(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _canonical_text(entry)
    provider = entry.get("provider")
    return _canonical_text([channel_key(entry) if provider is None else provider, entry.get("status")])


def _canonical_text(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _labels(kind: str, fields: dict[str, Any]) -> Labels:
    status = fields.get("status")
    user = _text(fields.get("recipientId")) or _text(fields.get("recipient")) or _text(fields.get("user_id"))
    return Labels(
        type=kind[:_LABEL_CHARACTERS_MAX],
        event=event_name(kind, status if isinstance(status, str) else "")[:_LABEL_CHARACTERS_MAX],
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
