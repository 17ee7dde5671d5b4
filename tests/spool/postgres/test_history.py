"""History goes by the block, what must stay is moved on, and what was counted is summed up."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import shake_128
from typing import NamedTuple

import asyncpg
import pytest
from spool.postgres.conftest import START_MS, open_spool

from forwarder.archive_port import EventQuery
from forwarder.errors import NoSuchEvent
from forwarder.model import Envelope, Receipt, RouteName, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.layout import BLOCK_EVENTS
from forwarder.spool.postgres.reading.criteria import Criteria
from forwarder.spool.postgres.reconnecting import Connection
from forwarder.spool.postgres.spool import PostgresSpool
from stand_ins import spool_acts
from stand_ins.clock import HandClock
from stand_ins.spool_acts import give_back, leased, numbers, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
DAY_MS = 86_400_000
BLOCKS = "SELECT name FROM forwarder.blocks WHERE first = 1"


class Kept(NamedTuple):
    """A spool, its clock, and a connection beside it."""

    spool: PostgresSpool
    clock: HandClock
    database: asyncpg.Connection


@pytest.fixture(params=[4_294_967_296])
async def kept(request: pytest.FixtureRequest, postgres_url: str, database: asyncpg.Connection) -> AsyncIterator[Kept]:
    """Return an empty spool, of the cap that is asked for."""
    clock = HandClock(START_MS)
    spool = await open_spool(postgres_url, clock, limits=SpoolLimits(bytes_max=request.param))
    yield Kept(spool, clock, database)
    await spool.close()


def an_envelope(number: int, clock: HandClock, size: int = 2) -> Envelope:
    """Return an event of this number."""
    payload = shake_128(bytes([number])).digest(size)  # nothing that shrinks
    return spool_acts.an_envelope(number, at_ms=clock.now_ms, payload=payload)


async def settled_block(kept: Kept, *, size: int = 2) -> None:
    """Fill the first block: 1 to 6 delivered, 7 dead, 8 given back; the ninth event is in the next one."""
    await stored(kept.spool, [an_envelope(number, kept.clock, size) for number in range(1, 9)])
    await numbers(kept.spool)
    await settle(kept.spool, range(1, 7), State.DELIVERED)
    await settle(kept.spool, [7], State.DEAD, reason="refused")
    await give_back(kept.spool, [8], reason="busy")
    await kept.database.execute(f"SELECT setval('forwarder.event_sequence', {BLOCK_EVENTS})")
    await stored(kept.spool, [an_envelope(9, kept.clock)])


async def is_kept(spool: PostgresSpool, sequence: int) -> bool:
    """Tell whether an event is still told of."""
    try:
        await spool.event(sequence)
    except NoSuchEvent:
        return False
    return True


async def test_a_block_past_the_retention_goes_whole(kept: Kept) -> None:
    """What is pending stays until it is settled and past the retention; the totals keep counting what went."""
    spool, clock, database = kept
    await settled_block(kept)
    await spool.housekeeping.tidy()
    assert await is_kept(spool, 1)
    clock.now_ms += 8 * DAY_MS
    await spool.housekeeping.tidy()
    assert [await is_kept(spool, sequence) for sequence in (1, 7, 8)] == [False, False, True]
    assert await database.fetchval(BLOCKS) == "1_1"
    facts = await spool.facts()
    assert (facts.totals[OUT].delivered, facts.totals[OUT].dead, facts.totals[OUT].pending) == (6, 1, 2)
    assert (facts.open_dead[OUT], facts.retrying[OUT]) == (0, 1)
    assert facts.totals[OUT].is_balanced()
    assert await spool.reasons(OUT, State.DEAD, limit=9) == []
    assert (await numbers(spool))[0] == 8
    await settle(spool, [8], State.DELIVERED)
    await spool.housekeeping.tidy()
    assert await is_kept(spool, 8)
    clock.now_ms += 8 * DAY_MS
    await spool.housekeeping.tidy()
    assert await database.fetchval(BLOCKS) is None
    assert (await spool.facts()).totals[OUT].delivered == 7


async def test_a_block_that_is_in_use_is_left_for_later(kept: Kept) -> None:
    """A transaction that has read it keeps its tables; nobody else waits for that."""
    spool, clock, database = kept
    await settled_block(kept)
    clock.now_ms += 8 * DAY_MS
    async with database.transaction():
        assert await database.fetchval("SELECT count(*) FROM forwarder.events") == 9
        async with asyncio.timeout(5):
            await asyncio.gather(spool.housekeeping.tidy(), stored(spool, [an_envelope(10, clock)]))
        assert await is_kept(spool, 1)
    clock.now_ms += 61_000
    await spool.housekeeping.tidy()
    assert not await is_kept(spool, 1)
    assert (await spool.facts()).totals[OUT].is_balanced()


async def test_what_stays_in_a_block_is_never_out_of_sight(kept: Kept, postgres_url: str) -> None:
    """A snapshot sees it though it is moved on meanwhile: else a cursor would pass it, and a floor rise above it."""
    await settled_block(kept)
    kept.clock.now_ms += 8 * DAY_MS
    reading = Connection(Connector(lambda: postgres_url))
    async with reading.snapshot() as snapshot:
        await snapshot.fetchval("SELECT pg_current_snapshot()::text")
        await kept.spool.housekeeping.tidy()
        assert await snapshot.fetchval("SELECT count(*) FROM forwarder.events WHERE sequence = 8") == 1
    await reading.close()


@pytest.mark.parametrize("kept", [2_000_000], indirect=True)
async def test_at_the_cap_history_goes_early(kept: Kept) -> None:
    """The oldest blocks make room, but for what is pending or dead."""
    spool, clock, _ = kept
    await settled_block(kept, size=200_000)
    for _ in range(2):
        await spool.housekeeping.tidy()
    assert [await is_kept(spool, sequence) for sequence in (1, 6, 7, 8)] == [False, False, True, True]
    facts = await spool.facts()
    assert (facts.open_dead[OUT], facts.totals[OUT].delivered, facts.totals[OUT].pending) == (1, 6, 2)
    assert await spool.requeue([7]) == 1
    assert clock.now_ms == 1_700_000_000_000


async def test_where_little_happens_events_go_one_by_one(kept: Kept) -> None:
    """A block that is filled over weeks does not keep what is past the retention, a day later."""
    spool, clock, _ = kept
    await stored(spool, [an_envelope(number, clock) for number in (1, 2, 3)])
    await numbers(spool)
    await settle(spool, [1], State.DELIVERED)
    await settle(spool, [2], State.DEAD, reason="refused")
    clock.now_ms += 8 * DAY_MS + 1
    await spool.housekeeping.tidy()
    assert [await is_kept(spool, sequence) for sequence in (1, 2, 3)] == [False, False, True]
    facts = await spool.facts()
    assert (facts.open_dead[OUT], facts.totals[OUT].dead, facts.totals[OUT].pending) == (0, 1, 1)


async def test_a_key_is_known_for_the_retention(kept: Kept) -> None:
    """A copy is a duplicate until then, over the ends of spans; later it is a new event, and the old keys are gone."""
    spool, clock, database = kept
    spans = "SELECT count(*) FROM pg_class WHERE relname LIKE 'known_keys\\_%' AND relkind = 'r'"
    await stored(spool, [an_envelope(1, clock)])
    for day in range(1, 8):
        clock.now_ms = 1_700_000_000_000 + day * DAY_MS - 1
        assert await stored(spool, [an_envelope(1, clock)]) == Receipt(accepted=0, duplicates=1), day
        await spool.housekeeping.tidy()
    before = await database.fetchval(spans)
    clock.now_ms += 4 * DAY_MS
    assert await stored(spool, [an_envelope(1, clock)]) == Receipt(accepted=1, duplicates=0)
    await spool.housekeeping.tidy()
    assert await database.fetchval(spans) < before


async def test_what_was_counted_is_summed_up(kept: Kept) -> None:
    """Totals, types and reasons stay as they are, of many rows a few are left, and what comes next is found as ever."""
    spool, clock, database = kept
    for number in range(1, 31):
        await stored(spool, [an_envelope(number, clock)])
        await settle(spool, await numbers(spool), State.DEAD, reason="refused")
    before = await spool.facts(), await spool.event_types(OUT, limit=9), await spool.reasons(OUT, State.DEAD, limit=9)
    await spool.housekeeping.tidy()
    clock.now_ms += 130_000
    await spool.housekeeping.tidy()
    after = await spool.facts(), await spool.event_types(OUT, limit=9), await spool.reasons(OUT, State.DEAD, limit=9)
    assert before[0].totals == after[0].totals
    assert before[1:] == after[1:]
    for table in ("totals", "event_types", "reason_counts", "arrivals"):
        assert await database.fetchval(f"SELECT count(*) FROM forwarder.{table}") < 9, table  # noqa: S608 - our own words
    await stored(spool, [an_envelope(31, clock)])
    assert len(await leased(spool)) == 1


@pytest.mark.parametrize(
    ("label", "query"),
    [("user_id", EventQuery(limit=5, user_id="u")), ("message_id", EventQuery(limit=5, message_id="m"))],
)
async def test_a_full_block_gets_indexes_by_which_an_event_is_found(kept: Kept, label: str, query: EventQuery) -> None:
    """The next round makes them, also for what took a block's place; a search walks along them."""
    spool, clock, database = kept
    await settled_block(kept)
    assert f"events_1_{label}" not in await plan_of(database, query)
    async with database.transaction():
        await database.execute("LOCK TABLE forwarder.events_1 IN ROW EXCLUSIVE MODE")
        await spool.housekeeping.tidy()  # somebody writes: it is left for later
    clock.now_ms += 61_000
    await spool.housekeeping.tidy()
    assert f"events_1_{label}" in await plan_of(database, query)
    clock.now_ms += 8 * DAY_MS
    await spool.housekeeping.tidy()
    assert f"events_1_1_{label}" in await plan_of(database, query)


async def test_an_index_that_cannot_be_made_keeps_nothing_from_going(kept: Kept) -> None:
    """Where it fails in every round, what is past its time goes all the same."""
    spool, _, database = kept
    await settled_block(kept)
    await database.execute("CREATE INDEX events_1_message_id ON forwarder.events_1 (message_id)")
    await database.execute(
        "INSERT INTO forwarder.audit (at_ms, who, action, detail, outcome) VALUES (0, '', '', '', '')"
    )
    with pytest.raises(asyncpg.DuplicateTableError):
        await spool.housekeeping.tidy()
    assert await database.fetchval("SELECT count(*) FROM forwarder.audit") == 0


async def plan_of(database: asyncpg.Connection, query: EventQuery) -> str:
    """Return how Postgres would search, with the archive's own settings of a transaction."""
    criteria = Criteria(query, None)
    async with database.transaction():
        await database.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        statement = f"EXPLAIN {criteria.statement}"
        rows = await database.fetch(statement, 1, 2**62, 256, 256, *criteria.values)
    return "\n".join(row[0] for row in rows)
