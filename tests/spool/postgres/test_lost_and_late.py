"""What once lost or repeated an event: lost partitions, events that come late, servers that forget numbers."""

import asyncio
import contextlib
from collections.abc import Iterator

import asyncpg
import pytest
from spool.postgres.conftest import START_MS, Join, open_spool, take_over

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Demand, Receipt, Returned, RouteName, State
from forwarder.spool.lease_queue import LeaseQueue
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.floors import Floors
from forwarder.spool.postgres.reads import QueueReads
from forwarder.spool.postgres.reconnecting import Connection
from forwarder.spool.postgres.spool import PostgresSpool
from stand_ins.clock import HandClock
from stand_ins.postgres_server import PostgresServer, started
from stand_ins.spool_acts import an_envelope, give_back, leased, numbers, settle, stored

OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Start a Postgres that the test may stop."""
    yield from started(["wal_writer_delay=10s"])


async def test_what_comes_late_is_found_behind_one_that_was_given_back(
    join: Join, database: asyncpg.Connection
) -> None:
    """An older event of a user that became visible after a younger one had failed is leased all the same."""
    clock = HandClock(START_MS)
    one = await join(clock)
    await database.execute("SELECT setval('forwarder.event_sequence', 10)")
    await stored(one, [an_envelope(11, partition="u", route=IN)])
    assert await numbers(one, IN) == [11]
    await give_back(one, [11], START_MS + 5_000, reason="busy")
    await database.execute("SELECT setval('forwarder.event_sequence', 4)")
    await stored(one, [an_envelope(5, partition="u", route=IN)])
    await database.execute("SELECT setval('forwarder.event_sequence', 20)")
    first = await numbers(one, IN)
    await settle(one, first, State.DELIVERED)
    clock.now_ms += 6_000
    second = await numbers(one, IN)
    await settle(one, second, State.DELIVERED)
    third = await numbers(one, IN)
    await settle(one, third, State.DELIVERED)
    await stored(one, [an_envelope(21, partition="u", route=IN)])
    last = await numbers(one, IN)
    assert sorted(first + second + third + last) == [5, 11, 21]


async def test_what_comes_back_after_a_takeover_is_not_leased_again(join: Join, database: asyncpg.Connection) -> None:
    """An event whose partition is another's by now, returned as if it had never been leased, is left to that one."""
    one = await join()
    await stored(one, [an_envelope(1)])
    assert await numbers(one) == [1]
    other = await join()
    await take_over(database, one, other)
    assert await numbers(other) == [1]
    await one.ownership.renew()
    await one.settle([Returned([1], 0, "", None, counts=False)])
    assert not await leased(one)


async def test_a_late_return_does_not_revive_what_was_delivered(join: Join, database: asyncpg.Connection) -> None:
    """Whose lease is two epochs old changes nothing, though the partition is its own again."""
    one = await join()
    await stored(one, [an_envelope(1)])
    assert await numbers(one) == [1]
    other = await join()
    await take_over(database, one, other)
    assert await numbers(other) == [1]
    await settle(other, [1], State.DELIVERED)
    await one.ownership.renew()
    await take_over(database, other, one)
    await give_back(one, [1], reason="busy")
    for _ in range(2):
        again = await numbers(one)
        assert not again
        await settle(one, again, State.DELIVERED)
    totals = (await one.facts()).totals[OUT]
    assert (totals.delivered, totals.pending) == (1, 0)


async def test_an_unchanged_return_of_what_was_lost_is_answered(join: Join, database: asyncpg.Connection) -> None:
    """Nobody waits for ever for a settlement that another replica made void."""
    one = await join()
    await stored(one, [an_envelope(1, partition="u", route=IN)])
    assert await numbers(one, IN) == [1]
    other = await join()
    await take_over(database, one, other)
    await one.ownership.renew()
    async with asyncio.timeout(10):
        await asyncio.gather(one.note(1, b"plan"), one.settle([Returned([1], 0, "", None, counts=False)]))
    assert not await leased(one, IN)


async def test_numbers_that_a_crash_forgot_hide_nothing(server: PostgresServer) -> None:
    """Transactions get numbers again that others had before a crash; what they bring is found as ever."""
    spool = await open_spool(server.url())
    try:
        async with asyncio.timeout(60):
            await stored(spool, [an_envelope(1)])
            assert await numbers(spool) == [1]
            await settle(spool, [1], State.DELIVERED)
            beside = await asyncpg.connect(server.url())
            for _ in range(200):
                await beside.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")
            assert not await numbers(spool)
            server.stop("immediate")
            beside.terminate()
            server.start()
            while not await _accepted(spool, 2):  # noqa: ASYNC110 - as a sender does: nobody tells it
                await asyncio.sleep(0.02)
            while not (found := await numbers(spool)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
            assert len(found) == 1
    finally:
        await spool.close()


async def _accepted(spool: PostgresSpool, number: int) -> Receipt | None:
    try:
        return await stored(spool, [an_envelope(number)])
    except (SpoolFull, SpoolClosed):
        return None


async def test_a_duplicate_waits_for_the_standby_as_its_first_copy_did(server: PostgresServer) -> None:
    """A copy is not acknowledged before the standby has the event, whatever became of the first one's answer."""
    standby = server.standby("second")
    spool = await open_spool(server.url())
    try:
        assert await _accepted(spool, 1)
        standby.stop("immediate")
        async with asyncio.timeout(50):
            assert not await _accepted(spool, 2)
        server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(12):
                while not (receipt := await _accepted(spool, 2)):  # noqa: ASYNC110 - as a sender does: nobody tells it
                    await asyncio.sleep(0.1)
                pytest.fail(f"acknowledged, and not on the standby: {receipt}")
    finally:
        server.ask("ALTER SYSTEM RESET synchronous_standby_names")
        server.ask("SELECT pg_reload_conf()")
        await spool.close()
        standby.remove()


async def test_after_an_outage_of_the_database_nobody_loses_its_partitions(
    join: Join, database: asyncpg.Connection
) -> None:
    """When all leases have lapsed together, each replica renews its own: what it remembers can be settled."""
    one, other = await join(), await join()
    for _ in range(3):
        for replica in (one, other):
            await replica.ownership.renew()
    before = set(other.ownership.mine())
    await database.execute("UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second'")
    for replica in (one, other):
        replica.ownership.age(60.0)
    await one.ownership.renew()
    await other.ownership.renew()
    assert set(other.ownership.mine()) == before


async def test_what_comes_late_ends_no_read_of_the_backlog(join: Join, database: asyncpg.Connection) -> None:
    """An event that became visible behind the cursor hides nothing of what is still to be read."""
    one = await join()
    await database.execute("SELECT setval('forwarder.event_sequence', 100)")
    await stored(one, [an_envelope(number) for number in range(101, 7_101)])
    found = {lease.sequence for lease in await leased(one, fresh=4_000)}
    found.update(lease.sequence for lease in await leased(one, fresh=500))  # the next read reads on
    await database.execute("SELECT setval('forwarder.event_sequence', 50)")
    await stored(one, [an_envelope(51)])
    await database.execute("SELECT setval('forwarder.event_sequence', 7100)")
    while more := await leased(one, fresh=4_000):
        found.update(lease.sequence for lease in more)
    assert found == {51, *range(101, 7_101)}


async def test_a_floor_goes_by_one_server_alone(join: Join, database: asyncpg.Connection, postgres_url: str) -> None:
    """What a standby lacks that was promoted is given out again: no floor may lie above it."""
    one = await join()
    await stored(one, [an_envelope(number) for number in range(1, 31)])
    await settle(one, await numbers(one), State.DELIVERED)
    floors, reading = Floors((0, 0), range(256)), Connection(Connector(lambda: postgres_url))
    try:
        for _ in range(2):
            await floors.look(reading, reading)
        assert floors.by_route == [30, 30]
        floors = Floors((0, 0), range(256))
        await floors.look(reading, reading)
        await reading.close()
        reading = Connection(Connector(lambda: postgres_url))
        reading.opened = 1  # it is opened a second time
        await database.execute("DELETE FROM forwarder.events WHERE sequence > 10")
        await floors.look(reading, reading)
        assert floors.by_route == [0, 0]
        await floors.look(reading, reading)
        assert floors.by_route == [10, 10]
    finally:
        await reading.close()


async def test_who_has_not_looked_for_long_begins_anew(
    join: Join, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrived is told for a while only: a replica whose reads failed for longer reads all that is pending."""
    await join()
    monkeypatch.setattr("forwarder.spool.postgres.reads.SEEN_MAX_S", -1.0)
    reads = QueueReads(Connection(Connector(lambda: postgres_url)), lambda: range(256), own=0, cache_bytes_max=1)
    moved: list[bool] = []
    reads.moved = lambda: moved.append(True)
    queue = LeaseQueue(last_sequence=0, cache_bytes_max=1)
    wanted = queue.wants(Demand(fresh_max=0, retry_max=0, bytes_max=0), now_ms=START_MS)
    for looks in range(2):
        await reads.refill(0, wanted, now_ms=START_MS)
        assert len(moved) == looks
    await reads.close()
