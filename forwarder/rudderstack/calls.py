"""Track calls in the shape that rudder-sdk-python gives them, without paying for it per event.

The SDK builds one message at start; it is the template that every event is stamped into. Its queue, its
thread and its `post` are not used: they lose events on exit, on a full queue, on a redirect and on a
4xx. This is the one module that imports it.

What differs from the SDK's message, on purpose:

- `context.library` names this daemon (the SDK always writes itself there) and
  `context.integration.name` is `Courier`;
- `integrations` keeps the event away from RudderStack's own Courier destination;
- `originalTimestamp` is added, equal to `timestamp`: RudderStack documents it as required;
- `sentAt` is per event and added by the sink at the moment of sending.
"""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import msgspec

from forwarder.errors import Unmappable

# Importing the SDK loads the nearest `.env` into this process' environment unless told not to.
_dotenv_disabled = os.environ.get("PYTHON_DOTENV_DISABLED")
os.environ["PYTHON_DOTENV_DISABLED"] = "1"
try:
    from rudderstack.analytics import Client
finally:
    if _dotenv_disabled is None:
        del os.environ["PYTHON_DOTENV_DISABLED"]
    else:
        os.environ["PYTHON_DOTENV_DISABLED"] = _dotenv_disabled

EVENT_BYTES_MAX = 4_096_000  # the gateway's limit for a whole request, uncompressed

# Filters by the destination's display name; RudderStack's documentation writes the second form, which
# the open-source server does not honour. Both do no harm.
INTEGRATIONS = MappingProxyType({"All": True, "Courier": False, "COURIER": False})
INTEGRATION_NAME = "Courier"
LIBRARY_NAME = "forwarder"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARKER_TIME = _EPOCH + timedelta(days=20_000, milliseconds=1)
# On a key `__proto__` RudderStack's transformer refuses a whole request, and its processor then drops up to a hundred
# events without a word. In compact JSON these bytes are always a key: inside a text, a quote follows a backslash.
_FORBIDDEN_KEYS = ((b'{"__proto__":', b'{"_proto_":'), (b',"__proto__":', b',"_proto_":'))
FORBIDDEN_KEY_NOTE = "a key named __proto__ left as _proto_"

# In the order in which the encoders give their values; `originalTimestamp` gets the value of `timestamp`.
_STAMPED = ("event", "userId", "anonymousId", "messageId", "timestamp", "properties", "context")
_STAMPED_PLAIN = ("event", "userId", "messageId", "timestamp", "properties")
_FRACTIONS = (b'+00:00"', *(b'.%03d000+00:00"' % milliseconds for milliseconds in range(1, 1_000)))


class TrackCall(msgspec.Struct, frozen=True, kw_only=True):
    """One track call before it is encoded. At least one of the two ids is not empty.

    `properties` and `context` hold JSON values only and are never changed here. `integration` and
    `library` inside `context` are overwritten.
    """

    event: str
    user_id: str | None
    anonymous_id: str | None
    message_id: str
    timestamp_ms: int
    properties: dict[str, Any] | msgspec.Raw  # Raw: an object that is sent in these very bytes
    context: dict[str, Any] = msgspec.field(default_factory=dict)


class TrackCalls:
    """Encode track calls as the SDK would have built them, plus the differences named above."""

    def __init__(self, *, version: str) -> None:
        """Have the SDK build the template; `version` is ours, for `context.library`."""
        # At DEBUG this logger writes whole payloads.
        logging.getLogger("rudderstack").setLevel(logging.ERROR)
        self._client = Client("unused", host="http://127.0.0.1", send=False)
        self._own_context = {
            "integration": {"name": INTEGRATION_NAME},
            "library": {"name": LIBRARY_NAME, "version": version},
        }
        self._encode = msgspec.json.Encoder().encode
        # A context always ends with what is ours: `{…, "integration":…,"library":…}`.
        self._context_tail = self._encode(self._own_context)[1:]
        self._plain_context = b"{" + self._context_tail
        self._full, self._in_full = self._template(_STAMPED, anonymous_id="anonymous")
        self._plain, self._in_plain = self._template(_STAMPED_PLAIN, anonymous_id=None)

    def encode(self, call: TrackCall) -> bytes:
        """Return the call's JSON object, compact, complete but for `sentAt`.

        Raises `Unmappable` for an event that the gateway would refuse whatever the batch.
        """
        encode = self._encode
        anonymous_id, properties = call.anonymous_id, call.properties
        values = (
            encode(call.event),
            encode(call.user_id),
            b"null" if anonymous_id is None else encode(anonymous_id),
            encode(call.message_id),
            timestamp_json(call.timestamp_ms),
            properties if isinstance(properties, msgspec.Raw) else encode(properties),
            self._context(call.context) if call.context else self._plain_context,
        )
        return _sendable(self._full % self._in_full(values))

    def encode_plain(self, *, event: str, user_id: str, message_id: str, timestamp_ms: int, properties: bytes) -> bytes:
        """Return what `encode` makes of a call with nothing but these; `properties` are an object's own bytes."""
        encode = self._encode
        time = timestamp_json(timestamp_ms)
        values = (encode(event), encode(user_id), encode(message_id), time, properties)
        return _sendable(self._plain % self._in_plain(values))

    def build(self, call: TrackCall) -> dict[str, Any]:
        """Return the same call built by the SDK itself, with our differences: what `encode` is held to."""
        properties = call.properties
        _, message = self._client.track(
            user_id=call.user_id,
            anonymous_id=call.anonymous_id,
            event=call.event,
            properties=msgspec.json.decode(properties) if isinstance(properties, msgspec.Raw) else properties,
            # The SDK writes into the context that it is given.
            context={**call.context, "integration": {"name": INTEGRATION_NAME}},
            timestamp=_EPOCH + timedelta(milliseconds=call.timestamp_ms),
            integrations=dict(INTEGRATIONS),
            message_id=call.message_id,
        )
        built: dict[str, Any] = message
        built["context"]["library"] = dict(self._own_context["library"])
        built["originalTimestamp"] = built["timestamp"]
        return built

    def _context(self, extra: dict[str, Any]) -> bytes:
        if "integration" in extra or "library" in extra:
            extra = {name: value for name, value in extra.items() if name not in self._own_context}
        if not extra:
            return self._plain_context
        return self._encode(extra)[:-1] + b"," + self._context_tail

    def _template(self, stamped: Sequence[str], **given: Any) -> tuple[bytes, Callable[[Sequence[bytes]], Any]]:
        """Turn a message of the SDK's into a `%` template; return it and what puts the stamped values in its order."""
        marker = self.build(
            TrackCall(
                event="event",
                user_id="user",
                message_id="message",
                timestamp_ms=(_MARKER_TIME - _EPOCH) // timedelta(milliseconds=1),
                properties={"property": 1},
                **given,
            ),
        )
        slots = (*stamped, "originalTimestamp")
        missing = [name for name in slots if name not in marker]
        if missing:
            raise AssertionError(f"rudder-sdk-python no longer builds {', '.join(missing)}")
        pairs = [
            self._encode(name) + b":" + (b"%b" if name in slots else self._encode(value).replace(b"%", b"%%"))
            for name, value in marker.items()
        ]
        places = {name: place for place, name in enumerate(stamped)}
        places["originalTimestamp"] = places["timestamp"]
        return b"{" + b",".join(pairs) + b"}", itemgetter(*(places[name] for name in marker if name in slots))


def _sendable(body: bytes) -> bytes:
    if len(body) > EVENT_BYTES_MAX:
        raise Unmappable(f"larger than {EVENT_BYTES_MAX} bytes, the most that the data plane takes")
    return body


def without_forbidden_keys(body: bytes) -> bytes:
    """Return compact JSON, as `msgspec` writes it, with every key `__proto__` renamed to `_proto_`."""
    for forbidden, harmless in _FORBIDDEN_KEYS:
        body = body.replace(forbidden, harmless)
    return body


@lru_cache(maxsize=4_096)  # events of a batch share few seconds
def _second(second: int) -> bytes:
    return b'"' + (_EPOCH + timedelta(seconds=second)).isoformat()[: -len("+00:00")].encode()


def timestamp_json(timestamp_ms: int) -> bytes:
    """Return a time as the SDK writes it, as a JSON string: `"2025-01-02T03:04:05.678000+00:00"`."""
    second, milliseconds = divmod(timestamp_ms, 1_000)
    return _second(second) + _FRACTIONS[milliseconds]
