"""Event types from RudderStack and Segment: their links, what speaks against them, and what waits or ended dead."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from forwarder.archive_port import EventQuery, EventTypeRow
from forwarder.courier.catalogue import Known
from forwarder.model import RouteName, State
from forwarder.operator.parts import LABEL_CHARACTERS_MAX, Parts

LINKABLE: Final = ("track", "identify", "group")
TYPES_MAX: Final = 500
_COUNTING_S: Final = 0.05  # for the counts of all rows together: the page must not wait for them
_COUNTED_EVENTS_MAX: Final = 1_000  # per row of the page
_GROUPS_MAX: Final = 100
_INBOUND: Final = RouteName.RUDDERSTACK_TO_COURIER

Link = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Count:
    """How many events; `has_more`: at least so many."""

    events: int
    has_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One event type: how often it came, what it is linked to, and how many of it wait for a replay or ended dead."""

    seen: EventTypeRow
    links: Sequence[Link]
    unmapped: Count | None = None  # None: not counted
    dead: Count | None = None

    @property
    def type(self) -> str:
        """Return the call in lower case: what a link goes by."""
        return self.seen.type.lower()

    @property
    def link_event(self) -> str:
        """Return the name that a link goes by: of identify and group it is the type."""
        return self.seen.event if self.type == "track" else self.type

    @property
    def applies_to(self) -> str:
        """Say what this call changes at Courier without any link; "" for nothing."""
        return {"identify": "profile", "group": "tenant"}.get(self.type, "")

    @property
    def why_not_linkable(self) -> str:
        """Say why this event cannot be linked here; "" when it can."""
        if self.type not in LINKABLE:
            return "Only track, identify and group can be linked."
        if len(self.link_event) >= LABEL_CHARACTERS_MAX:
            return "Its name is cut here: link it with forwarder links add."
        return "" if self.link_event.strip() else "It has no name."

    @property
    def is_doubtful(self) -> bool:
        """Tell whether something speaks against one of its links."""
        return any(link["doubt"] for link in self.links)


def doubted(links: Sequence[Link], known: Known) -> Sequence[Link]:
    """Return the links, each with what speaks against its target (`doubt`)."""
    return [{**link, "doubt": known.doubt(str(link["to"]), str(link["target"]))} for link in links]


def by_event(links: Sequence[Link]) -> dict[tuple[str, str], list[Link]]:
    """Return the links by type and event, as they are seen: labels are cut, identify and group have no names."""
    found: defaultdict[tuple[str, str], list[Link]] = defaultdict(list)
    for link in links:
        kind = str(link["type"])
        found[kind, str(link["event"])[:LABEL_CHARACTERS_MAX] if kind == "track" else kind].append(link)
    return dict(found)


def links_to(seen: EventTypeRow, links: Mapping[tuple[str, str], Sequence[Link]]) -> Sequence[Link]:
    """Return those that an event type which was seen would follow; none for Courier's own events."""
    return links.get(key_of(seen), ()) if seen.route is _INBOUND else ()


def key_of(seen: EventTypeRow) -> tuple[str, str]:
    """Return type and event that a link to this goes by."""
    kind = seen.type.lower()
    return kind, seen.event if kind == "track" else kind


async def counted(parts: Parts, rows: Sequence[Row]) -> Sequence[Row]:
    """Count what waits for a replay and what ended dead, until all of it is found, or as far as time allows."""
    groups = await parts.archive.reasons(_INBOUND, State.UNMAPPED, limit=_GROUPS_MAX)
    dead = (await parts.archive.facts()).open_dead.get(_INBOUND, 0)
    until_s = parts.clock.monotonic_s() + _COUNTING_S

    async def of(state: State, left: int, among: Sequence[Row]) -> Mapping[EventTypeRow, Count | None]:
        made: dict[EventTypeRow, Count | None] = {}
        for row in among:
            made[row.seen] = Count(0) if left <= 0 else None
            if left > 0 and (left_s := until_s - parts.clock.monotonic_s()) > 0:
                made[row.seen] = found = await count(
                    parts, row.seen.event, state, at_most=_COUNTED_EVENTS_MAX, within_s=left_s
                )
                left -= found.events
        return made

    linkable = sorted((row for row in rows if row.type in LINKABLE), key=lambda row: bool(row.links))
    unmapped = await of(State.UNMAPPED, sum(group.count for group in groups), linkable)
    died = await of(State.DEAD, dead, [row for row in rows if row.links])
    return [replace(row, unmapped=unmapped.get(row.seen, Count(0)), dead=died.get(row.seen, Count(0))) for row in rows]


async def count(parts: Parts, event: str, state: State, *, at_most: int, within_s: float = 0.12) -> Count:
    """Count events of this name in this state that are not discarded."""
    query = EventQuery(route=_INBOUND, state=state, event=event, has_discarded=False, limit=at_most, budget_s=within_s)
    found = await parts.archive.events(query)
    return Count(found.matched, has_more=found.next_before is not None or found.is_cut)


async def unmapped_rows(parts: Parts) -> Sequence[Row]:
    """Return the event types of which something is unmapped, most of it first; those that were not counted last."""
    if not await parts.archive.reasons(_INBOUND, State.UNMAPPED, limit=1):
        return []
    types = await parts.archive.event_types(_INBOUND, limit=TYPES_MAX)
    links = by_event(parts.links.rows())
    rows = await counted(
        parts, [Row(seen=seen, links=links_to(seen, links)) for seen in types if key_of(seen)[0] in LINKABLE]
    )
    waiting = [row for row in rows if row.unmapped is None or row.unmapped.events]
    return sorted(waiting, key=lambda row: -row.unmapped.events if row.unmapped else 1)
