"""What every spool promises about storing, leasing and settling."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Attempt, Demand, Envelope, Lease, Receipt, Replay, RouteName, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import Work, give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER


async def lease_all(
    spool: MemorySpool | SqliteSpool,
    route: RouteName = OUT,
    *,
    fresh: int = 100,
    retry: int = 100,
    replay: int | None = None,
    size: int = 1_000_000,
) -> Sequence[Lease]:
    """Lease what there is."""
    return await leased(spool, route, fresh=fresh, retry=retry, replay=replay, size=size)


def numbers(leases: Sequence[Lease]) -> list[int]:
    """Return the leases' sequences."""
    return [lease.sequence for lease in leases]


async def test_an_envelope_comes_back_as_it_was_stored(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A lease carries the very envelope that was appended."""
    envelope = make_envelope(1, partition="u1", route=IN)
    await stored(spool, [envelope])
    (lease,) = await lease_all(spool, IN)
    assert msgspec.structs.replace(lease, partition=0) == Lease(
        sequence=1, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope
    )


@pytest.mark.parametrize("route", [OUT, IN])
async def test_the_trace_of_an_event_stays_with_it(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], route: RouteName
) -> None:
    """It comes back from memory, from the disk after a failure and after a replay; where there is none, none does."""
    trace = f"00-{7:032x}-{9:016x}-01"
    traced = msgspec.structs.replace(make_envelope(1, route=route), trace=trace)
    await stored(spool, [traced, make_envelope(2, route=route)])

    async def traces() -> list[str]:
        return [lease.envelope.trace for lease in await lease_all(spool, route, replay=9)]

    assert await traces() == [trace, ""]
    await give_back(spool, [1, 2], reason="later")
    assert await traces() == [trace, ""]
    await settle(spool, [1, 2], State.DEAD)
    await spool.requeue([1, 2])
    assert await traces() == [trace, ""]


async def test_the_oldest_come_first_and_each_to_one_caller(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """Leases go out in the order of arrival, and no event is leased twice."""
    await stored(spool, [make_envelope(n) for n in range(1, 8)])
    first = await lease_all(spool, fresh=3)
    second = await lease_all(spool, fresh=3)
    third = await lease_all(spool, fresh=3)
    assert [numbers(first), numbers(second), numbers(third)] == [[1, 2, 3], [4, 5, 6], [7]]
    assert not await lease_all(spool)


async def test_routes_do_not_mix(spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]) -> None:
    """A lease of one route never holds an event of the other; sequences are unique over both."""
    await stored(spool, [make_envelope(1), make_envelope(2, route=IN), make_envelope(3)])
    assert numbers(await lease_all(spool, OUT)) == [1, 3]
    assert numbers(await lease_all(spool, IN)) == [2]


async def test_the_same_key_is_stored_once(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A known key counts as a duplicate, within one append, across appends and after settlement."""
    assert await stored(spool, [make_envelope(1), make_envelope(1), make_envelope(2)]) == Receipt(
        accepted=2, duplicates=1
    )
    await settle(spool, numbers(await lease_all(spool)), State.DELIVERED)
    assert await stored(spool, [make_envelope(2), make_envelope(3)]) == Receipt(accepted=1, duplicates=1)


async def test_a_callback_that_raises_stops_no_other(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """Its sender is told to come back, for a duplicate; everybody else is answered, and a route's work goes on."""
    loop, errors = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    answers: list[object] = []
    bug = RuntimeError("a bug")

    def raises(*_: object) -> None:
        raise bug

    spool.on_work(OUT, raises)
    for number in range(1, 4):
        first = raises if number == 2 else answers.append
        spool.append([make_envelope(number)], on_commit=first, on_rollback=answers.append)
    settled = settle(spool, [], State.DELIVERED)
    await asyncio.wait_for(asyncio.gather(stored(spool, [make_envelope(4)]), settled), 60)
    assert [type(answer) for answer in answers] == [Receipt, SpoolClosed, Receipt]
    assert set(errors) == {bug}
    assert await stored(spool, [make_envelope(2)]) == Receipt(accepted=0, duplicates=1)
    assert numbers(await lease_all(spool)) == [1, 2, 3, 4]
    loop.set_exception_handler(None)


async def test_the_same_key_on_the_other_route_is_another_event(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """Keys are known per route."""
    assert (await stored(spool, [make_envelope(1)])).accepted == 1
    assert (await stored(spool, [make_envelope(1, route=IN)])).accepted == 1


async def test_concurrent_appends_of_one_key_store_it_once(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """However many copies arrive at once, one is accepted."""
    receipts = await asyncio.gather(*(stored(spool, [make_envelope(1)]) for _ in range(20)))
    assert sum(r.accepted for r in receipts) == 1
    assert sum(r.duplicates for r in receipts) == 19


async def test_an_empty_append_is_nothing(spool: MemorySpool | SqliteSpool) -> None:
    """Appending nothing is answered and stores nothing."""
    assert await stored(spool, []) == Receipt(accepted=0, duplicates=0)


async def test_a_lease_stops_before_its_bytes_but_leases_one(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """The payloads' sum stays within `bytes_max`, except that one event is always leased."""
    await stored(spool, [make_envelope(n, payload=b"x" * 100) for n in range(1, 6)])
    assert numbers(await lease_all(spool, size=10)) == [1]
    assert numbers(await lease_all(spool, size=250)) == [2, 3]
    await give_back(spool, [1, 2, 3])
    assert numbers(await lease_all(spool, size=10)) == [1]
    assert numbers(await lease_all(spool, size=250)) == [2, 3]
    await give_back(spool, [3])
    assert numbers(await lease_all(spool, size=250)) == [3, 4]


async def test_a_released_event_waits_for_its_time(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any, failed_attempt: Attempt
) -> None:
    """An event on a retry is leased again when due, with its attempt counted and its first failure kept."""
    await stored(spool, [make_envelope(1)])
    leases = await lease_all(spool)
    due_ms = clock.now_ms + 5_000
    await give_back(spool, numbers(leases), due_ms, reason="503", attempt=failed_attempt)
    assert not await lease_all(spool)
    first_failed_ms = clock.now_ms
    clock.now_ms = due_ms
    (again,) = await lease_all(spool)
    assert (again.attempt, again.first_failed_at_ms) == (2, first_failed_ms)
    await give_back(spool, [1], 0)
    (third,) = await lease_all(spool)
    assert (third.attempt, third.first_failed_at_ms) == (3, first_failed_ms)


async def test_a_release_that_does_not_count_leaves_the_attempt(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A hold or a drain gives the event back as if never leased."""
    await stored(spool, [make_envelope(1), make_envelope(2)])
    await lease_all(spool, fresh=1)
    await give_back(spool, [1], 0, counts=False)
    (again,) = await lease_all(spool, fresh=1)
    assert (again.sequence, again.attempt, again.first_failed_at_ms) == (1, 1, None)
    await give_back(spool, [1], clock.now_ms + 1_000, counts=False)
    assert numbers(await lease_all(spool)) == [2]
    clock.now_ms += 1_000
    assert not await lease_all(spool, retry=0)
    (later,) = await lease_all(spool, fresh=0)
    assert (later.sequence, later.attempt, later.is_retry) == (1, 1, True)
    await give_back(spool, [1], 0, counts=False)
    assert numbers(await lease_all(spool, fresh=0)) == [1]


async def test_fresh_and_retried_events_have_limits_of_their_own(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """`retry_max` bounds what failed before, `fresh_max` the rest."""
    await stored(spool, [make_envelope(n) for n in range(1, 5)])
    await give_back(spool, numbers(await lease_all(spool, fresh=3)), 0)
    assert numbers(await lease_all(spool, fresh=0, retry=2)) == [1, 2]
    assert numbers(await lease_all(spool, fresh=5, retry=0)) == [4]
    assert numbers(await lease_all(spool)) == [3]
    await give_back(spool, [1, 2, 3, 4], counts=False)
    assert numbers(await lease_all(spool, fresh=0)) == [1, 2, 3]


async def test_one_partition_is_leased_one_at_a_time_in_order(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """Of a partition only the oldest pending event is leased, also while it waits for a retry."""
    await stored(spool, [make_envelope(n, route=IN, partition="a" if n % 2 else "b") for n in range(1, 7)])
    assert numbers(await lease_all(spool, IN)) == [1, 2]
    await settle(spool, [2], State.DELIVERED)
    await give_back(spool, [1], clock.now_ms + 1_000)
    assert numbers(await lease_all(spool, IN)) == [4]
    clock.now_ms += 1_000
    assert numbers(await lease_all(spool, IN)) == [1]
    await settle(spool, [1], State.DEAD, reason="refused")
    await settle(spool, [4], State.UNMAPPED, reason="nothing linked")
    assert numbers(await lease_all(spool, IN)) == [3, 6]


async def test_later_events_of_a_partition_join_the_queue(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """An event that arrives while its partition's head is leased waits for it."""
    await stored(spool, [make_envelope(1, partition="a")])
    await lease_all(spool)
    await stored(spool, [make_envelope(2, partition="a"), make_envelope(3)])
    assert numbers(await lease_all(spool)) == [3]
    await settle(spool, [1], State.DELIVERED)
    assert numbers(await lease_all(spool)) == [2]


async def test_progress_survives_a_release(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """What `note` kept comes with the next lease, and stays after a replay."""
    await stored(spool, [make_envelope(1)])
    await lease_all(spool)
    await spool.note(1, b"first call done")
    await give_back(spool, [1], 0)
    (again,) = await lease_all(spool)
    assert again.progress == b"first call done"
    await settle(spool, [1], State.DEAD, reason="refused")
    await spool.requeue([1])
    (replayed,) = await lease_all(spool)
    assert replayed.progress == b"first call done"


async def test_progress_survives_a_release_that_does_not_count(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """What `note` kept comes with the next lease of an event that was given back at once."""
    await stored(spool, [make_envelope(1)])
    await lease_all(spool)
    await spool.note(1, b"planned")
    await give_back(spool, [1], 0, counts=False)
    (again,) = await lease_all(spool)
    assert again.progress == b"planned"


async def test_settling_what_is_not_leased_changes_nothing(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """An event is settled once: unknown, unlent and settled ones are left alone."""
    await stored(spool, [make_envelope(1), make_envelope(2)])
    await lease_all(spool, fresh=1)
    await settle(spool, [1], State.DELIVERED)
    await settle(spool, [1, 2, 99], State.FILTERED)
    await settle(spool, [1], State.DEAD, reason="no")
    await give_back(spool, [1, 2], 0)
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered, totals.pending, totals.filtered, totals.dead) == (2, 1, 1, 0, 0)


async def test_a_replay_makes_settled_events_pending_again(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """`requeue` starts an event anew at its place; pending and unknown ones are skipped; the key stays known."""
    await stored(spool, [make_envelope(n) for n in range(1, 5)])
    await lease_all(spool, fresh=3)
    await settle(spool, [1], State.DELIVERED)
    await give_back(spool, [2], 0)
    await lease_all(spool, fresh=0)
    await settle(spool, [2], State.DEAD, reason="refused")
    assert await spool.requeue([1, 2, 3, 4, 99]) == 2
    leases = await lease_all(spool)
    assert [(lease.sequence, lease.attempt) for lease in leases] == [(1, 1), (2, 1), (4, 1)]
    assert await stored(spool, [make_envelope(1)]) == Receipt(accepted=0, duplicates=1)


async def test_a_replayed_older_event_waits_for_the_one_in_flight(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """After a replay the oldest pending one is next, and still only one of the partition is leased."""
    await stored(spool, [make_envelope(n, partition="a") for n in range(1, 4)])
    await lease_all(spool)
    await settle(spool, [1], State.DEAD, reason="refused")
    assert numbers(await lease_all(spool)) == [2]
    await spool.requeue([1])
    assert not await lease_all(spool)
    await give_back(spool, [2], 0)
    assert numbers(await lease_all(spool)) == [1]
    await settle(spool, [1], State.DELIVERED)
    assert numbers(await lease_all(spool)) == [2]
    await settle(spool, [2], State.DELIVERED)
    assert numbers(await lease_all(spool)) == [3]


async def test_a_replayed_older_event_overtakes_a_waiting_head(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A head that waits for its retry steps back behind an older event that was dug out."""
    await stored(spool, [make_envelope(n, partition="a") for n in range(1, 3)])
    await lease_all(spool)
    await settle(spool, [1], State.DELIVERED)
    await lease_all(spool)
    await give_back(spool, [2], clock.now_ms + 500)
    await spool.requeue([1])
    clock.now_ms += 1_000
    assert numbers(await lease_all(spool)) == [1]
    await settle(spool, [1], State.DELIVERED)
    (second,) = await lease_all(spool)
    assert (second.sequence, second.attempt) == (2, 2)


async def test_the_newest_due_event_can_be_leased(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """`lease_newest` takes from the other end, never what is leased, waits, or stands behind its partition's head."""
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    await stored(spool, [make_envelope(4, partition="a"), make_envelope(5, partition="a")])
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence == 4
    assert numbers(await lease_all(spool, fresh=2)) == [1, 2]
    last = await spool.lease_newest(OUT)
    assert last is not None
    assert last.sequence == 3
    assert await spool.lease_newest(OUT) is None
    await give_back(spool, [3], clock.now_ms + 100)
    assert await spool.lease_newest(OUT) is None
    clock.now_ms += 100
    again = await spool.lease_newest(OUT)
    assert again is not None
    assert (again.sequence, again.attempt) == (3, 2)


async def test_a_probe_given_back_is_leased_in_its_place(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """An event that was leased from the far end and returned comes once, in order."""
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    await spool.lease_newest(OUT)
    await give_back(spool, [3], 0, counts=False)
    assert numbers(await lease_all(spool)) == [1, 2, 3]
    assert not await lease_all(spool)


async def test_a_probe_finds_what_was_given_back_or_moved_up(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """The newest is leased again and again, with its progress, and a follower as soon as its head is settled."""
    await stored(spool, [make_envelope(1), *(make_envelope(n, partition="a") for n in (2, 3))])
    assert numbers(await lease_all(spool)) == [1, 2]
    await give_back(spool, [1], 0, counts=False)
    await settle(spool, [2], State.DELIVERED)
    for number in range(3):
        newest = await spool.lease_newest(OUT)
        assert newest is not None
        assert (newest.sequence, newest.progress) == (3, b"%d" % (number - 1) if number else b"")
        await spool.note(3, b"%d" % number)
        await give_back(spool, [3], 0, counts=False)
    assert [(lease.sequence, lease.progress) for lease in await lease_all(spool)] == [(1, b""), (3, b"2")]


async def test_a_parked_event_does_not_hide_the_newest(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A replayed event that waits for another of its partition is passed over by a probe."""
    await stored(spool, [make_envelope(1), make_envelope(2, partition="a"), make_envelope(3, partition="a")])
    await lease_all(spool)
    await settle(spool, [2], State.DEAD, reason="refused")
    assert numbers(await lease_all(spool)) == [3]
    await spool.requeue([2])
    await give_back(spool, [1], 0, counts=False)
    assert numbers(await lease_all(spool, fresh=1)) == [1]
    await give_back(spool, [1], 0, counts=False)
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence == 1


async def test_an_exchange_of_an_event_that_stays_leased_is_kept(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], failed_attempt: Attempt, clock: Any
) -> None:
    """What is recorded shows with each leased event, in order with its other attempts, the last ten, until a replay."""
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    await lease_all(spool, fresh=2)
    first = replace(failed_attempt, reason="first", answer=b"a" * 5_000)
    await spool.record([1, 2, 3, 99], first)
    assert [a.reason for a in (await spool.event(1)).attempts] == ["first"]
    assert len((await spool.event(2)).attempts[0].answer) == 2_048
    assert (await spool.event(3)).attempts == ()
    assert ((await spool.event(1)).row.attempts, (await spool.event(1)).row.reason) == (0, "")
    await give_back(spool, [1, 2], 0, counts=False)
    assert (await spool.event(1)).row.reason == ""
    assert numbers(await lease_all(spool)) == [1, 2, 3]
    await give_back(spool, [1], clock.now_ms, reason="busy", attempt=replace(failed_attempt, reason="2nd"))
    await lease_all(spool)
    for number in range(3, 8):
        await spool.record([1], replace(failed_attempt, reason=f"{number}"))
    await settle(spool, [1], State.DEAD, reason="refused", attempt=replace(failed_attempt, reason="last"))
    shown = [a.reason for a in (await spool.event(1)).attempts]
    assert shown == ["first", "2nd", *(f"{n}" for n in range(3, 8)), "last"]
    await spool.requeue([1])
    assert (await spool.event(1)).attempts == ()
    await lease_all(spool)
    for number in range(12):
        await spool.record([1], replace(failed_attempt, reason=f"{number}"))
    assert [a.reason for a in (await spool.event(1)).attempts] == [f"{number}" for number in range(2, 12)]


@pytest.mark.parametrize("everything", [False, True])
async def test_a_replay_says_how_much_was_asked_for(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], *, everything: bool
) -> None:
    """A replayed event's lease carries what was asked, until its progress is noted; without progress it is as new."""
    await stored(spool, [make_envelope(1), make_envelope(2)])
    await lease_all(spool)
    await spool.note(1, b"half")
    await settle(spool, [1, 2], State.DELIVERED)
    await spool.requeue([1, 2], everything=everything)
    with_progress, without = await lease_all(spool)
    asked = Replay.EVERYTHING if everything else Replay.REST
    assert (with_progress.progress, with_progress.replay) == (b"half", asked)
    assert without.replay is Replay.NOT
    await give_back(spool, [1], 0, counts=False)
    assert [lease.replay for lease in await lease_all(spool)] == [asked]
    await spool.note(1, b"anew")
    await give_back(spool, [1], 0, counts=False)
    assert [(lease.progress, lease.replay) for lease in await lease_all(spool)] == [(b"anew", Replay.NOT)]


async def test_waiting_ends_with_the_commit(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """The listener is called once an append committed, and not before."""
    work = Work(spool)
    assert await work.wait(within_s=0.01) is False
    waiting = asyncio.create_task(work.wait(within_s=60))
    await asyncio.sleep(0)
    await stored(spool, [make_envelope(1)])
    assert await asyncio.wait_for(waiting, 1) is True
    assert numbers(await lease_all(spool)) == [1]


async def test_waiting_ends_when_a_retry_falls_due(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A due time that passes is work."""
    await stored(spool, [make_envelope(1)])
    await lease_all(spool)
    await give_back(spool, [1], clock.now_ms + 20)
    waiting = asyncio.create_task(Work(spool).wait(within_s=60))
    await asyncio.sleep(0)
    clock.now_ms += 20
    assert await asyncio.wait_for(waiting, 2) is True
    assert numbers(await lease_all(spool)) == [1]


async def test_waiting_ends_when_a_partition_moves_on(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """The next of a partition is work as soon as its head is settled."""
    await stored(spool, [make_envelope(1, partition="a"), make_envelope(2, partition="a")])
    await lease_all(spool)
    waiting = asyncio.create_task(Work(spool).wait(within_s=60))
    await asyncio.sleep(0)
    await settle(spool, [1], State.DELIVERED)
    assert await asyncio.wait_for(waiting, 1) is True
    assert numbers(await lease_all(spool)) == [2]


async def test_small_values_are_remembered(spool: MemorySpool | SqliteSpool) -> None:
    """`remember` keeps up to 4 MiB and replaces; `recall` of the unknown is None."""
    assert await spool.get("pause") is None
    await spool.put("pause", b"1")
    await spool.put("pause", b"")
    await spool.put("links", b"x" * 4_194_304)
    assert await spool.get("pause") == b""
    assert await spool.get("links") == b"x" * 4_194_304
    with pytest.raises(ValueError, match="links"):
        await spool.put("links", b"x" * 4_194_305)


async def test_a_small_value_is_changed_by_one_at_a_time(spool: MemorySpool | SqliteSpool) -> None:
    """Each `change` gets what the one before it made, also of several at once; one that raises changes nothing."""
    assert await spool.change("count", lambda kept: b"" if kept is None else b"x") == b""
    await asyncio.gather(*(spool.change("count", lambda kept: (kept or b"") + b"1") for _ in range(20)))
    assert await spool.get("count") == b"1" * 20

    def fail(_: bytes | None) -> bytes:
        raise LookupError

    with pytest.raises(LookupError):
        await spool.change("count", fail)
    with pytest.raises(ValueError, match="count"):
        await spool.change("count", lambda _: b"x" * 4_194_305)
    assert await spool.get("count") == b"1" * 20


async def test_one_alone_leads_and_may_send(spool: MemorySpool | SqliteSpool) -> None:
    """Who has no other beside it does what one does for all."""
    assert (spool.leads(), spool.may_send()) == (True, True)


async def test_a_closed_spool_refuses(spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]) -> None:
    """After `close`, which may be called again, every call raises `SpoolClosed`."""
    await stored(spool, [make_envelope(1)])
    await spool.close()
    await spool.close()
    for call in (
        stored(spool, [make_envelope(2)]),
        lease_all(spool),
        spool.lease_newest(OUT),
        spool.note(1, b""),
        settle(spool, [1], State.DELIVERED),
        give_back(spool, [1], 0),
        settle(spool, [1], State.DEAD, reason="x"),
        spool.requeue([1]),
        spool.discard([1]),
        spool.put("a", b""),
        spool.get("a"),
        spool.facts(),
        spool.events(EventQuery()),
    ):
        with pytest.raises(SpoolClosed):
            await call


async def test_closing_wakes_who_waits(spool: MemorySpool | SqliteSpool) -> None:
    """A listener hears of the end."""
    work = Work(spool)
    await work.wait(within_s=0.01)
    waiting = asyncio.create_task(work.wait(within_s=30))
    await asyncio.sleep(0)
    await spool.close()
    assert await asyncio.wait_for(waiting, 1) is True
    with pytest.raises(SpoolClosed):
        spool.lease(OUT, Demand(fresh_max=1, retry_max=1, bytes_max=1))


async def fill(spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]) -> tuple[int, SpoolFull]:
    """Append until it is refused; return the refused number and why."""
    for number in range(1, 100):
        try:
            await stored(spool, [make_envelope(number, payload=b"x" * 50_000)])
        except SpoolFull as full:
            return number, full
    raise AssertionError


@pytest.mark.parametrize("open_spool", ["sqlite", "memory"], indirect=True)  # Postgres keeps all of it for now
async def test_history_makes_room_for_new_events(
    open_spool: Callable[..., Awaitable[MemorySpool | SqliteSpool]], make_envelope: Callable[..., Envelope]
) -> None:
    """What is settled and not dead never stands in a new event's way: payloads yield, filtered ones first."""
    spool = await open_spool(SpoolLimits(bytes_max=1_500_000))
    for number in range(1, 81):
        payload = b"x" * 50_000
        async with asyncio.timeout(60):
            while True:
                try:
                    await stored(spool, [make_envelope(number, payload=payload)])
                    break
                except SpoolFull:
                    await asyncio.sleep(0.01)
        leases = numbers(await lease_all(spool))
        state = State.FILTERED if number == 20 else State.DELIVERED
        await settle(spool, leases, state)
    assert (await spool.event(20)).payload is None
    assert (await spool.event(1)).payload is None
    assert (await spool.event(80)).payload is not None
    assert await spool.requeue([1, 80]) == 1
    assert (await spool.facts()).totals[OUT].is_balanced()


async def test_the_cap_refuses_new_events_and_recovers(
    open_spool: Callable[..., Awaitable[MemorySpool | SqliteSpool]], make_envelope: Callable[..., Envelope]
) -> None:
    """What is unsettled or dead is never dropped for new events: they are refused for later, all or none."""
    spool = await open_spool(SpoolLimits(bytes_max=1_000_000))
    number, refused = await fill(spool, make_envelope)
    assert refused.retry_after_s > 0
    assert str(refused) == "the spool has reached its cap: what waits and what is dead fills it"
    assert number > 10
    facts = await spool.facts()
    assert not facts.is_accepting
    assert facts.refusal == str(refused)
    leases = await lease_all(spool, size=10_000_000)
    assert len(leases) == number - 1
    await settle(spool, numbers(leases[:1]), State.DEAD, reason="refused")
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(number, payload=b"x" * 50_000)])
    await settle(spool, numbers(leases[1:]), State.DELIVERED)
    assert await stored(spool, [make_envelope(number, payload=b"x" * 50_000)]) == Receipt(accepted=1, duplicates=0)


async def test_one_route_cannot_shut_the_others_door(
    open_spool: Callable[..., Awaitable[MemorySpool | SqliteSpool]], make_envelope: Callable[..., Envelope]
) -> None:
    """While both routes run, neither's unsettled bytes take more than three quarters of the cap."""
    spool = await open_spool(SpoolLimits(bytes_max=1_000_000, is_shared=True))
    number, refused = await fill(spool, make_envelope)
    assert number - 1 == 14
    assert str(refused) == "this route's waiting events have reached three quarters of the spool's cap"
    facts = await spool.facts()
    assert not facts.is_accepting
    assert (await stored(spool, [make_envelope(1, route=IN, payload=b"x" * 50_000)])).accepted == 1


async def test_attempts_are_kept_with_the_event(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], failed_attempt: Attempt
) -> None:
    """The last ten attempts are shown, oldest first, with the answer's first 2,048 bytes."""
    await stored(spool, [make_envelope(1)])
    for number in range(12):
        await lease_all(spool)
        attempt = Attempt(
            at_ms=number,
            duration_ms=1,
            operation="POST",
            status=500,
            outcome="try_later",
            reason=f"try {number}",
            answer=b"a" * 5_000,
        )
        await give_back(spool, [1], 0, reason=attempt.reason, attempt=attempt)
    detail = await spool.event(1)
    assert [a.reason for a in detail.attempts] == [f"try {number}" for number in range(2, 12)]
    assert len(detail.attempts[0].answer) == 2_048
    assert (detail.row.attempts, detail.row.reason) == (12, "try 11")
    await lease_all(spool)
    await settle(spool, [1], State.DEAD, reason="refused", attempt=failed_attempt)
    detail = await spool.event(1)
    assert detail.row.attempts == 13
    assert detail.attempts[-1] == failed_attempt
    assert len(detail.attempts) == 10


async def test_a_replayed_head_waits_for_the_one_in_flight_and_is_not_waited_for(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A replay goes before what waits of its partition, once; given back it steps aside, and two are never out."""
    await stored(spool, [make_envelope(n, partition="a") for n in range(1, 4)])
    await lease_all(spool)
    await settle(spool, [1], State.DEAD, reason="refused")
    assert numbers(await lease_all(spool)) == [2]
    await spool.requeue([1])
    assert await spool.lease_newest(OUT) is None
    await give_back(spool, [2], clock.now_ms + 10)
    assert numbers(await lease_all(spool)) == [1]
    await give_back(spool, [1], 0, counts=False)
    clock.now_ms += 10
    assert numbers(await lease_all(spool)) == [1]
    await give_back(spool, [1], clock.now_ms + 20)
    assert numbers(await lease_all(spool)) == [2]
    clock.now_ms += 20
    assert not await lease_all(spool)
    await settle(spool, [2], State.DELIVERED)
    assert len(numbers(await lease_all(spool))) == 1
    assert not await lease_all(spool)
    await settle(spool, [1, 3], State.DELIVERED)
    assert len(numbers(await lease_all(spool))) == 1


async def test_a_mass_of_replays_goes_beside_its_partitions(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """Where many are replayed no event waits for one; of a partition one is out at a time, replays in their order."""
    count = SpoolLimits().replays_in_line_max + 2
    await stored(spool, [make_envelope(n, partition=f"u{n % 2}") for n in range(1, count + 1)])
    for _ in range(count // 2):
        await settle(spool, numbers(await lease_all(spool)), State.DEAD, reason="refused")
    await stored(spool, [make_envelope(n, partition="u1") for n in (101, 102)])
    assert await spool.requeue(range(1, count + 1)) == count
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert (newest.sequence, newest.is_beside) == (count + 1, False)
    assert numbers(await lease_all(spool, fresh=0, replay=5)) == [2]
    await settle(spool, [count + 1], State.DELIVERED)
    assert numbers(await lease_all(spool, replay=0)) == [count + 2]
    assert not await lease_all(spool)
    await settle(spool, [2, count + 2], State.DELIVERED)
    assert numbers(await lease_all(spool)) == [1, 4]
    await give_back(spool, [4], 0, counts=False)
    assert numbers(await lease_all(spool)) == [4]
    await stored(spool, [make_envelope(n, partition="u0") for n in (103, 104)])
    await settle(spool, [4], State.DELIVERED)
    assert numbers(await lease_all(spool, replay=0)) == [count + 3]


async def test_a_replay_in_line_and_one_beside_it(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A replay that failed comes back though another one of its partition took its place in the line meanwhile."""
    await stored(spool, [make_envelope(n, partition="a") for n in range(1, 4)])
    for number in (1, 2):
        await lease_all(spool)
        await settle(spool, [number], State.DEAD, reason="refused")
    await spool.requeue([2])
    assert numbers(await lease_all(spool)) == [2]
    await give_back(spool, [2], clock.now_ms + 5)
    clock.now_ms += 5
    (beside,) = await lease_all(spool, fresh=0, replay=1)
    assert (beside.sequence, beside.is_beside, beside.attempt) == (2, True, 2)
    await spool.requeue([1])
    await give_back(spool, [2], 0, counts=False)
    seen: list[int] = []
    while leases := numbers(await lease_all(spool)):
        assert len(leases) == 1
        seen += leases
        await settle(spool, leases, State.DELIVERED)
    assert sorted(seen) == [1, 2, 3]
    assert seen.index(1) < seen.index(3)


async def test_replays_are_a_lane_of_their_own(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """Neither do they take the room of what arrives, nor it theirs; they stay there until they are settled."""
    await stored(spool, [make_envelope(n) for n in range(1, 9)])
    await lease_all(spool, fresh=4)
    await settle(spool, [1, 2, 3, 4], State.DEAD, reason="refused")
    clock.now_ms += 1_000
    await spool.requeue([1, 2, 3, 4])
    replayed = await lease_all(spool, fresh=1, replay=2)
    assert [(lease.sequence, lease.is_beside, lease.is_retry) for lease in replayed] == [
        (1, True, False),
        (2, True, False),
        (5, False, False),
    ]
    assert [lease.replayed_at_ms for lease in replayed] == [clock.now_ms, clock.now_ms, None]
    await give_back(spool, [1, 5], clock.now_ms + 10)
    clock.now_ms += 10
    assert numbers(await lease_all(spool, fresh=0, replay=0)) == [5]
    assert numbers(await lease_all(spool, retry=0, replay=0)) == [6, 7, 8]
    again = await lease_all(spool, fresh=0, retry=0, replay=9)
    assert [(lease.sequence, lease.attempt, lease.replayed_at_ms) for lease in again] == [
        (1, 2, clock.now_ms - 10),
        (3, 1, clock.now_ms - 10),
        (4, 1, clock.now_ms - 10),
    ]
    await settle(spool, [1], State.DEAD, reason="refused")
    clock.now_ms += 5
    await spool.requeue([1])
    assert [lease.replayed_at_ms for lease in await lease_all(spool, fresh=0, replay=9)] == [clock.now_ms]


async def test_the_age_of_a_replay_counts_from_it(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """The oldest pending event is as old as its arrival or its replay, whatever became of it since."""
    started_ms = clock.now_ms
    await stored(spool, [make_envelope(1)])
    await lease_all(spool)
    await settle(spool, [1], State.DEAD, reason="refused")
    assert (await spool.facts()).oldest_pending_ms[OUT] is None
    clock.now_ms += 90_000_000
    await spool.requeue([1])
    assert (await spool.facts()).oldest_pending_ms[OUT] == started_ms + 90_000_000
    clock.now_ms += 60_000
    await lease_all(spool)
    await give_back(spool, [1], clock.now_ms)
    assert (await spool.facts()).oldest_pending_ms[OUT] == started_ms + 90_000_000
    await stored(spool, [msgspec.structs.replace(make_envelope(2), received_at_ms=started_ms + 1)])
    assert (await spool.facts()).oldest_pending_ms[OUT] == started_ms + 1
