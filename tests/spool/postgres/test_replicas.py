"""What only replicas can break: two owners, a lapsed lease, a settlement that comes too late, clocks that differ."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

import asyncpg
import pytest
import structlog
from spool.postgres.conftest import START_MS, Join, open_spool

from forwarder.clock import SystemClock
from forwarder.model import Lease, Receipt, RouteName, Settled, State
from forwarder.spool.postgres import ownership
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.spool_acts import an_envelope, give_back, leased, settle, stored
from stand_ins.waiting import wait_until

OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER


async def share(*replicas: Any) -> None:
    """Let each have its share of the partitions."""
    for _ in range(3):
        for replica in replicas:
            await replica.ownership.renew()


async def lapse(database: asyncpg.Connection, replica: Any) -> None:
    """Let a replica's lease be over, by the database's clock."""
    await database.execute(
        "UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second' WHERE replica = $1",
        replica.ownership.replica,
    )


async def test_two_replicas_share_the_partitions(join: Join) -> None:
    """Each owns half of them, none is owned twice, and who stays has all again once the other left."""
    one, other = await join(), await join()
    await share(one, other)
    mine, others = set(one.ownership.mine()), set(other.ownership.mine())
    assert (len(mine), len(others), mine & others) == (128, 128, set())
    await other.close()
    await one.ownership.renew()
    assert len(one.ownership.mine()) == 256


async def test_partitions_change_hands_without_waiting_for_a_renewal(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins has its share, and who stays has all again, although none would renew its lease for long."""
    monkeypatch.setattr(ownership, "RENEW_S", 3_600.0)
    one = await join()
    other = await join()
    await wait_until(lambda: (len(one.ownership.mine()), len(other.ownership.mine())) == (128, 128))
    await other.close()
    await wait_until(lambda: len(one.ownership.mine()) == 256)


async def test_every_event_is_leased_once_and_in_the_order_of_its_user(join: Join) -> None:
    """Whichever replica took it in, while both take in and lease at once; the totals are one account."""
    replicas = [await join(), await join()]
    await share(*replicas)
    count, users = 400, 9
    seen: list[tuple[RouteName, Lease]] = []

    async def arrive(replica: Any, first: int) -> None:
        for number in range(first, count, 2):
            route = IN if number % 4 < 2 else OUT
            partition = f"user {number % users}" if route is IN else ""
            await stored(replica, [an_envelope(number, partition=partition, route=route)])

    async def deliver(replica: Any) -> None:
        while len(seen) < count:
            for route in (OUT, IN):
                leases = await leased(replica, route, fresh=7)
                seen.extend((route, lease) for lease in leases)
                if leases:
                    await replica.settle([Settled([lease.sequence for lease in leases], State.DELIVERED)])

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for index, replica in enumerate(replicas):
            tasks.create_task(arrive(replica, index))
            tasks.create_task(deliver(replica))
    assert max(Counter(lease.sequence for _, lease in seen).values()) == 1
    assert len({lease.envelope.event_key for _, lease in seen}) == count
    # Two that arrive at two replicas at once have no order; those that one replica took in have.
    by_user = defaultdict[tuple[str, int], list[int]](list)
    for route, lease in seen:
        if route is IN:
            number = int.from_bytes(lease.envelope.event_key, "big")
            by_user[lease.envelope.partition_key, number % 2].append(number)
    assert len(by_user) == 2 * users
    assert all(numbers == sorted(numbers) for numbers in by_user.values())
    facts = [await replica.facts() for replica in replicas]
    assert facts[0].totals == facts[1].totals
    assert all(totals.is_balanced() and totals.pending == 0 for totals in facts[0].totals.values())


async def test_a_copy_at_another_replica_is_a_duplicate(join: Join) -> None:
    """One copy is accepted, also when both arrive at once, and with clocks that are minutes apart."""
    one, other = await join(), await join(HandClock(START_MS + 240_000))
    receipts = await asyncio.gather(*(stored(replica, [an_envelope(n)]) for n in range(50) for replica in (one, other)))
    assert sum(receipt.accepted for receipt in receipts) == 50
    assert await stored(other, [an_envelope(1)]) == Receipt(accepted=0, duplicates=1)


async def test_commits_are_measured(postgres_url: str) -> None:
    """How long one takes is told to people, as of SQLite's."""
    metrics = Metrics()
    reporter = Reporter(metrics, structlog.get_logger())
    spool = await open_spool(postgres_url, SystemClock(), reporter=reporter, is_replica=False)
    name = "forwarder_commit_duration_seconds"
    before = metrics.registry.get_sample_value(f"{name}_count")
    await stored(spool, [an_envelope(1)])
    await spool.close()
    assert metrics.registry.get_sample_value(f"{name}_count") == (before or 0.0) + 1
    assert 0.0 < (metrics.registry.get_sample_value(f"{name}_sum") or 0.0) < 60.0


async def test_what_a_lost_replica_held_is_leased_again(join: Join, database: asyncpg.Connection) -> None:
    """Its partitions go to another once its lease is over, with what was given back to them."""
    one = await join()
    await stored(one, [an_envelope(n, partition=f"u{n}", route=IN) for n in range(6)])
    assert len(await leased(one, IN)) == 6
    await give_back(one, [1], 0, reason="busy")
    other = await join()
    assert not await leased(other, IN)
    await lapse(database, one)
    await other.ownership.renew()
    leases = await leased(other, IN)
    assert [(lease.sequence, lease.attempt) for lease in leases] == [(1, 2), *((n, 1) for n in range(2, 7))]


async def test_a_settlement_that_comes_too_late_changes_nothing(join: Join, database: asyncpg.Connection) -> None:
    """Who lost a partition settles none of its events; who took it over does, and it is counted once."""
    one = await join()
    await stored(one, [an_envelope(1), an_envelope(2)])
    assert len(await leased(one)) == 2
    other = await join()
    await lapse(database, one)
    await other.ownership.renew()
    assert [lease.sequence for lease in await leased(other)] == [1, 2]
    await settle(one, [1, 2], State.DEAD, reason="too late")
    await one.note(1, b"too late")
    assert (await other.facts()).totals[OUT].pending == 2
    await settle(other, [1, 2], State.DELIVERED)
    totals = (await one.facts()).totals[OUT]
    assert (totals.delivered, totals.dead, totals.pending) == (2, 0, 0)
    assert (await other.event(1)).progress == b""


async def test_what_was_anothers_meanwhile_is_neither_sent_nor_settled(
    join: Join, database: asyncpg.Connection
) -> None:
    """Nor when its partition came back: what happened to it since is unknown here, so it is leased anew."""
    one = await join()
    await stored(one, [an_envelope(1), an_envelope(2)])
    assert len(await leased(one)) == 2
    await one.note(2, b"begun")
    assert one.may_send()
    other = await join()
    await lapse(database, one)
    await other.ownership.renew()
    (first, _) = await leased(other)
    await other.note(first.sequence, b"half")
    await other.close()
    await one.ownership.renew()
    assert len(one.ownership.mine()) == 256
    assert not one.may_send()
    await one.note(1, b"too late")
    await settle(one, [1], State.DEAD, reason="too late")
    assert not one.may_send()
    await give_back(one, [2], counts=False)
    assert one.may_send()
    again = await leased(one)
    assert [(lease.sequence, lease.progress, lease.attempt) for lease in again] == [(1, b"half", 1), (2, b"begun", 1)]
    await settle(one, [1, 2], State.DELIVERED)
    assert (await one.facts()).totals[OUT].delivered == 2


async def test_a_replica_that_was_stopped_leases_nothing(join: Join) -> None:
    """With less of its lease left than an exchange may take, it leaves everything to others."""
    one = await join()
    await stored(one, [an_envelope(1)])
    await leased(one, fresh=0)
    one.ownership.age(20.0)
    assert not await leased(one)
    assert not one.may_send()
    await one.ownership.renew()
    assert len(await leased(one)) == 1
    assert one.may_send()


async def test_a_replay_reaches_who_leases_it(join: Join) -> None:
    """Whichever replica is asked to replay, the owner of the partition does it."""
    one, other = await join(), await join()
    await share(one, other)
    await stored(one, [an_envelope(n) for n in range(10)])
    async with asyncio.timeout(60):
        done: list[int] = []
        while len(done) < 10:
            for replica in (one, other):
                sequences = [lease.sequence for lease in await leased(replica)]
                await settle(replica, sequences, State.DEAD, reason="refused")
                done += sequences
    assert await other.requeue(done) == 10
    async with asyncio.timeout(60):
        again: list[int] = []
        while len(again) < 10:
            for replica in (one, other):
                again += [lease.sequence for lease in await leased(replica)]
    assert sorted(again) == sorted(done)


async def test_a_value_that_another_replica_changed_is_heard_of(join: Join) -> None:
    """Each change of another is told once to who watches it, within about a second; its own are not."""
    one, other = await join(), await join()
    heard: list[bytes] = []
    one.watch("pause", heard.append)
    await one.put("pause", b"own")
    await other.put("links", b"not watched")
    await other.put("pause", b"first")
    await wait_until(lambda: heard == [b"first"])
    assert await other.change("pause", lambda kept: (kept or b"") + b" again") == b"first again"
    await wait_until(lambda: heard == [b"first", b"first again"])


async def test_a_value_is_changed_by_one_replica_at_a_time(join: Join) -> None:
    """What several add at once is all there."""
    replicas = [await join(), await join()]
    await asyncio.gather(
        *(replica.change("count", lambda kept: (kept or b"") + b"1") for replica in replicas for _ in range(20))
    )
    assert await replicas[0].get("count") == b"1" * 40


async def test_one_replica_leads(join: Join) -> None:
    """One does what one does for all; another does once that one is gone. One that only looks on never does."""
    one, other = await join(), await join()
    await share(one, other)
    assert [one.leads(), other.leads()] == [True, False]
    await one.close()
    await share(other)
    assert other.leads()


async def test_who_only_looks_on_takes_no_part(join: Join, postgres_url: str) -> None:
    """A command's spool owns no partition and leads nothing; what it makes pending again, a replica delivers."""
    replica = await join()
    await stored(replica, [an_envelope(1)])
    (lease,) = await leased(replica, OUT)
    await settle(replica, [lease.sequence], State.DEAD, reason="x")
    command = await open_spool(postgres_url, is_replica=False)
    assert (command.ownership.mine(), command.leads(), command.may_send()) == (frozenset(), False, False)
    assert await command.requeue([lease.sequence]) == 1
    await command.close()
    again: list[Lease] = []

    async def is_back() -> bool:
        again.extend(await leased(replica, OUT, fresh=0, replay=1))
        return bool(again)

    await wait_until(is_back)
    assert [one.sequence for one in again] == [lease.sequence]
