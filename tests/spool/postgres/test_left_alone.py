"""What a replica leaves alone: outcomes of events that are another's by now, or that the database refuses for good."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import structlog

from forwarder.model import Demand, Envelope, Labels, RouteName, State
from forwarder.ports import Erased
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.postgres_server import PostgresServer
from stand_ins.spool_acts import leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK


class RecordingReporter(Reporter):
    """A reporter that remembers what was refused."""

    def __init__(self) -> None:
        super().__init__(Metrics(), structlog.get_logger())
        self.refused: list[tuple[str, int]] = []

    def settlement_waiting(self, *, reason: str, events: int) -> None:
        """Remember."""
        self.refused.append((reason, events))

    def lost(self) -> float | None:
        """Return how many settlements were lost."""
        return self.metrics.registry.get_sample_value("forwarder_settlements_lost_total")


Join = Callable[..., Awaitable[tuple[Any, RecordingReporter]]]


@pytest.fixture
def join(join: Callable[..., Awaitable[PostgresSpool]]) -> Join:
    """Return how a replica joins; its reporter comes with it."""

    async def one(url: str | None = None, **more: Any) -> tuple[Any, RecordingReporter]:
        reporter = RecordingReporter()
        return await join(reporter=reporter, **({"url": url} if url else {}), **more), reporter

    return one


def an_envelope(number: int) -> Envelope:
    """Return an outbound event of this number."""
    return Envelope(
        route=OUT,
        event_key=number.to_bytes(16, "big"),
        partition_key="",
        received_at_ms=1_700_000_000_000,
        payload=b'{"n":%d}' % number,
        source="webhook",
        labels=Labels(type="t", event="e"),
    )


async def lapse(database: asyncpg.Connection, replica: Any) -> None:
    """Let a replica's lease be over, by the database's clock."""
    await database.execute(
        "UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second' WHERE replica = $1",
        replica.ownership.replica,
    )


async def test_settlements_of_what_is_anothers_are_counted(join: Join, database: asyncpg.Connection) -> None:
    """Whether the replica heard of it before it settles or not; what was its own is not counted."""
    one, reporter = await join()
    await stored(one, [an_envelope(number) for number in range(3)])
    assert len(await leased(one)) == 3
    await settle(one, [1], State.DELIVERED)
    assert reporter.lost() == 0
    other, _ = await join()
    await lapse(database, one)
    await other.ownership.renew()
    await settle(one, [2], State.DELIVERED)
    assert reporter.lost() == 1
    await one.ownership.renew()
    await settle(one, [3], State.DELIVERED)
    assert reporter.lost() == 2
    assert (await one.facts()).totals[OUT].delivered == 1


async def test_nothing_is_leased_while_what_is_in_hand_may_be_anothers(
    join: Join, database: asyncpg.Connection
) -> None:
    """It could not be sent: it would be given back at once, and leased again, for as long as that lasts."""
    one, _ = await join()
    await stored(one, [an_envelope(1), an_envelope(2)])
    assert len(await leased(one, fresh=1)) == 1
    other, _ = await join()
    await lapse(database, one)
    await other.ownership.renew()
    await other.close()
    await one.ownership.renew()
    assert not one.may_send()
    await one.refill(OUT, Demand(fresh_max=9, retry_max=9, bytes_max=9_999))
    assert list(await leased(one)) == []
    await settle(one, [1], State.DELIVERED)
    assert [lease.sequence for lease in await leased(one)] == [1, 2]


async def test_one_that_the_database_refuses_for_good_is_set_aside(join: Join, database: asyncpg.Connection) -> None:
    """It is an alarm; those beside it are written, new events are taken, and it is not sent again in this run."""
    one, reporter = await join()
    await stored(one, [an_envelope(number) for number in range(3)])
    assert len(await leased(one)) == 3
    await database.execute("ALTER TABLE forwarder.outcomes_1 ADD CHECK (sequence <> 2)")
    async with asyncio.timeout(60):
        await asyncio.gather(*(settle(one, [number], State.DELIVERED) for number in (1, 2, 3)))
    assert reporter.refused == [("the database refuses it (CheckViolationError)", 1)]
    totals = (await one.facts()).totals[OUT]
    assert (totals.delivered, totals.pending, totals.is_balanced()) == (2, 1, True)
    assert (await stored(one, [an_envelope(9)])).accepted == 1
    assert [lease.sequence for lease in await leased(one)] == [4]


async def test_who_leads_ends_with_its_lease(join: Join) -> None:
    """By the time another may lead, it has ended here: nobody is told of an incident by two."""
    one, _ = await join()
    assert one.leads()
    one.ownership.age(25.0)
    assert not one.leads()


async def test_what_was_erased_of_a_lapsed_owner_is_not_sent_by_it(join: Join, database: asyncpg.Connection) -> None:
    """It comes back before anybody took its partitions over: what it has in hand is stale all the same."""
    one, _ = await join()
    await stored(one, [an_envelope(1)])
    assert len(await leased(one)) == 1
    other, _ = await join()
    await lapse(database, one)
    assert await other.erase([1]) == Erased(events=1, pending=1, leased=0)
    await one.ownership.renew()
    assert not one.may_send()
    await settle(one, [1], State.DELIVERED)
    assert one.may_send()
    totals = (await one.facts()).totals[OUT]
    assert (totals.dead, totals.delivered, totals.is_balanced()) == (1, 0, True)


async def test_what_a_promoted_standby_lacks_is_nobodys_outcome(join: Join, server: PostgresServer) -> None:
    """Its numbers are given again: a settlement goes to the event it was made for, or to none."""
    standby = server.standby("second")
    try:
        one, reporter = await join(server.url().replace("/postgres", f",{standby.address}/postgres"))
        await stored(one, [an_envelope(1)])
        standby.stop()
        server.ask("ALTER SYSTEM RESET synchronous_standby_names")
        server.ask("SELECT pg_reload_conf()")
        await stored(one, [an_envelope(2)])
        assert len(await leased(one)) == 2
        server.stop("immediate")
        standby.start()
        standby.promote()
        standby.ask("SELECT setval('forwarder.event_sequence', 1)")
        other, _ = await join(standby.url(), is_replica=False)
        await stored(other, [an_envelope(3)])
        async with asyncio.timeout(60):
            await asyncio.gather(settle(one, [1], State.DELIVERED), settle(one, [2], State.DELIVERED))
        assert reporter.lost() == 1
        totals = (await other.facts()).totals[OUT]
        assert (totals.accepted, totals.delivered, totals.pending, totals.is_balanced()) == (2, 1, 1, True)
        async with asyncio.timeout(60):
            while not (found := await leased(one)):  # noqa: ASYNC110 - until it is connected again
                await asyncio.sleep(0.05)
        assert [lease.envelope.event_key for lease in found] == [an_envelope(3).event_key]
    finally:
        for spool in (one, other):
            await spool.close()
        standby.remove()
