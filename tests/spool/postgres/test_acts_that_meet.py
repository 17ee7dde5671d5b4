"""What acts of two replicas, or of one that lost an event meanwhile, come to when they meet."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
import pytest
from spool.postgres.conftest import START_MS, Join, take_over

from forwarder.archive_port import AuditRow
from forwarder.model import Returned, RouteName, State
from forwarder.spool.codes import partition_number
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.requeueing import requeue
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.spool.postgres.transaction import Slot, Transaction
from stand_ins.spool_acts import an_envelope, give_back, numbers, settle, stored

IN = RouteName.RUDDERSTACK_TO_COURIER
_WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


@pytest.fixture
async def owner(join: Join) -> PostgresSpool:
    """Return a replica that owns all partitions, and has two events of one user, both dead."""
    spool = await join()
    for number in (1, 2):
        await stored(spool, [an_envelope(number, partition="u", route=IN)])
        await settle(spool, await numbers(spool, IN), State.DEAD, reason="no")
    return spool


async def until_waits(acting: asyncio.Task[Any], watching: asyncpg.Connection) -> None:
    """Wait until it waits for a lock of the server's, or is done."""
    async with asyncio.timeout(8):
        while not acting.done() and not await watching.fetchval(_WAITS):  # noqa: ASYNC110 - the server's locks
            await asyncio.sleep(0.01)


async def beside(postgres_url: str, act: Coroutine[Any, Any, object], *, is_replay: bool) -> None:
    """Have another replica replay the second event; what the owner does begins before that is committed."""
    database, watching = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    try:
        async with database.transaction():
            replaying = Transaction(database, Slot(), SpoolLimits(), now_ms=START_MS)
            await requeue(replaying, [2], everything=False, is_replay=is_replay, writer=99)
            acting = asyncio.create_task(act)
            await until_waits(acting, watching)
        await acting
    finally:
        await watching.close()
        await database.close()


@pytest.mark.parametrize("is_replay", [True, False], ids=["a replay", "put in line"])
async def test_what_is_replayed_while_its_forerunner_is_settled_is_leased(
    owner: PostgresSpool, postgres_url: str, *, is_replay: bool
) -> None:
    """One of them sees the other: else nobody leads that order, and nothing of it is ever leased again."""
    await owner.requeue([1], is_replay=is_replay)
    assert await numbers(owner, IN) == [1]
    await beside(postgres_url, settle(owner, [1], State.DELIVERED), is_replay=is_replay)
    async with asyncio.timeout(10):
        while not (found := await numbers(owner, IN)):  # noqa: ASYNC110 - what another replica did is looked for
            await asyncio.sleep(0.05)
    assert found == [2]


@pytest.mark.parametrize("act", ["given back", "replayed"])
async def test_an_order_has_one_oldest_event(
    owner: PostgresSpool, database: asyncpg.Connection, postgres_url: str, act: str
) -> None:
    """Whatever became of the first one while another replica replayed the second."""
    if act == "given back":
        await owner.requeue([1])
        assert await numbers(owner, IN) == [1]
        await beside(postgres_url, give_back(owner, [1], START_MS + 5_000, reason="busy"), is_replay=True)
    else:
        await beside(postgres_url, owner.requeue([1]), is_replay=True)
    found = await database.fetch("SELECT sequence FROM forwarder.work WHERE is_head AND kind = 2")
    assert [row[0] for row in found] == [1]


async def test_what_was_given_up_is_not_moved_on_with_its_commit_mates(
    owner: PostgresSpool, join: Join, database: asyncpg.Connection, postgres_url: str
) -> None:
    """Though its partition is the replica's own again, by whose epoch another event of the same commit is settled."""
    await owner.requeue([1])
    assert await numbers(owner, IN) == [1]
    other, blocking = await join(), await asyncpg.connect(postgres_url)
    async with blocking.transaction():
        await blocking.execute("LOCK TABLE forwarder.audit IN ACCESS EXCLUSIVE MODE")
        line = AuditRow(at_ms=0, who="", action="", detail="")
        acts: list[asyncio.Task[Any]] = [asyncio.create_task(owner.write_audit(line))]
        await until_waits(acts[0], database)
        acts.append(asyncio.create_task(give_back(owner, [1], START_MS + 5_000, reason="busy")))
        await take_over(database, owner, other)
        await settle(other, await numbers(other, IN), State.DELIVERED)
        await owner.ownership.renew()
        await take_over(database, other, owner)
        await owner.settle([Returned([1], 0, "", None, counts=False)])
        await stored(owner, [an_envelope(3, partition=beside_user("u"), route=IN)])
        assert await numbers(owner, IN) == [3]
        acts.append(asyncio.create_task(settle(owner, [3], State.DELIVERED)))
        await asyncio.sleep(0)
    await blocking.close()
    await asyncio.gather(*acts, return_exceptions=True)  # the first may have been refused for its wait
    assert not await database.fetch("SELECT FROM forwarder.work")
    assert (await owner.facts()).totals[IN].delivered == 2


def beside_user(user: str) -> str:
    """Return another user of the same partition."""
    wanted = partition_number(IN.value, user) % 256
    return next(key for n in range(10_000) if partition_number(IN.value, key := f"v{n}") % 256 == wanted)
