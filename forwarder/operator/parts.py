"""The daemon's parts that the operator's side shows and moves: the API and the pages share them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forwarder.archive_port import Archive
from forwarder.delivery.route_status import RouteStatus
from forwarder.mapping.link_store import LinkStore
from forwarder.model import RouteName
from forwarder.operator.explain import Explain, PastMappings
from forwarder.ports import Clock, Spool
from forwarder.sources.worker import SourceStatus
from forwarder.telemetry.collector import TotalsCollector
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.totals_by_time import TotalsByTime

LABEL_CHARACTERS_MAX = 256  # of what the spool keeps to look an event up by


class OperatedRoute(Protocol):
    """A route as people act on it."""

    @property
    def name(self) -> str:
        """One of `RouteName`."""

    def status(self) -> RouteStatus:
        """Return what people should see now."""

    async def pause(self, *, who: str, reason: str = "", until_ms: int | None = None) -> None:
        """Stop sending until resumed, or until then, also over a restart."""

    async def resume(self, *, who: str) -> None:
        """Go on after a pause."""


class OperatedSource(Protocol):
    """A source of the user's own bus as people see it."""

    def status(self) -> SourceStatus:
        """Return what people should see now."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """See above. `routes` are those that run; made once, at the start of the daemon."""

    archive: Archive
    spool: Spool
    links: LinkStore
    metrics: Metrics
    reporter: Reporter
    clock: Clock
    routes: Sequence[OperatedRoute] = ()
    sources: Sequence[OperatedSource] = ()
    settings_rows: Sequence[Mapping[str, object]] = ()  # variable, value (masked), origin, is_secret
    explain: Mapping[RouteName, Explain] = field(default_factory=dict)  # of routes that run
    past: PastMappings | None = None  # of the outbound route, if it runs
    totals: TotalsCollector = field(default_factory=TotalsCollector)
    by_time: TotalsByTime = field(init=False)
    started_at_ms: int = field(init=False)

    def __post_init__(self) -> None:
        """Let the totals show in the daemon's registry."""
        object.__setattr__(self, "started_at_ms", self.clock.wall_ms())
        object.__setattr__(self, "by_time", TotalsByTime(self.metrics, self.clock))
        self.metrics.registry.register(self.totals)

    def route(self, name: str) -> OperatedRoute | None:
        """Return the running route of that name."""
        return next((route for route in self.routes if route.name == name), None)

    def setting(self, variable: str) -> str:
        """Return the value in effect as it is shown; "" for none."""
        return next((str(row["value"]) for row in self.settings_rows if row["variable"] == variable), "")
