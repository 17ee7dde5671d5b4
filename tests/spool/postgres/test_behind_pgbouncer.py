"""The spool behind PgBouncer in transaction mode: nothing of it outlives a transaction."""

from collections.abc import Iterator

import pytest
from spool.postgres.conftest import open_spool

from forwarder.archive_port import EventQuery
from forwarder.model import Envelope, Labels, RouteName, State
from stand_ins import spool_acts
from stand_ins.pgbouncer import MISSING, PROGRAM, PgBouncer
from stand_ins.postgres_server import PostgresServer
from stand_ins.spool_acts import give_back, leased, numbers, settle, stored

IN = RouteName.RUDDERSTACK_TO_COURIER


@pytest.fixture
def url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    """Return an empty database's URL through a PgBouncer that has two sessions for all."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    bouncer = PgBouncer(server=postgres_server)
    bouncer.start()
    yield bouncer.url(postgres_url.rpartition("/")[2])
    bouncer.stop()


def an_envelope(number: int) -> Envelope:
    """Return an event of this number, of one of three users."""
    user = f"u{number % 3}"
    labels = Labels(type="track", event="Bought", user_id=user)
    return spool_acts.an_envelope(number, route=IN, partition=user, labels=labels)


async def test_two_replicas_share_two_sessions(url: str) -> None:
    """They take in, lease, settle, replay, erase and list, on whichever session each transaction is given."""
    replicas = [await open_spool(url) for _ in range(2)]
    try:
        for _ in range(3):
            for replica in replicas:
                await replica.ownership.renew()
        for number in range(30):
            await stored(replicas[number % 2], [an_envelope(number)])
        done: list[int] = []
        while len(done) < 30:
            for replica in replicas:
                sequences = await numbers(replica, IN)
                for sequence in sequences:
                    await replica.note(sequence, b"begun")
                await give_back(replica, sequences, reason="busy")
                assert await numbers(replica, IN) == sequences
                await settle(replica, sequences, State.DEAD, reason="refused")
                done += sequences
        assert sorted(done) == sorted(set(done))
        assert await replicas[0].requeue(done[:3]) == 3
        again = [one.sequence for replica in replicas for one in await leased(replica, IN)]
        assert set(again) <= set(done[:3])
        assert (await replicas[1].erase(done[5:9])).events == 4
        assert len((await replicas[1].events(EventQuery(limit=100))).rows) == 30
        facts = await replicas[0].facts()
        assert facts.totals[IN].is_balanced()
        assert (facts.totals[IN].dead, facts.totals[IN].pending) == (27, 3)
    finally:
        for replica in replicas:
            await replica.close()
