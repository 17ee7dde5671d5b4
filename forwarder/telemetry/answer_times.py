"""How fast the public endpoints answer, and with which status: counted by plain numbers, as every request pays for it.

For one thread: who counts and who scrapes are both the event loop.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_YES = range(200, 300)
_BOUNDS = (*map(str, _BOUNDS_S), "+Inf")


class _Endpoint:
    __slots__ = ("counts", "statuses", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum_s = 0.0
        self.statuses: dict[int, int] = {}


class Answers(Collector):
    """Answers by endpoint; register it in the daemon's registry once."""

    def __init__(self) -> None:
        self._endpoints: dict[str, _Endpoint] = {}

    def expect(self, endpoint: str, statuses: Iterable[int]) -> None:
        """Show the endpoint, and each of these statuses as 0, before the first request."""
        known = self._endpoints.setdefault(endpoint, _Endpoint()).statuses
        for status in statuses:
            known.setdefault(status, 0)

    def add(self, endpoint: str, status: int, duration_s: float) -> None:
        """Count an answer. The endpoint is one that is expected, or another of a closed set."""
        one = self._endpoints.get(endpoint)
        if one is None:
            one = self._endpoints[endpoint] = _Endpoint()
        one.counts[bisect_left(_BOUNDS_S, duration_s)] += 1
        one.sum_s += duration_s
        one.statuses[status] = one.statuses.get(status, 0) + 1

    def accepted(self) -> dict[str, int]:
        """Return how many requests each endpoint said yes to."""
        return {
            name: sum(count for status, count in one.statuses.items() if status in _YES)
            for name, one in self._endpoints.items()
        }

    def describe(self) -> list[Metric]:
        """Name the metrics without reading anything."""
        return [*_families()]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        durations, answers = _families()
        for name, one in self._endpoints.items():
            total, buckets = 0, []
            for bound, count in zip(_BOUNDS, one.counts, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric([name], buckets, one.sum_s)
            for status, count in one.statuses.items():
                answers.add_metric([name, str(status)], count)
        yield durations
        yield answers


def _families() -> tuple[HistogramMetricFamily, CounterMetricFamily]:
    return (
        HistogramMetricFamily(
            "forwarder_answer_duration_seconds",
            "From a request's head to its answer, the commit included.",
            labels=["endpoint"],
        ),
        CounterMetricFamily("forwarder_answers", "Answers of the public listener.", labels=["endpoint", "status"]),
    )
