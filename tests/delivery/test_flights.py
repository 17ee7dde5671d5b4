"""What is in hand, which of it goes next, and how its events settle."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.flights import BatchLimits, Flight, Flights, batch_of
from forwarder.delivery.policy import ROUTE, Decision, Outcome
from forwarder.model import (
    Answer,
    Attempt,
    Delivered,
    Delivery,
    Envelope,
    Filtered,
    Lease,
    Refused,
    RouteName,
    Settled,
    State,
)

ATTEMPT = Attempt(at_ms=0, duration_ms=1, operation="x", status=200, outcome="", reason="", answer=b"")
ANSWER = Answer(verdict=Delivered(), attempt=ATTEMPT)
LIMITS = BatchLimits(deliveries_max=3, bytes_max=10, wait_max_s=1.0)


def _pair(sequence: int, size: int = 1) -> tuple[Lease, Delivery]:
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK, event_key=b"k" * 16, partition_key="", received_at_ms=0, payload=b"{}"
    )
    lease = Lease(sequence=sequence, attempt=1, envelope=envelope)
    return lease, Delivery(sequence=sequence, operation="track", body=b"x" * size)


def _gathered(*sizes: int) -> Flights:
    flights = Flights(LIMITS)
    flights.gather([_pair(sequence, size) for sequence, size in enumerate(sizes)], now_s=0.0)
    return flights


def test_idle_route_waits_for_nothing() -> None:
    """The open batch goes at once when nothing is in flight, else when it is due."""
    flights = _gathered(1)
    assert flights.next(now_s=0.5, is_idle=False, is_probing=False) is None
    assert flights.due_at_s() == 1.0
    assert flights.next(now_s=1.0, is_idle=False, is_probing=False) is not None
    idle = _gathered(1)
    assert idle.next(now_s=0.0, is_idle=True, is_probing=False) is not None
    assert idle.next(now_s=0.0, is_idle=True, is_probing=False) is None
    assert idle.due_at_s() is None


def test_full_batch_is_ready() -> None:
    """A batch that is full by count or bytes waits for nothing; what no batch takes is a flight of its own."""
    flights = _gathered(1, 1, 1, 9, 11, 2)
    sizes = []
    while (flight := flights.next(now_s=0.0, is_idle=False, is_probing=False)) is not None:
        sizes.append([len(delivery.body) for delivery in flight.batch.deliveries])
    assert sizes == [[1, 1, 1], [11], [9]]
    assert "1 gathering, 0 ready, 0 waiting" in repr(flights)


def test_probe_prefers_what_never_failed() -> None:
    """A probe that asks whether the destination is back had better not be poison itself."""
    flights = _gathered(1, 1, 1)
    failed = flights.next(now_s=0.0, is_idle=True, is_probing=False)
    assert failed is not None
    failed.failures = 1
    flights.queue(failed)
    assert flights.untried == 0
    flights.gather([_pair(9)], now_s=0.0)
    assert flights.untried == 1
    probe = flights.next(now_s=0.0, is_idle=True, is_probing=True)
    assert probe is not None
    assert probe.sequences == [9]
    assert flights.next(now_s=0.0, is_idle=True, is_probing=True) is failed


def test_waiting_flight_comes_back_in_time() -> None:
    """What waits for its own retry is not sent before, and is counted meanwhile."""
    flights = _gathered(1, 1, 1)
    flight = flights.next(now_s=0.0, is_idle=True, is_probing=False)
    assert flight is not None
    flights.wait(flight, until_s=5.0)
    assert flights.waiting_events == 3
    assert flights.due_at_s() == 5.0
    assert flights.next(now_s=4.9, is_idle=True, is_probing=False) is None
    assert flights.next(now_s=5.0, is_idle=True, is_probing=False) is flight


def test_bisection_goes_deep_before_wide() -> None:
    """The halves of a refused batch come before everything else, first half first, and inherit its failures."""
    flights = _gathered(1, 1, 1, 1)
    flight = flights.next(now_s=0.0, is_idle=True, is_probing=False)
    assert flight is not None
    flight.failures, flight.failed_alone = 5, 4
    flights.queue_first(*flight.halves())
    first = flights.next(now_s=0.0, is_idle=True, is_probing=False)
    second = flights.next(now_s=0.0, is_idle=True, is_probing=False)
    assert first is not None
    assert second is not None
    assert (first.sequences, second.sequences) == ([0], [1, 2])
    assert (first.failures, first.failed_alone) == (5, 4)


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 14), max_size=30),
    steps=st.lists(st.sampled_from(["next", "probe", "halve", "wait", "queue"]), max_size=30),
)
def test_no_lease_is_lost_or_doubled(sizes: list[int], steps: list[str]) -> None:
    """Whatever is done with flights, each lease that was gathered is in exactly one place."""
    flights = _gathered(*sizes)
    gone: list[int] = []
    now_s = 0.0
    for step in steps:
        now_s += 0.3
        flight = flights.next(now_s=now_s, is_idle=True, is_probing=step == "probe")
        if flight is None:
            continue
        if step == "halve" and len(flight.leases) > 1:
            flights.queue_first(*flight.halves())
        elif step == "wait":
            flights.wait(flight, until_s=now_s + 1)
        elif step == "queue":
            flight.failures += 1
            flights.queue(flight)
        else:
            assert flight.sequences == [delivery.sequence for delivery in flight.batch.deliveries]
            gone.extend(flight.sequences)
    left = [sequence for flight in flights.take_all() for sequence in flight.sequences]
    assert sorted(gone + left) == list(range(len(sizes)))
    assert flights.take_all() == []


def test_age_counts_from_the_oldest() -> None:
    """A steady trickle does not postpone the batch."""
    flights = Flights(LIMITS)
    flights.gather([_pair(1)], now_s=5.0)
    flights.gather([_pair(2)], now_s=5.9)
    assert flights.due_at_s() == 6.0
    assert flights.next(now_s=5.99, is_idle=False, is_probing=False) is None
    flight = flights.next(now_s=6.0, is_idle=False, is_probing=False)
    assert flight is not None
    assert flight.sequences == [1, 2]
    flights.gather([_pair(3)], now_s=9.0)
    assert flights.due_at_s() == 10.0


@given(sizes=st.lists(st.integers(1, 70), max_size=60), count=st.integers(1, 7), bytes_max=st.integers(1, 200))
def test_batches_are_the_deliveries_cut_at_the_limits(sizes: list[int], count: int, bytes_max: int) -> None:
    """Whatever comes, batches hold what was gathered, in order, and none passes a limit but what must go alone."""
    flights = Flights(BatchLimits(deliveries_max=count, bytes_max=bytes_max, wait_max_s=1.0))
    for sequence, size in enumerate(sizes):
        flights.gather([_pair(sequence, size)], now_s=0.0)
    taken = []
    while (flight := flights.next(now_s=0.0, is_idle=True, is_probing=False)) is not None:
        taken.append(flight)
    assert sorted(sequence for flight in taken for sequence in flight.sequences) == list(range(len(sizes)))
    in_batches = [s for flight in taken for s in flight.sequences if sizes[s] <= bytes_max]
    assert in_batches == sorted(in_batches)
    for one in taken:
        size = one.batch.size_bytes
        assert size == sum(len(delivery.body) for delivery in one.batch.deliveries)
        assert 1 <= len(one.leases) <= count
        assert size <= bytes_max or len(one.leases) == 1


def test_what_was_too_large_is_remembered_for_a_while() -> None:
    """Half of what was refused is the limit for ten minutes, and it only falls; then the set one is tried."""
    flights = Flights(BatchLimits(deliveries_max=100, bytes_max=500, wait_max_s=1.0))
    assert flights.bytes_max(now_s=0.0) == 500
    for size, limit in ((400, 200), (1_000, 200), (100, 50), (1, 1)):
        flights.too_large(Flight(leases=(), batch=batch_of([_pair(1, size)[1]])), now_s=0.0)
        assert flights.bytes_max(now_s=0.0) == limit
    assert flights.bytes_max(now_s=599.9) == 1
    assert flights.bytes_max(now_s=600.0) == 500
    flights.too_large(Flight(leases=(), batch=batch_of([_pair(1, 400)[1]])), now_s=600.0)
    flights.gather([_pair(n, 100) for n in range(4)], now_s=601.0)
    first = flights.next(now_s=601.0, is_idle=False, is_probing=False)
    assert first is not None
    assert first.sequences == [0, 1]


def test_retries_are_counted() -> None:
    """What is ready and on a retry is known, so that it takes no more than its share."""
    flights = _gathered(1, 1, 1)
    lease, delivery = _pair(9)
    flights.queue(Flight(leases=(msgspec.structs.replace(lease, is_retry=True),), batch=batch_of([delivery])))
    assert (flights.ready, flights.retries) == (2, 1)


def test_halves_are_halves() -> None:
    """A flight is cut in the middle, and each half knows what the whole knew."""
    pairs = [_pair(sequence, sequence) for sequence in range(1, 7)]
    whole = Flight(leases=tuple(lease for lease, _ in pairs), batch=batch_of([body for _, body in pairs]))
    whole.failures, whole.failed_alone, whole.passes_seen = 3, 2, ("send", 9)
    first, second = whole.halves()
    assert (first.sequences, second.sequences) == ([1, 2, 3], [4, 5, 6])
    assert (first.batch.size_bytes, second.batch.size_bytes) == (6, 15)
    for half in (first, second):
        assert (half.failures, half.failed_alone, half.passes_seen) == (3, 2, ("send", 9))


@pytest.mark.parametrize(("progress", "holds"), [(b"", 0), (b"{}", 0), (b'{"holds":3}', 3), (b"[", 0), (b"[1]", 0)])
def test_what_is_kept_of_holds(progress: bytes, holds: int) -> None:
    """How many holds a lone event began is read from what was kept; what cannot be read counts as nothing."""
    lease, delivery = _pair(1)
    flight = Flight(leases=(msgspec.structs.replace(lease, progress=progress),), batch=batch_of([delivery]))
    assert flight.holds == holds
    assert flight.progress() is None
    assert not flight.end(Decision(outcome=Outcome.SET_ASIDE, holds=4), ANSWER)
    assert flight.progress() == b'{"holds":4}'
    assert (flight.unkept(), flight.is_through, flight.group, flight.begin()) == (None, False, ROUTE, flight.batch)


def test_how_events_of_a_batch_settle() -> None:
    """Delivered, filtered, refused with the destination's words, or given up; a note stands with its event alone."""
    (one, first), (two, second) = _pair(1), _pair(2)
    noted = Flight(leases=(one, two), batch=batch_of([first, msgspec.structs.replace(second, note="renamed")]))
    done = Decision(outcome=Outcome.DONE)
    assert noted.ending(done, Delivered(), ATTEMPT) == (
        [Settled([1], State.DELIVERED, "", ATTEMPT), Settled([2], State.DELIVERED, "renamed", ATTEMPT)],
        "",
    )
    alone = Flight(leases=(two,), batch=batch_of([msgspec.structs.replace(second, note="renamed")]))
    assert alone.ending(done, Delivered(), ATTEMPT) == ([Settled([2], State.DELIVERED, "renamed", ATTEMPT)], "")
    plain = Flight(leases=(one, two), batch=batch_of([first, second]))
    assert plain.ending(done, Delivered(), ATTEMPT) == ([Settled([1, 2], State.DELIVERED, "", ATTEMPT)], "")
    assert plain.ending(done, Filtered(reason="f"), ATTEMPT) == ([Settled([1, 2], State.FILTERED, "f", ATTEMPT)], "")
    refused = Decision(outcome=Outcome.REFUSED)
    assert plain.ending(refused, Refused(reason="400", words="w"), ATTEMPT) == (
        [Settled([1, 2], State.DEAD, "400: w", ATTEMPT)],
        "400",
    )
    assert plain.ending(refused, Refused(reason="400"), ATTEMPT)[0] == [Settled([1, 2], State.DEAD, "400", ATTEMPT)]
    given_up = Decision(outcome=Outcome.DEAD, reason="keeps failing: 500")
    assert plain.ending(given_up, Refused(reason="400"), ATTEMPT) == (
        [Settled([1, 2], State.DEAD, "keeps failing: 500", ATTEMPT)],
        "keeps failing: 500",
    )
