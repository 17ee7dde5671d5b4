"""The waits after failures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.circuit import Backoff


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (100_000, 300.0)]
)
def test_ceiling(failures: int, ceiling_s: float) -> None:
    """The ceiling doubles from one second up to five minutes, and no count overflows it."""
    assert Backoff().ceiling_s(failures) == ceiling_s


@settings(deadline=None, max_examples=100)
@given(failures=st.integers(min_value=1, max_value=10_000), chance=st.floats(0, 1, exclude_max=True))
def test_delay_is_within_the_ceiling(failures: int, chance: float) -> None:
    """A delay is the given part of the ceiling: full jitter."""
    backoff = Backoff()
    assert backoff.delay_s(failures, lambda: chance) == backoff.ceiling_s(failures) * chance
