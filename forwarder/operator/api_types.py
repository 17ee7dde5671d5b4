"""What the operator's API answers, as types. Times are ISO 8601 in UTC, sizes bytes, ages seconds."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from forwarder.model import RouteName, State
from forwarder.operator.incidents.traffic import RejectedRequests
from forwarder.settings.settings import SettingRow

Count = Annotated[int, Meta(ge=0)]
Time = Annotated[str | None, Meta(extra_json_schema={"format": "date-time"})]


class Event(Struct, frozen=True, kw_only=True):
    """One line of a listing, flat."""

    sequence: Count
    route: RouteName
    state: State
    event: str
    type: str
    message_id: str
    user_id: str
    source: str
    received_at: Time
    settled_at: Time
    retry_at: Time
    attempts: Count
    reason: str
    is_discarded: bool
    size_bytes: Count
    status: Annotated[int | None, Meta(description="HTTP status of the last answer; 0: none came")]


class EventPage(Struct, frozen=True, kw_only=True):
    """A page of a listing; `next_before` (oldest first: `next_after`) continues it, and is null at its end."""

    events: list[Event]
    next_before: int | None
    next_after: int | None
    is_cut: Annotated[bool, Meta(description="it stopped for time, or a text search after so many: going on may find")]
    matched: Annotated[Count, Meta(description="events of this page; with limit=0, as many as there are so far")]
    scanned: Annotated[Count, Meta(description="events that met the other filters and were looked at")]
    reached_at: Annotated[str | None, Meta(description="when the last of those arrived")]


class Attempt(Struct, frozen=True, kw_only=True):
    """One exchange with the destination."""

    at: Time
    duration_ms: int
    operation: str
    status: int | None
    outcome: str
    reason: str
    words: Annotated[str, Meta(description="the destination's own, out of its answer")]
    answer: str
    mapping: Annotated[str, Meta(description="mark of the rules, names and version that made what was sent")]


class EventDetail(Event, frozen=True, kw_only=True):
    """One event whole. A payload that is no UTF-8 is told in base64; one that is no longer kept is null."""

    event_key: str
    payload: str | None
    payload_encoding: str | None
    progress: str | None
    attempt_log: list[Attempt]


class Totals(Struct, frozen=True, kw_only=True):
    """Where all that was ever accepted is."""

    accepted: Count
    pending: Count
    delivered: Count
    filtered: Count
    unmapped: Count
    dead: Count
    is_balanced: bool


class Stop(Struct, frozen=True, kw_only=True):
    """What stands still, why, and when it is tried again."""

    scope: str
    state: str
    reason: str
    since: Time
    next_try_at: Time


class Pause(Struct, frozen=True, kw_only=True):
    """Who paused a route, and why; `until` null: until somebody resumes it."""

    who: str
    reason: str
    since: Time
    until: Time


class Route(Struct, frozen=True, kw_only=True):
    """One route; the state is `running`, `paused`, `held`, `backing_off`, or `off` for one that does not run."""

    name: RouteName
    state: str
    since: Time
    reason: str
    pause: Pause | None
    stops: list[Stop]
    in_flight: Count
    concurrency_limit: Count
    retrying: Count
    unsettled_bytes: Count
    oldest_age_s: float | None
    totals: Totals | None
    open_dead: Annotated[Count, Meta(description="dead, kept and not discarded: what is left to do")]
    discarded: Annotated[Count, Meta(description="of all that are dead, those that were put aside")]


class Spool(Struct, frozen=True, kw_only=True):
    """The spool as a whole."""

    size_bytes: Count
    cap_bytes: Count
    is_accepting: bool
    refusal: str
    corrupt_rows: Count
    engine: str


class Source(Struct, frozen=True, kw_only=True):
    """A subscription to the user's own bus."""

    name: str
    state: Annotated[str, Meta(description="connecting, connected, away, or waiting (the spool has no room)")]
    since: Time
    reason: str
    lag: Annotated[Count | None, Meta(description="messages that the bus holds and we have not acknowledged")]


class Status(Struct, frozen=True, kw_only=True):
    """How everything is."""

    version: str
    now: Time
    started_at: Time
    uptime_s: float
    spool: Spool
    routes: list[Route]
    sources: list[Source]
    rejected: Annotated[list[RejectedRequests], Meta(description="requests turned away within the day")]


class LinkWords(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link in the words of file and command line; without them: track, automation, both sources."""

    event: str
    target: str
    type: str | UnsetType = UNSET
    to: Annotated[str, Meta(description="automation, journey, template or list")] | UnsetType = UNSET
    source: Annotated[str, Meta(description="rudderstack, segment, or empty for both")] | UnsetType = UNSET


class Link(LinkWords, frozen=True, kw_only=True):
    """A link in force; a pinned one is changed in the file of FORWARDER_LINKS."""

    pinned: bool
    doubt: str = ""  # what speaks against its target by Courier's own lists


class Links(Struct, frozen=True, kw_only=True):
    """Every link in force, pinned ones first."""

    links: list[Link]


class LinksChanged(Struct, frozen=True, kw_only=True):
    """How many came and went."""

    added: Count
    removed: Count


class EventType(Struct, frozen=True, kw_only=True):
    """An event type that was seen, and what it is linked to."""

    route: RouteName
    type: str
    event: str
    count: Count
    first_at: Time
    last_at: Time
    links: list[Link]


class EventTypes(Struct, frozen=True, kw_only=True):
    """Event types seen, last seen first."""

    event_types: list[EventType]


class Reason(Struct, frozen=True, kw_only=True):
    """Settled events that share a reason."""

    reason: str
    count: Count
    sample_sequence: Count
    last_at: Time


class Reasons(Struct, frozen=True, kw_only=True):
    """The groups of one state, largest first."""

    state: State
    reasons: list[Reason]


class AuditLine(Struct, frozen=True, kw_only=True):
    """Who did what, when."""

    at: Time
    who: str
    action: str
    detail: Annotated[str, Meta(description="the selection, or what was changed")]
    count: Annotated[int | None, Meta(description="events (links) that were changed")]
    outcome: Annotated[str, Meta(description="what came of it; empty while that is not known")]


class Audit(Struct, frozen=True, kw_only=True):
    """The audit log, newest first."""

    audit: list[AuditLine]


class Incident(Struct, frozen=True, kw_only=True):
    """One thing that went wrong; `ended_at` null: it goes on. `scope`: the route, a group of calls, or an endpoint."""

    kind: Annotated[str, Meta(description="hold, back_off, refusal, late, rejected, gap (nothing comes) or dead")]
    route: RouteName | None
    scope: str
    cause: str
    remedy: str
    began_at: Time
    ended_at: Time
    lasted_s: float
    delayed: Annotated[
        Count | None, Meta(description="the most events that were pending meanwhile; null: not known which")
    ]
    dead: Annotated[Count, Meta(description="events that died meanwhile")]


class IncidentList(Struct, frozen=True, kw_only=True):
    """What went wrong, newest first."""

    incidents: list[Incident]


class SettingsInEffect(Struct, frozen=True, kw_only=True):
    """All settings with their source."""

    settings: list[SettingRow]


class Replayed(Struct, frozen=True, kw_only=True):
    """How many are pending again, and which were asked for in this step: see `/api/outcome`."""

    replayed: Count
    next_after: int | None
    sequences: list[int]


class Discarded(Struct, frozen=True, kw_only=True):
    """How many are marked as discarded."""

    discarded: Count
    next_after: int | None


class Outcome(Struct, frozen=True, kw_only=True):
    """How many events are in which state now, and which of them are pending."""

    states: dict[State, Count]
    pending: list[int]


class RouteState(Struct, frozen=True, kw_only=True):
    """How a route is after the act."""

    route: str
    state: str
    pause: Pause | None
