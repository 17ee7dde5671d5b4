"""Replicas of one spool, and the database beside them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
import structlog

from forwarder.ports import Clock
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.postgres_server import PostgresServer, started

START_MS = 1_700_000_000_000
Join = Callable[..., Awaitable[PostgresSpool]]


async def open_spool(url: str, clock: Clock | None = None, **more: Any) -> PostgresSpool:
    """Open a spool; its clock stands at `START_MS` unless one is given. The caller closes it."""
    given: dict[str, Any] = {"limits": SpoolLimits(), "reporter": Reporter(Metrics(), structlog.get_logger())} | more
    return await PostgresSpool.open(lambda: url, clock=clock or HandClock(START_MS), **given)


@pytest.fixture
async def join(postgres_url: str) -> AsyncIterator[Join]:
    """Return how a replica joins, with what `open_spool` takes; its clock may differ from the others'."""
    joined: list[PostgresSpool] = []

    async def one(clock: Clock | None = None, *, url: str = postgres_url, **more: Any) -> PostgresSpool:
        joined.append(await open_spool(url, clock, **more))
        return joined[-1]

    yield one
    for spool in joined:
        await spool.close()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Return a connection beside the replicas'."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Start a Postgres that the test may stop."""
    yield from started()


async def take_over(database: asyncpg.Connection, one: PostgresSpool, other: PostgresSpool) -> None:
    """Let the lease of one be over, by the database's clock, and the other have all partitions."""
    await database.execute(
        "UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second' WHERE replica = $1",
        one.ownership.replica,
    )
    async with asyncio.timeout(60):
        while len(other.ownership.mine()) < 256:
            await other.ownership.renew()
