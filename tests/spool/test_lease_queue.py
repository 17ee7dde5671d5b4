"""The lease queue by itself: a read sees a moment that is past when it is heard, and no event is leased twice."""

import pytest

from forwarder.model import Demand, Envelope, Lease, RouteName
from forwarder.spool.held_leases import RETRY
from forwarder.spool.lease_queue import LeaseQueue
from forwarder.spool.lease_window import Arrival, Refill, Wanted

ANY = Demand(fresh_max=100, retry_max=100, bytes_max=10**6)


def lease(sequence: int, *, partition: str = "", is_retry: bool = False) -> Lease:
    """Return an event that waits."""
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK,
        event_key=sequence.to_bytes(16, "big"),
        partition_key=partition,
        received_at_ms=0,
        payload=b"x" * 100,
    )
    return Lease(sequence=sequence, attempt=1 + is_retry, envelope=envelope, is_retry=is_retry)


@pytest.fixture
def queue() -> LeaseQueue:
    """Return a queue that knows nothing yet."""
    return LeaseQueue(last_sequence=0, cache_bytes_max=10_000)


def wants(queue: LeaseQueue) -> Wanted:
    """Begin a read."""
    return queue.wants(ANY, now_ms=1_000)


def read(queue: LeaseQueue, wanted: Wanted, *fresh: Lease, last: int, is_all: bool = True) -> None:
    """End a read that brought these, and saw so much of the log."""
    up_to = last if is_all else fresh[-1].sequence
    refill = Refill(last_sequence=last, fresh=list(fresh), up_to=up_to, is_all=is_all)
    queue.refilled(refill, wanted, generation=queue.generation)


def taken(queue: LeaseQueue) -> list[int]:
    """Lease one after the other, settle each at once, and return the sequences."""
    one_by_one = Demand(fresh_max=1, retry_max=1, bytes_max=1)
    sequences: list[int] = []
    while leases := queue.take(one_by_one):
        queue.settled(leases)
        sequences += [one.sequence for one in leases]
    return sequences


def test_what_arrives_beside_a_read_is_leased_once(queue: LeaseQueue) -> None:
    """An event that the read saw and that was told too comes once, and what the read did not see behind it."""
    wanted = wants(queue)
    queue.arrived(Arrival(leases=[lease(1), lease(2)]), last_sequence=2)
    queue.arrived(Arrival(leases=[lease(3)]), last_sequence=3)
    read(queue, wanted, lease(1), lease(2), last=2)
    assert [taken(queue), taken(queue)] == [[1, 2, 3], []]
    assert queue.window.is_caught_up


def test_a_read_may_be_faster_than_the_news(queue: LeaseQueue) -> None:
    """An event that was read before its commit was told comes once."""
    read(queue, wants(queue), lease(1), lease(2), last=2)
    queue.arrived(Arrival(leases=[lease(1)]), last_sequence=1)
    queue.arrived(Arrival(leases=[lease(2), lease(3)]), last_sequence=3)
    assert [taken(queue), taken(queue)] == [[1, 2, 3], []]


def test_what_was_settled_beside_a_read_does_not_come_back(queue: LeaseQueue) -> None:
    """A probe's event that was settled, or waits now, while an older moment was read is left out of it."""
    wanted = wants(queue)
    for sequence in (3, 4):
        probe = queue.lease_read(lease(sequence), is_listed=False)
        assert probe is not None
    queue.settled([lease(3)])
    queue.given_back(lease(4), is_head=True, kind=RETRY, not_before_ms=9_000)
    read(queue, wanted, lease(1), lease(2), lease(3), lease(4), last=4)
    assert [taken(queue), taken(queue)] == [[1, 2], []]
    assert queue.due.earliest_ms() == 9_000


def test_a_probe_that_was_read_late_is_not_leased(queue: LeaseQueue) -> None:
    """What was settled while the newest was looked for is not leased to who looked."""
    read(queue, wants(queue), lease(1), last=1)
    queue.meanwhile.begin()
    assert taken(queue) == [1]
    assert queue.lease_read(lease(1), is_listed=False) is None
    queue.meanwhile.end()


def test_a_head_that_moved_beside_a_read_is_seen(queue: LeaseQueue) -> None:
    """A newer event of a partition whose older one was replayed meanwhile is not taken from the read."""
    wanted = wants(queue)
    queue.requeued({"u": 2})
    read(queue, wanted, lease(5, partition="u"), lease(6), last=6)
    assert taken(queue) == [6]


def test_a_follower_that_moved_up_beside_a_read_is_not_lost(queue: LeaseQueue) -> None:
    """The read saw it behind its head: it is wanted by itself, once."""
    wanted = wants(queue)
    queue.promoted(5)
    read(queue, wanted, lease(6), last=6)
    again = wants(queue)
    assert again.promoted == (5,)
    refill = Refill(last_sequence=6, promoted=[lease(5, partition="u")])
    queue.refilled(refill, again, generation=queue.generation)
    assert [taken(queue), taken(queue)] == [[5, 6], []]
    assert not wants(queue).promoted


def test_a_window_that_overflows_is_read_on(queue: LeaseQueue) -> None:
    """Memory stays flat: beyond the limit the cursor reads from the last one that is kept; what left weighs nothing."""
    read(queue, wants(queue), last=0)
    for sequence in range(1, 40):
        queue.arrived(Arrival(leases=[lease(sequence)]), last_sequence=sequence)
        assert taken(queue) == [sequence]
    for sequence in range(40, 80):
        queue.arrived(Arrival(leases=[lease(sequence)]), last_sequence=sequence)
    kept = taken(queue)
    assert kept == list(range(40, 40 + len(kept)))
    assert len(kept) == 10_000 // 612  # a payload of 100 bytes, and what an event weighs beside it
    assert wants(queue).after == kept[-1]


def test_more_that_arrives_beside_a_read_than_may_be_kept_is_read_on(queue: LeaseQueue) -> None:
    """The read does not catch up then; the next one begins behind it."""
    wanted = wants(queue)
    for sequence in range(2, 40):
        queue.arrived(Arrival(leases=[lease(sequence)]), last_sequence=sequence)
    read(queue, wanted, lease(1), last=1)
    assert taken(queue) == [1]
    assert wants(queue).after == 1


def test_a_read_from_before_a_reset_is_not_taken(queue: LeaseQueue) -> None:
    """What was asked for by another generation says nothing any more."""
    wanted, generation = wants(queue), queue.generation
    queue.reset()
    queue.refilled(Refill(last_sequence=1, fresh=[lease(1)], up_to=1, is_all=True), wanted, generation=generation)
    assert taken(queue) == []
    assert wants(queue).after == 0


def test_a_retry_that_came_back_before_a_read_is_not_lost_to_another_read(queue: LeaseQueue) -> None:
    """An event given back beside a probe's look, and read by the refill behind that look, is read once more."""
    read(queue, wants(queue), lease(1), last=1)
    assert [one.sequence for one in queue.take(ANY)] == [1]
    queue.meanwhile.begin()
    queue.given_back(lease(1), is_head=True, kind=RETRY, not_before_ms=500)
    wanted = wants(queue)
    queue.meanwhile.end()
    back = Refill(last_sequence=1, due=[[], [(500, lease(1, is_retry=True))], []])
    queue.refilled(back, wanted, generation=queue.generation)
    assert queue.has_work(now_ms=1_000)
    queue.refilled(back, wants(queue), generation=queue.generation)
    assert [taken(queue), taken(queue)] == [[1], []]
    queue.refilled(Refill(last_sequence=1), wants(queue), generation=queue.generation)
    assert not queue.has_work(now_ms=1_000)


def test_a_follower_that_moved_up_before_a_read_is_not_lost_to_another_read(queue: LeaseQueue) -> None:
    """Its older one was replayed and settled beside a probe's look; the refill behind that look may read it twice."""
    read(queue, wants(queue), last=5)
    queue.meanwhile.begin()
    queue.requeued({"u": 2})
    queue.promoted(5)
    wanted = wants(queue)
    queue.meanwhile.end()
    up = Refill(last_sequence=5, promoted=[lease(5, partition="u")])
    queue.refilled(up, wanted, generation=queue.generation)
    again = wants(queue)
    assert again.promoted == (5,)
    queue.refilled(up, again, generation=queue.generation)
    assert [taken(queue), taken(queue)] == [[5], []]
    assert not wants(queue).promoted


def leased_and_back(queue: LeaseQueue, *leases: Lease) -> None:
    """Have events leased, and given back as if they had never been."""
    queue.arrived(Arrival(leases=list(leases)), last_sequence=leases[-1].sequence)
    queue.give_back_unchanged(queue.take(ANY))


def test_whom_a_replay_overtakes_waits(queue: LeaseQueue) -> None:
    """In the window, fresh again, on a retry, or behind one in flight: only the oldest of a partition is leased."""
    read(queue, wants(queue), last=0)
    leased_and_back(queue, lease(5, partition="b"), lease(6, partition="c", is_retry=True), lease(7))
    queue.arrived(Arrival(leases=[lease(8, partition="d")]), last_sequence=8)
    queue.arrived(Arrival(leases=[lease(9, partition="a"), lease(10, partition="e")]), last_sequence=10)
    assert queue.lease_read(lease(8, partition="d"), is_listed=False) is not None
    assert queue.lease_read(lease(4, partition="d"), is_listed=False) is None  # it stands behind the eighth
    queue.requeued({"a": 1, "b": 1, "c": 2, "d": 3, "e": 10})
    assert [one.sequence for one in queue.take(ANY)] == [7, 10]
    queue.settled([lease(8, partition="d")])
    assert queue.take(ANY) == []


def test_who_stood_behind_one_in_flight_follows_it(queue: LeaseQueue) -> None:
    """Once that is settled, and unless a replay made another one the oldest meanwhile."""
    read(queue, wants(queue), last=0)
    queue.arrived(Arrival(leases=[lease(8, partition="d"), lease(9)]), last_sequence=9)
    assert queue.lease_read(lease(8, partition="d"), is_listed=False) is not None
    assert queue.lease_read(lease(4, partition="d"), is_listed=False) is None
    assert queue.out_of_reach() == {4, 8}
    queue.requeued({"d": 4})
    assert [one.sequence for one in queue.take(ANY)] == [9]
    queue.settled([lease(8, partition="d")])
    assert [one.sequence for one in queue.take(ANY)] == [4]


def test_what_memory_holds_knows_more_than_a_read(queue: LeaseQueue) -> None:
    """A probe's event comes out of the window, or from among those that came back, as it stands there."""
    read(queue, wants(queue), last=0)
    queue.arrived(Arrival(leases=[lease(1), lease(2), lease(3)]), last_sequence=3)
    held = queue.take(Demand(fresh_max=1, retry_max=0, bytes_max=1))
    queue.noted(1, b"half done")
    queue.give_back_unchanged([queue.leased[one.sequence] for one in held])
    for sequence, progress in ((1, b"half done"), (2, b"")):
        found = queue.lease_read(lease(sequence), is_listed=False)
        assert found is not None
        assert found.progress == progress
    assert queue.lease_read(lease(1), is_listed=False) is None
    assert taken(queue) == [3]


def test_bytes_bound_what_is_leased_at_once(queue: LeaseQueue) -> None:
    """One at least, of either kind; then as many as fit whole, the oldest first."""
    read(queue, wants(queue), last=0)
    leased_and_back(queue, *[lease(n, is_retry=n < 3) for n in range(1, 7)])
    for size, sequences in ((99, [1]), (200, [2, 3]), (299, [4, 5]), (100, [6])):
        assert [one.sequence for one in queue.take(Demand(fresh_max=9, retry_max=9, bytes_max=size))] == sequences


def test_a_demand_bounds_each_kind(queue: LeaseQueue) -> None:
    """No more retries, and no more fresh ones, than it asks for; what is on hand of the other kind changes nothing."""
    read(queue, wants(queue), last=0)
    leased_and_back(queue, *[lease(n, is_retry=n % 2 == 0) for n in range(1, 9)])
    for fresh, retry, sequences in ((0, 1, [2]), (1, 0, [1]), (2, 1, [3, 4, 5]), (9, 9, [6, 7, 8])):
        assert [
            one.sequence for one in queue.take(Demand(fresh_max=fresh, retry_max=retry, bytes_max=10**6))
        ] == sequences


def test_what_is_erased_is_nowhere_any_more(queue: LeaseQueue) -> None:
    """In the window, fresh again, on a retry, parked, behind, to be read, or brought by a read from before."""
    read(queue, wants(queue), last=0)
    leased_and_back(queue, lease(1), lease(2, is_retry=True), lease(3))
    queue.arrived(Arrival(leases=[lease(8, partition="d")], behind=[lease(9, partition="d")]), last_sequence=9)
    assert queue.lease_read(lease(8, partition="d"), is_listed=False) is not None
    assert queue.lease_read(lease(4, partition="d"), is_listed=False) is None  # parked
    queue.arrived(Arrival(leases=[lease(10), lease(11)]), last_sequence=11)
    queue.promoted(5)
    queue.due.take_read(RETRY, None)
    wanted = wants(queue)
    queue.erased({1, 2, 4, 5, 9, 10, 12})
    queue.settled([lease(8, partition="d")])
    late = Refill(last_sequence=11, due=[[], [(500, lease(12, is_retry=True))], []], promoted=[lease(5, partition="e")])
    queue.refilled(late, wanted, generation=queue.generation)
    assert [taken(queue), taken(queue)] == [[3, 11], []]
    assert wants(queue).promoted == (5,)  # the next read finds it settled


@pytest.mark.parametrize("is_erased", [False, True])
def test_what_was_let_go_of_takes_no_others_room(queue: LeaseQueue, *, is_erased: bool) -> None:
    """Retries that were erased, or put behind a replay, are none at hand: the next ones are read."""
    back = [(500, lease(1, partition="a", is_retry=True))]
    refill = Refill(last_sequence=1, due=[[], back, []], next_due_ms=[None, 500, None])
    queue.refilled(refill, wants(queue), generation=queue.generation)
    one = Demand(fresh_max=0, retry_max=1, bytes_max=1)
    assert not queue.lacks(one, now_ms=1_000)
    if is_erased:
        queue.erased({1})
    else:
        queue.requeued({"a": 0})
    assert queue.lacks(one, now_ms=1_000)


@pytest.mark.parametrize("is_listed", [False, True])
def test_whom_an_erased_one_had_overtaken_is_not_lost(queue: LeaseQueue, *, is_listed: bool) -> None:
    """Its older one was replayed while it was leased, and erased: given back, it is asked for on disk."""
    read(queue, wants(queue), last=0)
    queue.arrived(Arrival(leases=[lease(5, partition="u")]), last_sequence=5)
    found = queue.lease_read(lease(5, partition="u"), is_listed=is_listed)
    assert found is not None
    queue.requeued({"u": 2})
    queue.refilled(Refill(last_sequence=5), wants(queue), generation=queue.generation)
    queue.erased({2})
    if not is_listed:
        queue.promoted(5)
    queue.give_back_unchanged([found])
    assert queue.has_work(now_ms=1_000)
    assert wants(queue).promoted == (() if is_listed else (5,))
