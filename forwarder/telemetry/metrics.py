"""Every metric of the daemon, with its meaning. Labels come from closed sets only.

The totals, the depth and the spool's size are read at the scrape (see `TotalsCollector`), so that they are
one moment's truth; the `_total` counters count transitions since the start.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from forwarder import __version__
from forwarder.model import RouteName, State
from forwarder.telemetry.answer_times import Answers

ROUTE_STATES = ("running", "paused", "held", "backing_off")
INCIDENT_KINDS = ("hold", "back_off", "refusal", "late", "rejected", "gap", "dead", "source")
ALERT_CHANNELS = ("url", "courier")
VERDICTS = ("delivered", "filtered", "try_later", "refused", "held")

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
_COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


def _registry() -> CollectorRegistry:
    """Return a registry that tells of the process, and holds nothing of ours but the version."""
    # A time of birth beside every counter: twice the series, read by nobody.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types there
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    build = Gauge("forwarder_build_info", "1, with the version that runs.", ["version"], registry=registry)
    build.labels(__version__).set(1)
    return registry


class BatchHistogram(Histogram):
    """A histogram that takes a whole batch for the price of one observation."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe every amount; they lie in few buckets, and may be in any order."""
        ordered = sorted(amounts)
        seen = 0
        while seen < len(ordered):
            bucket = bisect_left(self._upper_bounds, ordered[seen])
            up_to = bisect_right(ordered, self._upper_bounds[bucket], lo=seen)
            self._buckets[bucket].inc(up_to - seen)
            seen = up_to
        self._sum.inc(sum(ordered))


class LoopCounter(Counter):
    """A counter that the event loop's thread alone counts, without a lock: every request pays for it."""

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count, on the event loop's thread."""
        del exemplar
        self._value._value += amount  # noqa: SLF001 - the library has no counter without a lock


class Metrics:
    """The daemon's metrics in a registry of their own, so that two daemons in one test do not meet."""

    def __init__(self) -> None:
        self.registry = r = _registry()
        self.answers = Answers()
        r.register(self.answers)
        self._of_routes(r)
        self._of_sources(r)
        self._of_this_process(r)
        self._begin_at_zero()

    def _of_routes(self, r: CollectorRegistry) -> None:
        self.received = LoopCounter(
            "forwarder_events_received", "Unique events accepted (on disk) since the start.", ["route"], registry=r
        )
        self.duplicates = LoopCounter(
            "forwarder_duplicates", "Events recognised as resends of known ones.", ["route"], registry=r
        )
        self.settled = Counter(
            "forwarder_events_settled", "Events settled since the start.", ["route", "outcome"], registry=r
        )
        self.requests = Counter(
            "forwarder_requests",
            "Requests made to the destination, by what the answer meant.",
            ["route", "verdict"],
            registry=r,
        )
        self.request_duration = Histogram(
            "forwarder_request_duration_seconds", "Time of one request to the destination.", ["route"], registry=r
        )
        self.latency = BatchHistogram(
            "forwarder_delivery_latency_seconds",
            "From acceptance to the destination's yes.",
            ["route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=r,
        )
        self.concurrency = Gauge(
            "forwarder_concurrency_limit", "Requests allowed in flight just now.", ["route"], registry=r
        )
        self.incidents_open = Gauge(
            "forwarder_incidents_open", "Incidents that have begun and not ended, by kind.", ["kind"], registry=r
        )
        self.alerts = Counter(
            "forwarder_alerts",
            "Alerts of incidents, by channel and whether they arrived.",
            ["channel", "outcome"],
            registry=r,
        )
        for channel in ALERT_CHANNELS:
            for outcome in ("sent", "failed"):
                self.alerts.labels(channel, outcome)
        for kind in INCIDENT_KINDS:
            self.incidents_open.labels(kind)
        self.route_state = Gauge(
            "forwarder_route_state",
            "1 for the state the route is in, 0 for the others.",
            ["route", "state"],
            registry=r,
        )

    def _of_sources(self, r: CollectorRegistry) -> None:
        self.source_lag = Gauge(
            "forwarder_source_lag_events",
            "Messages that a bus holds for this daemon, not acknowledged yet; absent while it is not known.",
            ["source"],
            registry=r,
        )
        self.source_connected = Gauge(
            "forwarder_source_connected",
            "1 while messages are taken from a bus, 0 while it is away.",
            ["source"],
            registry=r,
        )
        self.source_lost = Counter(
            "forwarder_source_lost_messages",
            "Messages that a bus had dropped, by its own limits, before they could be taken.",
            ["source"],
            registry=r,
        )

    def _of_this_process(self, r: CollectorRegistry) -> None:
        self.rejected = Counter(
            "forwarder_rejected", "Requests turned away at an endpoint.", ["endpoint", "reason"], registry=r
        )
        # By endpoint, reason and network: shown on the page, not a metric, whose labels would be a stranger's to make.
        self.rejected_from: dict[tuple[str, str, str], int] = {}
        self.loops_stopped = Counter(
            "forwarder_loops_stopped",
            "Events of Courier's own that came back and were filtered, so that none starts what sent it.",
            registry=r,
        )
        self.quarantined = Counter(
            "forwarder_rows_quarantined", "Damaged rows of the spool that were set aside.", registry=r
        )
        self.settlements_lost = Counter(
            "forwarder_settlements_lost",
            "Events whose outcome was left alone: another replica owned them by then.",
            registry=r,
        )
        self.history_yielded = Counter(
            "forwarder_history_yielded", "Settled events whose payload was dropped early to make room.", registry=r
        )
        self.secrets_refused = Gauge(
            "forwarder_secrets_refused",
            "1 while secrets that changed are refused and the old ones stay in effect.",
            registry=r,
        )
        self.commit_duration = Histogram(
            "forwarder_commit_duration_seconds",
            "One commit of the spool, synced to disk; every acknowledgement waits for one.",
            buckets=_COMMIT_BUCKETS_S,
            registry=r,
        )
        self.log_suppressed = Counter(
            "forwarder_log_lines_suppressed",
            "Repeated warnings that were counted instead of logged.",
            ["event"],
            registry=r,
        )
        self.log_dropped = Counter(
            "forwarder_log_lines_dropped", "Log lines that nobody read in time; the daemon does not wait.", registry=r
        )

    def take_rejected_from(self) -> Mapping[tuple[str, str, str], int]:
        """Return what came to `rejected_from` since the last time."""
        taken, self.rejected_from = self.rejected_from, {}
        return taken

    def _begin_at_zero(self) -> None:
        """Show every label that is known beforehand, so that the first increase of each is seen as one."""
        for route in (one.value for one in RouteName):
            for by_route in (self.received, self.duplicates, self.request_duration, self.latency):
                by_route.labels(route)
            for state in State:
                self.settled.labels(route, state.value)
            for verdict in VERDICTS:
                self.requests.labels(route, verdict)
