"""A histogram that takes a whole batch at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from forwarder.telemetry.metrics import BatchHistogram

_BOUNDS = (0.1, 1, 10)


def _samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    (metric,) = histogram.collect()
    return [(one.name, one.labels, one.value) for one in metric.samples if not one.name.endswith("_created")]


@given(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0, 9.0, 10.0, 11.0, 1e9]), max_size=50))
def test_a_batch_counts_as_its_observations(amounts: list[float]) -> None:
    """Observing a batch gives what observing one by one gives, at every bound."""
    whole = BatchHistogram("h", "x", ["route"], buckets=_BOUNDS, registry=CollectorRegistry())
    single = Histogram("h", "x", ["route"], buckets=_BOUNDS, registry=CollectorRegistry())
    single.labels("r")
    whole.labels("r").observe_all(amounts)
    for amount in amounts:
        single.labels("r").observe(amount)
    for (name, labels, value), expected in zip(_samples(whole), _samples(single), strict=True):
        # From Python 3.12 on `sum` rounds less than one addition after the other does.
        assert (name, labels) == expected[:2]
        assert value == pytest.approx(expected[2])
