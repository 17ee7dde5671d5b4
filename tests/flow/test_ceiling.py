"""What is learnt from a batch that was too large."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forwarder.flow.batcher import BatchLimits
from forwarder.flow.ceiling import SizeCeiling
from forwarder.flow.delivery import DeliveryLimits
from forwarder.model import Batch, Delivered, Refused, State, Verdict


def test_it_holds_for_a_while() -> None:
    """Half of what was refused is the limit for ten minutes; then the set limit is tried again."""
    ceiling = SizeCeiling(500)
    assert ceiling.bytes_max(now_s=0.0) == 500
    ceiling.refused(400, now_s=0.0)
    assert ceiling.bytes_max(now_s=599.0) == 200
    assert ceiling.bytes_max(now_s=600.0) == 500


@given(st.lists(st.integers(1, 10_000), max_size=20))
def test_it_only_falls_and_never_to_nothing(sizes: list[int]) -> None:
    """Each refusal leaves the limit where it was or lower, at least one byte, whatever came in which order."""
    ceiling = SizeCeiling(5_000)
    for size in sizes:
        before = ceiling.bytes_max(now_s=1.0)
        ceiling.refused(size, now_s=1.0)
        assert 1 <= ceiling.bytes_max(now_s=1.0) <= min(before, max(1, size // 2))
    assert repr(ceiling).startswith("SizeCeiling(")


async def test_later_batches_keep_below_what_was_refused(bench: Any, spool: Any) -> None:
    """A proxy that takes less than the set limit refuses a few batches, not every one; nothing is buried."""
    limits = DeliveryLimits(
        batch=BatchLimits(deliveries_max=100, bytes_max=100_000, wait_max_s=0.2), delivery_bytes_max=200_000
    )
    proxy_bytes_max = 3_000

    def judge(batch: Batch) -> Verdict:
        return Refused(reason="413: too large") if batch.size_bytes > proxy_bytes_max else Delivered()

    run = bench(judge, limits=limits, concurrency_max=1)
    run.sink.statuses[Refused] = 413
    for _ in range(1_000):
        spool.add(b"x" * 100)
    async with run.running():
        await run.settled()
    assert spool.states() == {State.DELIVERED: 1_000}
    refused = [batch for batch in run.sink.batches if batch.size_bytes > proxy_bytes_max]
    assert len(refused) <= 20  # of those that were gathered before the first answer, and their halves
    assert all(batch.size_bytes <= proxy_bytes_max for batch in run.sink.batches[-20:])
