"""Rates and quantiles out of the daemon's counters."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.model import RouteName
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import Rates, quantile
from stand_ins.clock import HandClock

ROUTE = RouteName.COURIER_TO_RUDDERSTACK


def _sampled(seconds: int, per_second: int) -> tuple[Rates, Metrics, HandClock]:
    clock, metrics = HandClock(0), Metrics()
    rates = Rates(metrics=metrics, clock=clock)
    rates.sample()
    for _ in range(seconds):
        clock.now_s += 1
        metrics.received.labels(ROUTE.value).inc(per_second)
        metrics.settled.labels(ROUTE.value, "delivered").inc(per_second / 2)
        metrics.settled.labels(ROUTE.value, "filtered").inc(per_second / 2)
        rates.sample()
    return rates, metrics, clock


def test_nothing_is_told_before_there_are_two_samples() -> None:
    """At the start all rates are zero and latencies unknown."""
    flow = Rates(metrics=Metrics(), clock=HandClock(0)).flow(ROUTE)
    assert (flow.in_per_s, flow.out_per_s, flow.p50_s, flow.p99_s) == (0, 0, None, None)


def test_rates_are_the_mean_of_the_last_ten_seconds() -> None:
    """What came before does not count any more, and only what was delivered counts as out."""
    rates, metrics, clock = _sampled(30, 10)
    assert (rates.flow(ROUTE).in_per_s, rates.flow(ROUTE).out_per_s) == (10, 5)
    for _ in range(5):
        clock.now_s += 1
        metrics.received.labels(ROUTE.value).inc(30)
        rates.sample()
    assert rates.flow(ROUTE).in_per_s == 20
    assert rates.flow(RouteName.RUDDERSTACK_TO_COURIER).in_per_s == 0


def test_latencies_are_those_of_the_last_minute() -> None:
    """A delivery counts for a minute; then the latency is unknown again."""
    rates, metrics, clock = _sampled(5, 1)
    metrics.latency.labels(ROUTE.value).observe(0.07)
    clock.now_s += 1
    rates.sample()
    p50_s = rates.flow(ROUTE).p50_s
    assert p50_s is not None
    assert 0.05 <= p50_s <= 0.1
    for _ in range(61):
        clock.now_s += 1
        rates.sample()
    assert rates.flow(ROUTE).p50_s is None


@pytest.mark.parametrize(
    ("cumulative", "share", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0.0)], 0.5, None),
        ([(1.0, 10.0)], 0.5, 0.5),
        ([(1.0, 0.0), (2.0, 4.0)], 0.5, 1.5),
        ([(1.0, 1.0), (float("inf"), 100.0)], 0.99, 1.0),
        ([(1.0, 4.0), (2.0, 4.0)], 1.0, 1.0),
    ],
    ids=["nothing", "no delivery", "within the first", "within the second", "above all", "all"],
)
def test_quantiles(cumulative: list[tuple[float, float]], share: float, expected: float | None) -> None:
    """A quantile is estimated within its bucket; above the last bound it is that bound."""
    assert quantile(cumulative, share) == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_share_is_never_faster(counts: list[int], one: float, other: float) -> None:
    """Quantiles grow with their share and stay within the bounds."""
    cumulative = [(float(bound + 1), float(sum(counts[: bound + 1]))) for bound in range(len(counts))]
    low, high = (quantile(cumulative, share) for share in sorted((one, other)))
    if sum(counts):
        assert low is not None
        assert high is not None
        assert 0 <= low <= high <= len(counts)


async def test_the_worker_samples_until_drained() -> None:
    """It samples at once, and returns when drained."""
    rates = Rates(metrics=Metrics(), clock=HandClock(0))
    running = asyncio.create_task(rates.run())
    await asyncio.sleep(0)
    await rates.drain()
    await asyncio.wait_for(running, 2)
