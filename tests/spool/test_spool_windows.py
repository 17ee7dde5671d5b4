"""Narrow windows: what happens between a commit and its hearing, at the end, and when the clock jumps."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from forwarder.errors import SpoolClosed
from forwarder.model import Envelope, Labels, Lease, RouteName, State
from forwarder.spool.held_leases import AHEAD_MS_MAX, is_due
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.spool_acts import Work, give_back, leased, numbers, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]


async def lease(spool: SqliteSpool, *, fresh: int = 100) -> Sequence[Lease]:
    """Lease what there is."""
    return await leased(spool, OUT, fresh=fresh, retry=100, size=10**7)


async def test_a_probe_never_leases_what_was_settled_meanwhile(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """An event that is leased and settled while a probe reads it is not leased to the probe."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 3)])
    assert await numbers(spool, fresh=1) == [1]
    await give_back(spool, [1], 0, counts=False)
    # All three are queued before the loop turns, so that their commits are heard in one turn.
    probing = asyncio.create_task(spool.lease_newest(OUT))
    await asyncio.sleep(0)
    leased = await numbers(spool)
    await settle(spool, leased, State.DELIVERED)
    newest = await probing
    both = leased + ([newest.sequence] if newest is not None else [])
    assert len(both) == len(set(both))
    await settle(spool, both, State.DELIVERED)
    assert await numbers(spool) == []
    assert (await spool.facts()).totals[OUT].delivered == 2


async def test_a_probe_that_is_cancelled_leaves_nothing_leased(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """A probe's caller that goes away at any moment leaves the newest to the others."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    await stored(spool, [make_envelope(n, partition="p" if n == 3 else "") for n in range(1, 4)])
    for turns in range(4):
        probing = asyncio.create_task(spool.lease_newest(OUT))
        for _ in range(turns):
            await asyncio.sleep(0)
        probing.cancel()
        (found,) = await asyncio.gather(probing, return_exceptions=True)
        if isinstance(found, Lease):  # it was faster
            await give_back(spool, [found.sequence], counts=False)
        await spool.put("turn", b"")  # the probe's own commit is heard before this one
    assert await numbers(spool) == [1, 2, 3]


async def test_progress_is_known_though_its_caller_went_away(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """Progress that was committed is on the next lease, even if who noted it was cancelled."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    await lease(spool)
    noting = asyncio.create_task(spool.note(1, b"half"))
    await asyncio.sleep(0)
    noting.cancel()
    await asyncio.gather(noting, return_exceptions=True)
    await give_back(spool, [1], 0, counts=False)
    assert [one.progress for one in await lease(spool)] == [b"half"]
    returning = asyncio.create_task(give_back(spool, [1], 0, counts=False))
    await asyncio.sleep(0)
    assert returning.done()  # nothing is being noted any more, and nothing of it is on disk


async def test_an_envelope_comes_back_from_disk_as_it_was_stored(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """Whichever way it is read: in its turn, as the newest, on a retry, after a replay, as the follower of another."""
    labels = Labels(type="track", event="Bought", message_id="m-1", user_id="u-1")
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    envelopes = [make_envelope(n, partition="p" if n > 3 else "", labels=labels) for n in range(1, 7)]
    await stored(spool, envelopes)
    await spool.close()
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    first = await leased(spool, fresh=2)
    await give_back(spool, [1])
    await settle(spool, [2], State.DEAD, reason="refused")
    await spool.requeue([2])
    newest = await spool.lease_newest(OUT)
    again = await leased(spool)
    await settle(spool, [4], State.DELIVERED)
    (follower,) = await leased(spool)
    for one in (*first, newest, *again, follower):
        assert one is not None
        assert one.envelope == envelopes[one.sequence - 1]
    assert [one.sequence for one in again] == [1, 2, 3]
    assert (newest and newest.sequence, follower.sequence) == (4, 5)


async def test_a_long_replay_ends_when_the_spool_closes(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """A replay in several commits is told that the spool closed; it never waits for a thread that has ended."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 1_201)])
    await settle(spool, await numbers(spool, fresh=2_000), State.DELIVERED)
    replaying = asyncio.create_task(spool.requeue(range(1, 1_201)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(spool.close())
    async with asyncio.timeout(60):
        await closing
        with pytest.raises(SpoolClosed):
            await replaying


async def test_appends_that_wait_at_the_end_are_answered(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Every append that was under way when the spool closed hears that it is stored, and it is, or that it is not."""
    spool = await open_sqlite()
    appending = [asyncio.create_task(stored(spool, [make_envelope(n)])) for n in range(1, 301)]
    await asyncio.sleep(0)
    appending[0].cancel()
    async with asyncio.timeout(60):
        await spool.close()
        answers = await asyncio.gather(*appending, return_exceptions=True)
    kept = sum(1 for answer in answers if not isinstance(answer, BaseException))
    again = await open_sqlite()
    assert kept <= (await again.facts()).totals[OUT].accepted <= kept + 1


def test_a_time_too_far_ahead_is_due() -> None:
    """What is due later than anybody waits is due now: the clock was wrong."""
    now_ms = 1_700_000_000_000
    assert is_due(now_ms, now_ms=now_ms)
    assert not is_due(now_ms + 1, now_ms=now_ms)
    assert not is_due(now_ms + AHEAD_MS_MAX, now_ms=now_ms)
    assert is_due(now_ms + AHEAD_MS_MAX + 1, now_ms=now_ms)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["in one run", "across a restart"])
@pytest.mark.parametrize("counts", [True, False], ids=["after a failure", "after a hold"])
async def test_a_clock_that_came_back_frees_what_waits(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, *, is_restarted: bool, counts: bool
) -> None:
    """Events given back while the clock was years ahead are leased once it is right again."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="p" if n == 2 else "") for n in range(1, 4)])
    await lease(spool)
    right_ms = clock.now_ms
    clock.now_ms += 10**11
    await give_back(spool, [1, 2], clock.now_ms + 60_000, counts=counts)
    assert await numbers(spool) == []
    clock.now_ms = right_ms
    await give_back(spool, [3], clock.now_ms + 60_000, counts=counts)
    if is_restarted:
        await spool.close()
        spool = await open_sqlite()
    assert await Work(spool).wait(within_s=60)
    assert await numbers(spool) == [1, 2]
    newest = await spool.lease_newest(OUT)
    assert newest is None
    await settle(spool, [1, 2], State.DELIVERED)
    clock.now_ms += 60_000
    assert await numbers(spool) == [3]
    await settle(spool, [3], State.DELIVERED)
    assert await numbers(spool) == []
    assert (await spool.facts()).totals[OUT].delivered == 3


async def test_the_newest_may_be_one_from_a_wrong_clock(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """A probe finds what waits for a time that a wrong clock made."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 3)])
    await lease(spool)
    await give_back(spool, [2], clock.now_ms + 10**11)
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence == 2


async def test_types_are_counted_to_their_limit(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Only so many distinct types get a row, over restarts; events of others are stored all the same."""
    limits = SpoolLimits(event_types_max=3)

    def of_type(number: int) -> Envelope:
        return make_envelope(number, labels=Labels(type="track", event=f"e{number}"))

    spool = await open_sqlite(limits=limits)
    await stored(spool, [of_type(n) for n in range(2)])
    await spool.close()
    spool = await open_sqlite(limits=limits)
    await stored(spool, [of_type(n) for n in range(2, 6)])
    await stored(spool, [of_type(n) for n in range(6, 8)])
    assert len(await spool.event_types(OUT, limit=100)) == 3
    assert (await spool.facts()).totals[OUT].accepted == 8


async def test_a_feed_of_large_events_is_cut(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Large payloads are read a few megabytes at a time, and all of them are leased in the end."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    for number in range(1, 4):
        await stored(spool, [make_envelope(number, payload=b"x" * 5_000_000)])
    leased: list[int] = []
    while some := await numbers(spool):
        leased += some
    assert leased == [1, 2, 3]
