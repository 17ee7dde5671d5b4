"""Every metric of the daemon, with its meaning. Labels come from closed sets only.

The books, the depth and the spool's size are read at the scrape (see `BookCollector`), so that they are
one moment's truth; the `_total` counters count transitions since the start.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)


class BatchHistogram(Histogram):
    """A histogram that takes a whole batch for the price of one observation."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe every amount."""
        for bucket, count in Tally([bisect_left(self._upper_bounds, amount) for amount in amounts]).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(amounts))


class Metrics:
    """The daemon's metrics in a registry of their own, so that two daemons in one test do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.received = Counter(
            "forwarder_events_received", "Unique events accepted (on disk) since the start.", ["route"], registry=r
        )
        self.duplicates = Counter(
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
        self.route_state = Gauge(
            "forwarder_route_state",
            "1 for the state the route is in, 0 for the others.",
            ["route", "state"],
            registry=r,
        )
        self.rejected = Counter(
            "forwarder_rejected", "Requests turned away at a door.", ["endpoint", "reason"], registry=r
        )
        self.loops_stopped = Counter(
            "forwarder_loops_stopped",
            "Events of Courier's own that came back and were filtered, so that none starts what sent it.",
            registry=r,
        )
        self.quarantined = Counter(
            "forwarder_rows_quarantined", "Damaged rows of the spool that were set aside.", registry=r
        )
        self.history_yielded = Counter(
            "forwarder_history_yielded", "Settled events whose payload was dropped early to make room.", registry=r
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
