"""What the operator's API and page are given: the daemon's parts, as they need them.

Absent: HTTP. The page shares this desk, so that both show and do the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forwarder.flow.route import RouteStatus
from forwarder.model import RouteName
from forwarder.ports import Archive, AuditRow, Clock, Spool
from forwarder.telemetry.collector import BookCollector
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

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

    def __post_init__(self) -> None:
        """Let the books show in the daemon's registry."""
        self.metrics.registry.register(self.books)

    def route(self, name: str) -> OperatedRoute | None:
        """Return the running route of that name."""
        return next((route for route in self.routes if route.name == name), None)

    async def replay(self, sequences: Sequence[int], *, who: str, detail: str) -> int:
        """Make settled events pending again and write down who did it; return how many."""
        count = await self.spool.exhume(sequences)
        await self.audit(who, "replay", f"{count} events: {detail}")
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

    async def audit(self, who: str, action: str, detail: str) -> None:
        """Add one line to the audit log."""
        await self.archive.write_audit(AuditRow(at_ms=self.clock.wall_ms(), who=who, action=action, detail=detail))


ROUTE_NAMES = tuple(route.value for route in RouteName)
