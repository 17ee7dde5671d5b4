"""Boundaries of the batcher: every one of them without sleeping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import OversizeDelivery
from forwarder.flow.batcher import Batcher, BatchLimits
from forwarder.model import Delivery

LIMITS = BatchLimits(deliveries_max=3, bytes_max=10, wait_max_s=2.0)


def _delivery(size: int, sequence: int = 1) -> Delivery:
    return Delivery(sequence=sequence, operation="track", body=b"x" * size)


def test_empty() -> None:
    """An empty batcher has nothing to send and is never due."""
    batcher = Batcher(LIMITS)
    assert batcher.take() is None
    assert batcher.due_at_s() is None
    assert "0 deliveries" in repr(batcher)


def test_age_counts_from_the_oldest() -> None:
    """A steady trickle does not postpone the batch."""
    batcher = Batcher(LIMITS)
    batcher.add(_delivery(1), now_s=5.0)
    batcher.add(_delivery(1), now_s=6.5)
    assert batcher.due_at_s() == 7.0


def test_full_by_count_is_due_at_once() -> None:
    """A batch that can take no more waits for nothing."""
    batcher = Batcher(LIMITS)
    for _ in range(3):
        assert batcher.fits(_delivery(1))
        batcher.add(_delivery(1), now_s=5.0)
    assert not batcher.fits(_delivery(1))
    assert batcher.is_full
    assert batcher.due_at_s() == 5.0
    assert len(batcher) == 3


@pytest.mark.parametrize(("size", "fits"), [(4, True), (5, False)], ids=["exactly full", "one byte over"])
def test_bytes(size: int, fits: bool) -> None:  # noqa: FBT001 - a table's column
    """The byte limit is inclusive."""
    batcher = Batcher(LIMITS)
    batcher.add(_delivery(6), now_s=0.0)
    assert batcher.fits(_delivery(size)) is fits


def test_oversize_is_told_apart() -> None:
    """What not even an empty batch takes is an error, and asking changes nothing."""
    batcher = Batcher(LIMITS)
    batcher.add(_delivery(1), now_s=0.0)
    with pytest.raises(OversizeDelivery, match="11 bytes"):
        batcher.fits(_delivery(11))
    assert len(batcher) == 1


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(min_value=1, max_value=60), max_size=60),
    count=st.integers(min_value=1, max_value=7),
    bytes_max=st.integers(min_value=60, max_value=200),
)
def test_batches_are_the_deliveries_cut_at_the_limits(sizes: list[int], count: int, bytes_max: int) -> None:
    """Whatever comes, batches joined are what was added, in order, and none passes a limit."""
    batcher = Batcher(BatchLimits(deliveries_max=count, bytes_max=bytes_max, wait_max_s=1.0))
    batches = []
    for sequence, size in enumerate(sizes):
        delivery = _delivery(size, sequence)
        if not batcher.fits(delivery):
            batches.append(batcher.take())
        batcher.add(delivery, now_s=float(sequence))
    batches.append(batcher.take())
    taken = [batch for batch in batches if batch is not None]
    assert [delivery.sequence for batch in taken for delivery in batch.deliveries] == list(range(len(sizes)))
    for batch in taken:
        assert 1 <= len(batch.deliveries) <= count
        assert batch.size_bytes == sum(len(delivery.body) for delivery in batch.deliveries) <= bytes_max
