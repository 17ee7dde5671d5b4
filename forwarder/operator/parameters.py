"""Which events are asked for, or acted on: the parameters of the API and of the pages, as types. Pure."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from forwarder.archive_port import EventQuery
from forwarder.model import RouteName, State
from forwarder.operator.api_types import LinkWords
from forwarder.operator.operation import QueryInvalid
from forwarder.operator.text import bounds

ACTION_EVENTS_MAX: Final = 1_000  # of one request: a bigger act is several, which is its progress
ACTED_ON: Final = {
    "replay": (State.DEAD, State.UNMAPPED, State.FILTERED, State.DELIVERED),
    "discard": (State.DEAD,),
}  # the states whose events an act is for
_SHOWN_MAX: Final = 20
_LOGGED: Final = frozenset(("route", "state", "from", "to", "status", "attempts"))
_MILLISECONDS_DIGITS_MAX: Final = 15
_PAUSE_S_MAX: Final = 31_536_000  # a year

Number = Annotated[int, Meta(ge=0, le=2**63 - 2)]  # of an event; the one after it is a number of the spool, too
Limit = Annotated[int, Meta(ge=1, le=500)]
_Bounds = Annotated[str, Meta(max_length=16)]
_Exact = Annotated[str, Meta(max_length=1_000, description="exact")]
_WHEN: Final = "ISO 8601, or milliseconds since 1970"


class Narrowed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which events are meant: all that meet every field that is given. The one selection of API, pages and acts."""

    route: RouteName | None = None
    state: State | None = None
    event: _Exact | None = None
    user_id: _Exact | None = None
    message_id: _Exact | None = None
    reason: _Exact | None = None
    text: (
        Annotated[str, Meta(max_length=1_000, description="part of an id, a name or the payload, in any case")] | None
    ) = None
    status: Annotated[_Bounds, Meta(description="of the last answer: 503, 5xx, 500..599, or none")] | None = None
    attempts: Annotated[_Bounds, Meta(description="how many: 1, 3.., or 2..5")] | None = None
    from_: Annotated[str, Meta(max_length=40, description=f"inclusive; {_WHEN}")] | None = None
    to: Annotated[str, Meta(max_length=40, description=f"exclusive; {_WHEN}")] | None = None

    def __post_init__(self) -> None:
        """Refuse times and bounds that are none."""
        self.query()

    def query(self, **more: Any) -> EventQuery:
        """Return the listing that finds them."""
        return EventQuery(
            route=self.route,
            state=self.state,
            event=self.event,
            user_id=self.user_id,
            message_id=self.message_id,
            reason=self.reason,
            text=self.text,
            status=bounds("status", self.status),
            attempts=bounds("attempts", self.attempts),
            received_from_ms=_moment_ms("from", self.from_),
            received_to_ms=_moment_ms("to", self.to),
            **more,
        )

    def __str__(self) -> str:
        """Name the selection for the audit log."""
        return self._named(lambda _, value: value)

    def logged(self) -> str:
        """Name the selection for the log, without what may come out of a payload."""
        return self._named(lambda name, value: value if name in _LOGGED else "…")

    def _named(self, shown: Callable[[str, object], object]) -> str:
        given = {name.rstrip("_"): getattr(self, name) for name in Narrowed.__struct_fields__}
        return " ".join(f"{name}={shown(name, value)}" for name, value in given.items() if value is not None)


class Listing(Narrowed, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A page of events: newest first, or oldest first with `after`."""

    before: Annotated[Number, Meta(description="strictly older sequences: the next page")] | None = None
    after: Annotated[Number, Meta(description="strictly newer sequences: to follow")] | None = None
    limit: Annotated[int, Meta(ge=0, le=500, description="0 counts alone: see `matched`")] = 50
    discarded: Annotated[bool, Meta(description="false leaves out dead events that were discarded")] = True

    def page_query(self) -> EventQuery:
        """Return what to ask the archive for."""
        return self.query(
            before_sequence=self.before,
            after_sequence=self.after,
            limit=self.limit,
            has_discarded=self.discarded,
        )


class Selection(Narrowed, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which events an act is for: some sequences, or the next of those in a state (`dead` where a filter names none).

    The latter go oldest first; pass the answer's `next_after` as `after` until it is null.
    """

    sequences: Annotated[list[Number], Meta(min_length=1, max_length=ACTION_EVENTS_MAX)] | None = None
    after: Number = 0
    before: Annotated[Number, Meta(description="only strictly older sequences")] | None = None
    limit: Annotated[int, Meta(ge=1, le=ACTION_EVENTS_MAX)] = ACTION_EVENTS_MAX
    dry_run: Annotated[bool, Meta(description="count only, and change nothing")] = False
    act: Annotated[
        str, Meta(max_length=64, description="the same in every step of one act: one line of the audit log")
    ] = ""
    has_more: Annotated[bool, Meta(description="further steps of the act follow, beside those that `after` asks")] = (
        False
    )

    def __post_init__(self) -> None:
        """Refuse what names no event, two things at once, or events that this act is not for."""
        Narrowed.__post_init__(self)
        allowed, is_narrowed = self.allowed(), bool(Narrowed.__str__(self))
        if is_narrowed and self.state is None:
            force_setattr(self, "state", State.DEAD)
        if self.sequences is None and self.state not in allowed:
            raise ValueError(f"give sequences, or a state: one of {', '.join(state.value for state in allowed)}")
        if self.sequences is not None and is_narrowed:
            raise ValueError("give either sequences or a state with what narrows it")

    def allowed(self) -> Sequence[State]:
        """Return the states of events that this act is for."""
        return ACTED_ON["discard"]

    def logged(self) -> str:
        """Name the selection for the log; sequences may be in it."""
        return super().logged() if self.sequences is None else str(self)

    def __str__(self) -> str:
        """Name the selection for the audit log."""
        if self.sequences is None:
            return super().__str__()
        shown = ", ".join(map(str, self.sequences[:_SHOWN_MAX]))
        return shown + (", …" if len(self.sequences) > _SHOWN_MAX else "")


class Replay(Selection, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Which events to replay."""

    everything: Annotated[
        bool, Meta(description="Make the calls to Courier that were made already again, too. They take effect again.")
    ] = False

    def allowed(self) -> Sequence[State]:
        """Return the states of events that can be replayed: the settled ones."""
        return ACTED_ON["replay"]


class Chosen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some events."""

    sequences: Annotated[list[Number], Meta(min_length=1, max_length=ACTION_EVENTS_MAX)]


class PauseOf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a route is paused, and until when: a time, or so many seconds from now; else until it is resumed."""

    reason: Annotated[str, Meta(max_length=500)] = ""
    until: Annotated[str, Meta(max_length=40, description=_WHEN)] | None = None
    for_s: Annotated[float, Meta(gt=0, le=_PAUSE_S_MAX)] | None = None

    def __post_init__(self) -> None:
        """Refuse two ends, and a time that is none."""
        if self.until is not None and self.for_s is not None:
            raise ValueError("give either until or for_s")
        _moment_ms("until", self.until)

    def until_ms(self, *, now_ms: int) -> int | None:
        """Return when it ends by itself; raises `QueryInvalid` for what is over already."""
        ends_ms = _moment_ms("until", self.until) if self.for_s is None else now_ms + round(self.for_s * 1000)
        if ends_ms is not None and ends_ms <= now_ms:
            raise QueryInvalid("until is over already: give a time to come, with its zone, or for_s")
        return ends_ms


_Changed = Annotated[list[LinkWords], Meta(max_length=1_000)]


class LinksChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links to add and to remove, all or none of them."""

    add: _Changed | None = None
    remove: _Changed | None = None

    def __post_init__(self) -> None:
        """Refuse a change of nothing."""
        if self.add is None and self.remove is None:
            raise ValueError('send an object with "add" or "remove", or both')


class OfRoute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows of one route, or of both."""

    route: RouteName | None = None
    limit: Limit = 50


class OfReason(OfRoute, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Groups of one state."""

    state: State = State.DEAD


class OfChart(Struct, frozen=True, kw_only=True):
    """How far back the overview's charts go, and whether they are drawn."""

    range: Literal["1h", "24h", "7d"] = "1h"
    view: Literal["chart", "table"] = "chart"


class OfLog(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest lines."""

    limit: Limit = 50


def _moment_ms(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= _MILLISECONDS_DIGITS_MAX:
        return int(text)
    try:
        # A plus sign that was not encoded arrives as a space.
        read = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is no time: use 2026-01-31T12:00:00Z or milliseconds since 1970") from None
