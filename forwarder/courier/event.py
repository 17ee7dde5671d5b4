"""A webhook event of good form, and where in it the channel, the status and its time are found.

Strict about the envelope alone (`type`, `data`); every field inside `data` may be missing or
anything, and nothing is decided here about what becomes of the event.
"""

import re
from typing import Annotated, Any

import msgspec

from forwarder.courier import vocabulary
from forwarder.courier.json_text import decode, refuse_huge
from forwarder.errors import Unmappable
from forwarder.model import Summary
from forwarder.nesting import TOO_DEEP, is_too_deep


class _Parts(msgspec.Struct):
    """A webhook as far as it is read; `data` is decoded by itself, so that its bytes are at hand."""

    type: Any = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: Any = None


FORBIDDEN_KEY = "__proto__"
_FORBIDDEN = re.compile(FORBIDDEN_KEY.encode())  # its search is the quickest there is
_UNDERSCORE, _BACKSLASH = b"_\\"  # one byte is looked for quicker still

_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_value = msgspec.json.Decoder().decode


class CourierEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook event of good form. Every field of `data` but those that were checked may be anything."""

    type: str  # not empty
    data: dict[str, Any]
    status: str  # the message's, in upper case; "" when there is none or it is no text
    raw: msgspec.Raw | None = None  # `data` as it came, where it may be sent as it came
    timestamp: Any = None  # beside `type`: a sender of one's own may state the time there

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

        It is the one whose status equals the message's; of several the one that reached it last.
        Without any it is the last entry.
        """
        entries = self.providers
        if len(entries) == 1:
            return entries[0]
        if not entries:
            return {}
        matching = [entry for entry in entries if status_of(entry) == self.status]
        if len(matching) > 1:
            field = self.time_field
            return max(reversed(matching), key=lambda entry: _number(entry.get(field)))
        return matching[0] if matching else entries[-1]


_Ms = Annotated[int, msgspec.Meta(ge=vocabulary.TIME_MS_MIN, lt=vocabulary.TIME_MS_END)]
_Flat = dict[str, str | Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | bool | None]


class _Channel(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    key: str | None = None
    name: str | None = None
    template: str | None = None


class _Entry(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    provider: str | None = None
    status: str | None = None
    channel: _Channel | None = None
    sent: _Ms | None = None
    delivered: _Ms | None = None
    opened: _Ms | None = None
    clicked: _Ms | None = None
    error: str | None = None
    reference: _Flat | None = None


class UsualMessage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The `data` of a message as Courier documents it, and nothing else: no floats, no depth, times of this century."""

    status: str
    id: str | None = None
    enqueued: _Ms | None = None
    sent: _Ms | None = None
    delivered: _Ms | None = None
    opened: _Ms | None = None
    clicked: _Ms | None = None
    recipient: str | None = None
    recipientId: str | None = None  # noqa: N815  Courier's name
    event: str | None = None
    notification: str | None = None
    reason: str | None = None
    error: str | None = None
    providers: list[_Entry] = []


_decode_usual = msgspec.json.Decoder(UsualMessage).decode
_TYPE_FIRST, _TYPE_LAST = b'{"type":"message:updated","data":{', b'},"type":"message:updated"}'
_DATA_FIRST = b'{"data":{'
_TYPE_LENGTH = len(_TYPE_FIRST) - 1
_BRACE = ord("}")


def usual(payload: bytes) -> UsualMessage | None:
    """Return the usual message, whose `usual_data` may be sent as it came; None for all else.

    As every field of it was decoded, nothing hides in it that `read` would refuse or change.
    """
    raw = usual_data(payload)
    if not raw:
        return None
    try:
        message = _decode_usual(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    for entry in message.providers:
        if entry.reference is not None and FORBIDDEN_KEY in entry.reference:
            return None
    return message


def usual_data(payload: bytes) -> bytes:
    """Return the bytes of `data` of a usual message; b"" for what certainly is none."""
    if payload.startswith(_TYPE_FIRST) and payload[-1] == _BRACE:
        return payload[_TYPE_LENGTH:-1]
    if payload.startswith(_DATA_FIRST) and payload.endswith(_TYPE_LAST):
        return payload[len(_DATA_FIRST) - 1 : 1 - len(_TYPE_LAST)]
    return b""


def summary_of(message: UsualMessage) -> Summary | None:
    """Return what is told of a usual message that has a user, who is no address, and a time; None for all else."""
    user_id, other, status = message.recipientId or message.recipient, message.recipient, message.status
    if user_id is None or not is_plain_id(user_id):
        return None
    if other is not None and other != user_id and not is_plain_id(other):  # an address is told as a trait
        return None
    at_ms = getattr(message, vocabulary.TIME_FIELDS.get(status, ""), None)
    return None if at_ms is None else Summary(status, user_id, at_ms)


def is_plain_id(text: str) -> bool:
    """Tell whether a recipient is certainly an id that is sent as it came, and no address."""
    return text.isascii() and text.isprintable() and text.strip() != "" and "@" not in text and "+" not in text


def read(payload: bytes) -> CourierEvent:
    """Return the event; raises `Unmappable` for what is no `{"type": text, "data": object}`."""
    if is_too_deep(payload):  # before a decoder recurses
        raise Unmappable(TOO_DEEP)
    try:
        parts = _decode_parts(payload)
        data = _decode_value(parts.data)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # no JSON, or JSON that only the slow decoder takes
        return _read_slowly(payload)
    refuse_huge(data, payload)
    # Without an escaped letter no key is spelt in a way that its bytes do not show.
    is_escaped = _BACKSLASH in payload and b"\\u00" in payload
    raw = None if is_escaped or (_UNDERSCORE in payload and _FORBIDDEN.search(payload)) else parts.data
    return _event(parts.type, data, raw, parts.timestamp)


def _read_slowly(payload: bytes) -> CourierEvent:
    body = decode(payload)
    if not isinstance(body, dict):
        raise Unmappable("not a JSON object")
    return _event(body.get("type"), body.get("data"), None, body.get("timestamp"))


def _event(kind: Any, data: Any, raw: msgspec.Raw | None, timestamp: Any) -> CourierEvent:
    if not isinstance(kind, str) or not kind.strip():
        raise Unmappable("`type` is missing or not a text")
    if not isinstance(data, dict):
        raise Unmappable("`data` is missing or not an object")
    status = data.get("status")
    status = status.upper() if isinstance(status, str) else ""
    return CourierEvent(type=kind, data=data, raw=raw, status=status, timestamp=timestamp)


def status_of(fields: dict[str, Any]) -> str:
    """Return the `status` of a message or of a provider's entry in upper case, "" when it is no text."""
    status = fields.get("status")
    return status.upper() if isinstance(status, str) else ""


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


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0
