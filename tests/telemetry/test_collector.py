"""The totals as metrics."""

from forwarder.archive_port import SpoolFacts
from forwarder.model import RouteName, Totals
from forwarder.telemetry.collector import TotalsCollector
from forwarder.telemetry.metrics import Metrics

_ROUTE = RouteName.COURIER_TO_RUDDERSTACK


def _facts(oldest_ms: int | None) -> SpoolFacts:
    told = Totals(accepted=10, pending=4, delivered=3, filtered=1, unmapped=0, dead=2)
    return SpoolFacts(
        size_bytes=4096,
        cap_bytes=8192,
        unsettled_bytes={_ROUTE: 77},
        totals={_ROUTE: told},
        oldest_pending_ms={_ROUTE: oldest_ms},
        retrying={_ROUTE: 2},
        open_dead={_ROUTE: 3},
        discarded={_ROUTE: 2},
        corrupt_rows=0,
        is_accepting=True,
        refusal="",
        engine="3.51.3",
    )


def test_nothing_is_told_before_the_first_snapshot() -> None:
    """A scrape before the spool was read shows no totals rather than zeros."""
    metrics = Metrics()
    metrics.registry.register(TotalsCollector())
    assert metrics.registry.get_sample_value("forwarder_spool_size_bytes") is None


def test_the_books_balance_in_one_scrape() -> None:
    """Accepted is the sum of the five states, and depth is what is pending."""
    metrics, collector = Metrics(), TotalsCollector()
    metrics.registry.register(collector)
    collector.show(_facts(1_000), now_ms=3_500)

    def sample(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"route": _ROUTE.value, **labels})

    states = ("pending", "delivered", "filtered", "unmapped", "dead")
    assert sample("forwarder_events", state="accepted") == sum(
        sample("forwarder_events", state=state) or 0 for state in states
    )
    assert sample("forwarder_spool_depth_events") == 4
    assert (sample("forwarder_open_dead_events"), sample("forwarder_discarded_events")) == (3, 2)
    assert sample("forwarder_spool_oldest_age_seconds") == 2.5
    assert metrics.registry.get_sample_value("forwarder_spool_size_bytes") == 4096


def test_an_age_is_never_negative() -> None:
    """A clock that was set back, or an empty spool, shows age 0."""
    metrics, collector = Metrics(), TotalsCollector()
    metrics.registry.register(collector)
    for oldest_ms in (5_000, None):
        collector.show(_facts(oldest_ms), now_ms=1_000)
        age = metrics.registry.get_sample_value("forwarder_spool_oldest_age_seconds", {"route": _ROUTE.value})
        assert age == 0
