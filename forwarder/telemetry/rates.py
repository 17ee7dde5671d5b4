"""How fast events come and go now: the counters sampled each second, for a minute.

Reads the daemon's own counters, never the spool, so that looking costs delivery nothing. Memory is flat.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric

from forwarder.clock import wait_within
from forwarder.model import RouteName, State
from forwarder.ports import Clock
from forwarder.telemetry.metrics import Metrics

RECENT_S: Final = 10  # what "per second now" is the mean of
LATENCY_S: Final = 60
_TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One route's counters at one moment. `latencies`: delivered events by upper bound in seconds, cumulative."""

    received: float = 0.0
    delivered: float = 0.0
    latencies: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All counters at one moment."""

    at_s: float
    routes: dict[RouteName, Counts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What moves on a route now: means of the last ten seconds, latencies of the last minute (None: no delivery)."""

    in_per_s: float
    out_per_s: float
    p50_s: float | None
    p99_s: float | None


@dataclass(kw_only=True)
class Rates:
    """`ports.Worker`: sample until drained."""

    metrics: Metrics
    clock: Clock
    name: str = "rates"
    _recent: deque[Reading] = field(default_factory=lambda: deque(maxlen=LATENCY_S + 1))
    _drained: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Sample each second; see `ports.Worker`."""
        while not self._drained.is_set():
            self.sample()
            await wait_within(_TICK_S, self._drained)

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()

    def sample(self) -> None:
        """Read the counters once."""
        self._recent.append(Reading(at_s=self.clock.monotonic_s(), routes=read_counts(self.metrics)))

    def flow(self, route: RouteName) -> Flow:
        """Return what moves now; all zero before the second sample."""
        if len(self._recent) <= 1:
            return Flow(in_per_s=0.0, out_per_s=0.0, p50_s=None, p99_s=None)
        last, minute = self._recent[-1], self._recent[0]
        before = next((one for one in self._recent if last.at_s - one.at_s <= RECENT_S + _TICK_S / 2), minute)
        elapsed_s = max(last.at_s - before.at_s, 0.001)
        old, new = before.routes[route], last.routes[route]
        latencies = _between(minute.routes[route].latencies, last.routes[route].latencies)
        return Flow(
            in_per_s=max(0.0, new.received - old.received) / elapsed_s,
            out_per_s=max(0.0, new.delivered - old.delivered) / elapsed_s,
            p50_s=quantile(latencies, 0.5),
            p99_s=quantile(latencies, 0.99),
        )


def quantile(cumulative: Sequence[tuple[float, float]], share: float) -> float | None:
    """Estimate a quantile from cumulative counts by upper bound, evenly within a bound; None when all is zero.

    What is above the last finite bound is told as that bound.
    """
    total = cumulative[-1][1] if cumulative else 0.0
    if total <= 0:
        return None
    wanted, lower, below = share * total, 0.0, 0.0
    for upper, count in cumulative:
        if count >= wanted:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * ((wanted - below) / (count - below) if count > below else 1.0)
        lower, below = upper, count
    return lower


def _between(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]
) -> Sequence[tuple[float, float]]:
    known = dict(before)
    return [(bound, count - known.get(bound, 0.0)) for bound, count in after]


def read_counts(metrics: Metrics) -> dict[RouteName, Counts]:
    """Read the counters of each route."""
    received = dict(_values(metrics.received.collect(), "_total"))
    delivered = dict(_values(metrics.settled.collect(), "_total", outcome=State.DELIVERED.value))
    latencies: dict[str, list[tuple[float, float]]] = {}
    for metric in metrics.latency.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                latencies.setdefault(sample.labels["route"], []).append((float(sample.labels["le"]), sample.value))
    return {
        route: Counts(
            received=received.get(route.value, 0.0),
            delivered=delivered.get(route.value, 0.0),
            latencies=tuple(latencies.get(route.value, ())),
        )
        for route in RouteName
    }


def _values(collected: Iterable[Metric], suffix: str, **labels: str) -> Iterator[tuple[str, float]]:
    """Yield the value of each route among samples of that name and those labels."""
    for metric in collected:
        for sample in metric.samples:
            if sample.name.endswith(suffix) and labels.items() <= sample.labels.items():
                yield sample.labels["route"], sample.value
