"""Erasing where several replicas lease: whoever is asked, all of it is erased but what is in hand somewhere."""

from typing import Any

import asyncpg
import pytest
from spool.postgres.conftest import Join

from forwarder.model import Labels, RouteName, State
from forwarder.ports import Erased
from forwarder.spool.postgres import shared_erasing
from stand_ins.spool_acts import an_envelope, leased, settle, stored

IN = RouteName.RUDDERSTACK_TO_COURIER
USERS = 12


async def _two(join: Join) -> tuple[Any, Any]:
    """Return two replicas that share the partitions, with two events of each of twelve users."""
    one, other = await join(), await join()
    for _ in range(3):
        for replica in (one, other):
            await replica.ownership.renew()
    for number in range(1, 2 * USERS + 1):
        user = f"user {number % USERS}"
        labels = Labels(type="track", event="e", user_id=user)
        await stored(one, [an_envelope(number, route=IN, partition=user, labels=labels)])
    return one, other


EVERYTHING = list(range(1, 2 * USERS + 1))


async def test_one_replica_erases_what_another_owns(join: Join) -> None:
    """Pending events of both are dead and discarded, counted once, and neither replica leases one of them."""
    one, other = await _two(join)
    assert await one.erase(EVERYTHING) == Erased(events=2 * USERS, pending=2 * USERS, leased=0)
    for replica in (one, other):
        assert list(await leased(replica, IN, fresh=50)) == []
    facts = await one.facts()
    totals = facts.totals[IN]
    assert totals.is_balanced()
    assert (totals.pending, totals.dead, facts.discarded[IN], facts.open_dead[IN]) == (0, 2 * USERS, 2 * USERS, 0)
    assert (await other.event(1)).payload is None


async def test_what_another_has_in_hand_is_left_to_it(join: Join) -> None:
    """It is counted as leased, goes to its end there, and is erased then; who came behind it is erased at once."""
    one, other = await _two(join)
    in_hand = [lease.sequence for lease in await leased(other, IN, fresh=50)]
    assert in_hand
    count = len(in_hand)
    assert await one.erase(EVERYTHING) == Erased(events=2 * USERS - count, pending=2 * USERS - count, leased=count)
    assert (await one.event(in_hand[0])).payload is not None
    await settle(other, in_hand, State.DELIVERED)
    assert await one.erase(in_hand) == Erased(events=count, pending=0, leased=0)
    totals = (await one.facts()).totals[IN]
    assert totals.is_balanced()
    assert (totals.pending, totals.delivered) == (0, count)


async def test_who_does_not_answer_keeps_his(join: Join, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that hangs is not waited for; once its lease is over, what it had is anybody's to erase."""
    monkeypatch.setattr(shared_erasing, "_ANSWER_MAX_S", 0.2)
    one, other = await _two(join)

    async def hang(_self: object, _mine: object) -> None:
        """Answer nobody."""

    monkeypatch.setattr(shared_erasing.SharedErasing, "look", hang)
    met = await one.erase(EVERYTHING)
    assert met.leased > 0
    assert met.events + met.leased == 2 * USERS
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "UPDATE forwarder.replicas SET until = clock_timestamp() - interval '1 second' WHERE replica = $1",
        other.ownership.replica,
    )
    assert await connection.fetchval("SELECT count(*) FROM forwarder.erasures") == 0
    await connection.close()
    assert await one.erase(EVERYTHING) == Erased(events=2 * USERS, pending=met.leased, leased=0)
