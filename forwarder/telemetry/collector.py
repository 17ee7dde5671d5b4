"""The spool's totals as metrics, read at the scrape, so that all of them are one moment's truth.

`show` keeps a snapshot and `collect` renders it; whoever serves `/metrics` reads `Archive.facts()`, shows
it and renders without awaiting between. Before the first `show` there is nothing to tell.
"""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from forwarder.archive_port import SpoolFacts
from forwarder.model import State


class TotalsCollector(Collector):
    """Render a snapshot of the spool's facts; register it in the daemon's registry once."""

    def __init__(self) -> None:
        self._shown: tuple[SpoolFacts, int] | None = None

    def show(self, facts: SpoolFacts, *, now_ms: int) -> None:
        """Keep what the next scrape tells; ages are counted to `now_ms` (wall clock)."""
        self._shown = (facts, now_ms)

    def forget(self) -> None:
        """Tell nothing until the next `show`: what cannot be read now must not be told as if it were."""
        self._shown = None

    def describe(self) -> list[Metric]:
        """Name nothing in advance: the registry must not read an empty snapshot for names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the snapshot."""
        if self._shown is None:
            return
        facts, now_ms = self._shown
        yield from _of_routes(facts, now_ms)
        yield _gauge("forwarder_spool_size_bytes", "Used pages of the spool.", facts.size_bytes)
        yield _gauge("forwarder_spool_cap_bytes", "The spool's cap.", facts.cap_bytes)
        yield _gauge(
            "forwarder_spool_accepting", "1 while new events are taken, 0 at the cap.", int(facts.is_accepting)
        )
        yield _gauge("forwarder_spool_corrupt_rows", "Rows that were set aside as damaged.", facts.corrupt_rows)


def _of_routes(facts: SpoolFacts, now_ms: int) -> Iterator[Metric]:
    events = GaugeMetricFamily(
        "forwarder_events",
        "Durable totals per state, purged events included. accepted is the sum of the others.",
        labels=["route", "state"],
    )
    depth = GaugeMetricFamily("forwarder_spool_depth_events", "Events waiting or in flight.", labels=["route"])
    retrying = GaugeMetricFamily("forwarder_spool_retrying_events", "Events waiting for a retry.", labels=["route"])
    age = GaugeMetricFamily(
        "forwarder_spool_oldest_age_seconds",
        "Age of the oldest waiting event since its arrival or replay, 0 when none waits.",
        labels=["route"],
    )
    unsettled = GaugeMetricFamily("forwarder_spool_unsettled_bytes", "Payloads that wait.", labels=["route"])
    discarded = GaugeMetricFamily(
        "forwarder_discarded_events", "Dead events that were put aside and are still kept.", labels=["route"]
    )
    open_dead = GaugeMetricFamily(
        "forwarder_open_dead_events",
        "Dead events that are kept and not put aside: what is left to do.",
        labels=["route"],
    )
    for route, totals in facts.totals.items():
        events.add_metric([route.value, "accepted"], totals.accepted)
        for state in State:
            events.add_metric([route.value, state.value], getattr(totals, state.value))
        depth.add_metric([route.value], totals.pending)
        retrying.add_metric([route.value], facts.retrying.get(route, 0))
        unsettled.add_metric([route.value], facts.unsettled_bytes.get(route, 0))
        oldest_ms = facts.oldest_pending_ms.get(route)
        # A wall clock that was set back must not show a negative age.
        age.add_metric([route.value], max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else 0.0)
        discarded.add_metric([route.value], facts.discarded.get(route, 0))
        open_dead.add_metric([route.value], facts.open_dead.get(route, 0))
    yield from (events, depth, retrying, age, unsettled, discarded, open_dead)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)
