"""What the operator's API and page are given: the daemon's parts, as they need them.

Absent: HTTP. The page shares this desk, so that both show and do the same.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forwarder.errors import RulesInvalid
from forwarder.flow.route import RouteStatus
from forwarder.model import RouteName
from forwarder.operator.explain import Explain, TimeOf
from forwarder.ports import Archive, AuditRow, Clock, EventTypeRow, Spool
from forwarder.telemetry.collector import BookCollector
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

LABEL_CHARACTERS_MAX = 256  # of what the spool keeps to look an event up by
LINKS_SHOWN_MAX = 20  # in one line of the audit log
ACTION_EVENTS_MAX = 1_000  # of one request: a bigger replay is several requests, which is its progress


class OperatedRoute(Protocol):
    """A route as people act on it."""

    @property
    def name(self) -> str:
        """One of `RouteName`."""

    def status(self) -> RouteStatus:
        """Return what people should see now."""

    async def pause(self, *, who: str) -> None:
        """Stop sending until resumed, also over a restart."""

    async def resume(self, *, who: str) -> None:
        """Go on after a pause."""


class LinkKeeper(Protocol):
    """The links between events and what they start at Courier, in the words of file, command line and API."""

    def rows(self) -> Sequence[Mapping[str, object]]:
        """Return every link in force: type, event, to, target, source, and whether it is pinned."""

    async def change(
        self, *, add: Sequence[Mapping[str, str]] = (), remove: Sequence[Mapping[str, str]] = ()
    ) -> tuple[int, int]:
        """Change the links, all or none, durable; return how many were added and removed.

        Raises `RulesInvalid` for what cannot be. Not safe for concurrent changes.
        """


@dataclass(frozen=True, kw_only=True)
class OperatorDesk:
    """Everything that the operator's listener shows and moves. `routes` are those that run."""

    archive: Archive
    spool: Spool
    routes: Sequence[OperatedRoute]
    metrics: Metrics
    reporter: Reporter
    clock: Clock
    version: str
    started_at_ms: int
    settings_rows: Sequence[Mapping[str, object]] = ()  # variable, value (masked), origin, is_secret
    books: BookCollector = field(default_factory=BookCollector)
    links: LinkKeeper | None = None
    explain: Mapping[RouteName, Explain] = field(default_factory=dict)  # of routes that run; see `web.explain`
    time_of: Mapping[RouteName, TimeOf] = field(default_factory=dict)  # of routes whose events state their own time
    _links_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Let the books show in the daemon's registry."""
        self.metrics.registry.register(self.books)

    def route(self, name: str) -> OperatedRoute | None:
        """Return the running route of that name."""
        return next((route for route in self.routes if route.name == name), None)

    async def replay(self, sequences: Sequence[int], *, who: str, detail: str, everything: bool = False) -> int:
        """Make settled events pending again and write down who did it; return how many.

        Calls to Courier that were done are not made again, except with `everything`.
        """
        count = await self.spool.requeue(sequences, everything=everything)
        again = ", with what was done before" if everything else ""
        await self.audit(who, "replay", f"{count} events{again}: {detail}")
        return count

    async def discard(self, sequences: Sequence[int], *, who: str, detail: str) -> int:
        """Mark dead events as discarded and write down who did it; return how many."""
        count = await self.spool.discard(sequences)
        await self.audit(who, "discard", f"{count} events: {detail}")
        return count

    async def pause(self, route: OperatedRoute, *, who: str) -> None:
        """Pause a route and write down who did it."""
        await route.pause(who=who)
        await self.audit(who, "pause", route.name)

    async def resume(self, route: OperatedRoute, *, who: str) -> None:
        """Resume a route and write down who did it."""
        await route.resume(who=who)
        await self.audit(who, "resume", route.name)

    def links_of(self, seen: EventTypeRow) -> Sequence[Mapping[str, object]]:
        """Return the links that an event type which was seen would follow; none for Courier's own events."""
        if self.links is None or seen.route is not RouteName.RUDDERSTACK_TO_COURIER:
            return []
        return [row for row in self.links.rows() if row["type"] == seen.type.lower() and _is_named(row, seen)]

    async def change_links(
        self, *, add: Sequence[Mapping[str, str]], remove: Sequence[Mapping[str, str]], who: str
    ) -> tuple[int, int]:
        """Change the links, one change at a time, and write down who did it; return how many came and went.

        Raises `RulesInvalid` for what cannot be; then nothing changed.
        """
        if self.links is None:
            raise RulesInvalid("there are no links here: the daemon was started without them")
        async with self._links_turn:
            added, removed = await self.links.change(add=add, remove=remove)
        if added or removed:
            named = [f"{sign}{_link_name(words)}" for sign, many in (("+", add), ("-", remove)) for words in many]
            shown = ", ".join(named[:LINKS_SHOWN_MAX]) + (", …" if len(named) > LINKS_SHOWN_MAX else "")
            await self.audit(who, "links", f"{added} added, {removed} removed: {shown}")
        return added, removed

    async def audit(self, who: str, action: str, detail: str) -> None:
        """Add one line to the audit log."""
        await self.archive.write_audit(AuditRow(at_ms=self.clock.wall_ms(), who=who, action=action, detail=detail))


def _is_named(link: Mapping[str, object], seen: EventTypeRow) -> bool:
    """Tell whether the link is for events of this name; labels are cut, and identify and group have no names."""
    return seen.type.lower() != "track" or str(link["event"])[:LABEL_CHARACTERS_MAX] == seen.event


def _link_name(words: Mapping[str, str]) -> str:
    kind, target = words.get("to", "automation"), words.get("target", "")
    return f"{words.get('type', 'track')} {words.get('event', '')} to {kind} {target}"


ROUTE_NAMES = tuple(route.value for route in RouteName)
