"""The values that travel between the rooms. No behaviour beyond what the values themselves imply.

Units: `_ms` = integer milliseconds since the Unix epoch (wall clock) unless it says duration;
`_s` = seconds as float; sizes are bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec


class RouteName(StrEnum):
    """The two routes, named by their ends."""

    COURIER_TO_RUDDERSTACK = "courier_to_rudderstack"
    RUDDERSTACK_TO_COURIER = "rudderstack_to_courier"


class State(StrEnum):
    """Where an accepted event is. It is in exactly one of these (law 2)."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FILTERED = "filtered"
    UNMAPPED = "unmapped"
    DEAD = "dead"


class Labels(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What people look an event up by. Taken from the payload on arrival, never logged.

    Each is cut to 256 characters before it gets here; "" when the event has none.
    """

    type: str = ""  # Courier's envelope type (`message:updated`) or the call (`track`)
    event: str = ""  # Courier: the native name (`Message Sent`), else the type; calls: track's event, else the type
    message_id: str = ""  # Courier's message id (data.id), or the call's messageId
    user_id: str = ""  # recipient, or userId, else anonymousId


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """How to tell a resend from a new occurrence of an event that carries neither id nor time.

    `Envelope.event_key` is then only the base; the spool derives the true key from it and the sequence of this
    occurrence's first arrival (audience events of Courier), inside the insert's transaction. An equal event within
    `resend_s` of its last copy is a resend. One that is later, but within `resend_max_s`, is a resend too unless an
    event with the same `subject` and another `side` came in between; with `subject` None only `resend_s` counts.
    """

    resend_s: int
    resend_max_s: int
    subject: bytes | None  # digest of what the opposite events share (type family, audience, user)
    side: str  # which of the opposites this is


class Summary(msgspec.Struct, frozen=True, gc=False):
    """What there is to know of an event of the usual form, for whoever maps it: it need not be read again."""

    status: str
    user_id: str
    at_ms: int  # when it happened


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as it arrived. Same event, same key (law 3); the payload is the sender's bytes."""

    route: RouteName
    event_key: bytes  # 16-byte digest
    partition_key: str  # events with the same non-empty key apply in order (law 4); "" = no order
    received_at_ms: int
    payload: bytes  # the one event's own JSON (an element of an array is cut out of its request)
    source: str = ""  # the endpoint ("webhook", "events", "rudderstack", "segment", "v1") or the bus ("nats")
    labels: Labels = Labels()
    recurrence: Recurrence | None = None
    summary: Summary | None = None  # made where it arrived and not kept on disk: without it the payload tells
    trace: str = ""  # the traceparent (W3C) of its receipt; "" when that was not traced

    def __repr__(self) -> str:
        """Show the event without anything out of its payload (law 8)."""
        return f"Envelope(route={self.route.value}, key={self.event_key.hex()}, {len(self.payload)} bytes)"


class Replay(StrEnum):
    """What people asked of an event that was settled before, until its progress is noted anew."""

    NOT = ""  # it is no replay, or has gone on since
    REST = "rest"  # plan anew, and leave out what was done
    EVERYTHING = "everything"  # plan anew and do all of it again


class Lease(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The spool's loan of one pending event; settled exactly once."""

    sequence: int
    attempt: int  # 1 for the first; counts the failures before plus one
    envelope: Envelope
    first_failed_at_ms: int | None = None  # None while it never failed
    progress: bytes = b""  # what `Spool.note` kept last; b"" when nothing
    replay: Replay = Replay.NOT  # only with progress: what was kept before the replay
    is_retry: bool = False  # it was given back before, with a failure or a time: one of `Demand.retry_max`
    replayed_at_ms: int | None = None  # when people made it pending again; its age counts from then
    is_beside: bool = False  # a replay that goes beside what arrives: one of `Demand.replay_max`
    follows: int = 0  # the spool's own: the event of this route right before it, 0 when that is not known
    partition: int = 0  # the spool's own: which of the replicas' partitions it is in


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How much a route would lease now."""

    fresh_max: int  # events that were never given back, or only as if never leased
    retry_max: int  # events that were given back with a failure or a time (a retry, a rate limit, a held group)
    bytes_max: int  # of the payloads; one event is leased whatever its size
    replay_max: int = 0  # replayed events that go beside what arrives

    def by_kind(self) -> tuple[int, int, int]:
        """Return the three counts."""
        return self.fresh_max, self.retry_max, self.replay_max


class Delivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One operation at the destination, encoded once, so that its size is a fact.

    Outbound `operation` is "track" and `body` one event's JSON, complete but for `sentAt`, which
    the sink adds. Inbound `operation` is method and path ("POST /profiles/u1").
    """

    sequence: int
    operation: str
    body: bytes
    idempotency_key: str = ""  # inbound only; "" sends none
    group: str = ""  # inbound only: the rate-limit group of the call ("profiles", "lists")
    note: str = ""  # what people shall know of the event though it is delivered; no value out of the payload


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries of one request: never empty, oldest first."""

    deliveries: tuple[Delivery, ...]
    size_bytes: int  # sum of the bodies


class Effect(StrEnum):
    """What an attempt that did not succeed may have done at the destination."""

    NONE = "none"  # certainly nothing (never connected, 429)
    UNKNOWN = "unknown"  # no answer: it may have been done
    ANSWERED = "answered"  # an error was received; Courier would replay it for the same key


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The destination said yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """It was decided, here or there, that this event goes nowhere."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmapped:
    """Nothing is linked to this event (inbound). Replayable once a link exists."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TryLater:
    """It may heal by itself. `scope` must wait: "route", a rate-limit group, "event", or "replica" (never asked)."""

    reason: str
    after_s: float | None  # what the destination asked for (already capped), else None: our backoff
    scope: str
    effect: Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The destination will never take this. Of a batch: someone in it is the culprit.

    `reason` may be logged. `words` is what the destination said and which template it spoke of: shown
    to people behind the reason of the dead event ("reason: words"), never logged.
    """

    reason: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The set-up is wrong, no event's fault: hold `scope` ("route" or a rate-limit group), alarm and probe."""

    reason: str
    scope: str
    effect: Effect = Effect.NONE  # UNKNOWN when it may have been done all the same


Verdict = Delivered | Filtered | TryLater | Refused | Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One exchange as people will see it: kept per batch, shown with each of its events."""

    at_ms: int
    duration_ms: int
    operation: str  # "POST /v1/batch", "POST /profiles/…"
    status: int | None  # None: no answer
    outcome: str  # the verdict's name in lower case: delivered, filtered, try_later, refused, held
    reason: str
    answer: bytes  # at most the first 2,048 bytes; may quote the payload: shown, never logged
    mapping: str = ""  # the mark of the mapping that made what was sent; "" where none is kept


@dataclass(frozen=True, slots=True)
class Settled:
    """Leased events that reached a final state together. Dead ones can be replayed."""

    sequences: Sequence[int]
    state: State  # any but pending
    reason: str = ""
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """Leased events that are given back, due again at `not_before_ms` (0: at once).

    `counts` False leaves the attempt number as it was (a hold, a drain, a pause); with no time and no attempt either,
    the event stands as if it had not been leased this time, and the reason is not kept.
    """

    sequences: Sequence[int]
    not_before_ms: int
    reason: str = ""
    attempt: Attempt | None = None
    counts: bool = True


Settlement = Settled | Returned


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a sink returns: what it means, and what it was."""

    verdict: Verdict
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the spool says of one append, once it is on disk."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request to a vendor. `url` is absolute; its query holds no secret."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float
    answer_bytes_max: int = 1_048_576  # what comes beyond is cut off and not read


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A whole answer. Header names are lower-case; redirects are answers like any other."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The account of one route since its folder was made: `accepted` is the sum of the others at any moment (law 2)."""

    accepted: int
    pending: int
    delivered: int
    filtered: int
    unmapped: int
    dead: int

    def is_balanced(self) -> bool:
        """Tell whether law 2 holds."""
        return self.accepted == self.pending + self.delivered + self.filtered + self.unmapped + self.dead
