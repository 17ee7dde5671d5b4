"""What is in hand, and which of it goes next."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.flow.batcher import BatchLimits
from forwarder.flow.parcels import Parcels
from forwarder.model import Delivery, Envelope, Lease, RouteName

LIMITS = BatchLimits(deliveries_max=3, bytes_max=10, wait_max_s=1.0)


def _pair(sequence: int, size: int = 1) -> tuple[Lease, Delivery]:
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK, event_key=b"k" * 16, partition_key="", received_at_ms=0, payload=b"{}"
    )
    lease = Lease(sequence=sequence, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)
    return lease, Delivery(sequence=sequence, operation="track", body=b"x" * size)


def _gathered(*sizes: int) -> Parcels:
    parcels = Parcels(LIMITS)
    for sequence, size in enumerate(sizes):
        parcels.gather(*_pair(sequence, size), now_s=0.0)
    return parcels


def test_idle_route_waits_for_nothing() -> None:
    """The open batch goes at once when nothing is in flight, else when it is due."""
    parcels = _gathered(1)
    assert parcels.next(now_s=0.5, is_idle=False, is_probing=False) is None
    assert parcels.due_at_s() == 1.0
    assert parcels.next(now_s=1.0, is_idle=False, is_probing=False) is not None
    idle = _gathered(1)
    assert idle.next(now_s=0.0, is_idle=True, is_probing=False) is not None
    assert idle.next(now_s=0.0, is_idle=True, is_probing=False) is None
    assert idle.due_at_s() is None


def test_full_batch_is_ready() -> None:
    """A batch that is full by count or bytes waits for nothing; what no batch takes is a parcel of its own."""
    parcels = _gathered(1, 1, 1, 9, 11, 2)
    sizes = []
    while (parcel := parcels.next(now_s=0.0, is_idle=False, is_probing=False)) is not None:
        sizes.append([len(delivery.body) for delivery in parcel.batch.deliveries])
    assert sizes == [[1, 1, 1], [11], [9]]
    assert "0 ready, 0 waiting" in repr(parcels)


def test_probe_prefers_what_never_failed() -> None:
    """A probe that asks whether the destination is back had better not be poison itself."""
    parcels = _gathered(1, 1, 1)
    failed = parcels.next(now_s=0.0, is_idle=True, is_probing=False)
    assert failed is not None
    failed.failures = 1
    parcels.queue(failed)
    assert parcels.untried == 0
    parcels.gather(*_pair(9), now_s=0.0)
    assert parcels.untried == 1
    probe = parcels.next(now_s=0.0, is_idle=True, is_probing=True)
    assert probe is not None
    assert probe.sequences == (9,)
    assert parcels.next(now_s=0.0, is_idle=True, is_probing=True) is failed


def test_waiting_parcel_comes_back_in_time() -> None:
    """What waits for its own retry is not sent before, and is counted meanwhile."""
    parcels = _gathered(1, 1, 1)
    parcel = parcels.next(now_s=0.0, is_idle=True, is_probing=False)
    assert parcel is not None
    parcels.wait(parcel, until_s=5.0)
    assert parcels.waiting_events == 3
    assert parcels.due_at_s() == 5.0
    assert parcels.next(now_s=4.9, is_idle=True, is_probing=False) is None
    assert parcels.next(now_s=5.0, is_idle=True, is_probing=False) is parcel


def test_bisection_goes_deep_before_wide() -> None:
    """The halves of a refused batch come before everything else, first half first, and inherit its failures."""
    parcels = _gathered(1, 1, 1, 1)
    parcel = parcels.next(now_s=0.0, is_idle=True, is_probing=False)
    assert parcel is not None
    parcel.failures, parcel.strikes = 5, 4
    parcels.queue_first(*parcel.halves())
    first = parcels.next(now_s=0.0, is_idle=True, is_probing=False)
    second = parcels.next(now_s=0.0, is_idle=True, is_probing=False)
    assert first is not None
    assert second is not None
    assert (first.sequences, second.sequences) == ((0,), (1, 2))
    assert (first.failures, first.strikes) == (5, 4)


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 14), max_size=30),
    steps=st.lists(st.sampled_from(["next", "probe", "halve", "wait", "queue"]), max_size=30),
)
def test_no_lease_is_lost_or_doubled(sizes: list[int], steps: list[str]) -> None:
    """Whatever is done with parcels, each lease that was gathered is in exactly one place."""
    parcels = _gathered(*sizes)
    gone: list[int] = []
    now_s = 0.0
    for step in steps:
        now_s += 0.3
        parcel = parcels.next(now_s=now_s, is_idle=True, is_probing=step == "probe")
        if parcel is None:
            continue
        if step == "halve" and len(parcel.leases) > 1:
            parcels.queue_first(*parcel.halves())
        elif step == "wait":
            parcels.wait(parcel, until_s=now_s + 1)
        elif step == "queue":
            parcel.failures += 1
            parcels.queue(parcel)
        else:
            assert parcel.sequences == tuple(delivery.sequence for delivery in parcel.batch.deliveries)
            gone.extend(parcel.sequences)
    left = [lease.sequence for lease in parcels.take_all()]
    assert sorted(gone + left) == list(range(len(sizes)))
    assert parcels.take_all() == []
