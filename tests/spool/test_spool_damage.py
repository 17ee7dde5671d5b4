"""Damage is set aside and shown; what is sound is served on."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import NoSuchEvent, SpoolClosed, SpoolFull, SpoolUnusable
from forwarder.model import Envelope, RouteName, State
from forwarder.spool.codes import Account
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.database import DATABASE_NAME
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS
from stand_ins.spool_acts import give_back, leased, numbers, settle, stored
from stand_ins.waiting import wait_until

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]


async def closed_with(open_sqlite: OpenSqlite, envelopes: list[Envelope], *, delivered: int = 0) -> None:
    """Make a folder with these events, so many of them delivered."""
    spool = await open_sqlite()
    await stored(spool, envelopes)
    await settle(spool, await numbers(spool, fresh=delivered), State.DELIVERED)
    await spool.close()


def look(tmp_path: Path, sql: str) -> list[Any]:
    """Have the database do something beside its owner."""
    connection = apsw.Connection(str(tmp_path / "data" / DATABASE_NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(60_000)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def rot(tmp_path: Path, where: str) -> None:
    """Make payloads fail their checksums."""
    look(tmp_path, f"UPDATE events_outbound SET payload = 'rotten' WHERE sequence {where}")  # noqa: S608 - our own words


def spoil(tmp_path: Path, table: str, leaf: float | None = None) -> None:
    """Overwrite the first page of a table, or the leaf that lies so far in it (0 first, 1 last)."""
    sql = f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"  # noqa: S608 - our own words
    if leaf is not None:
        sql = f"SELECT pageno FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf' ORDER BY path"  # noqa: S608 - as above
    pages = [int(row[0]) for row in look(tmp_path, sql)]
    page = pages[int((leaf or 0) * (len(pages) - 1))]
    with (tmp_path / "data" / DATABASE_NAME).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


async def test_a_damaged_payload_is_quarantined(
    open_sqlite: OpenSqlite, reporter: Any, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """A payload that fails its checksum ends dead as a corrupt row; the rest goes on, from either end."""
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, 7)])
    rot(tmp_path, "IN (2, 5, 6)")
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert [newest.sequence, *await numbers(spool)] == [4, 1, 3]
    facts = await spool.facts()
    assert (facts.corrupt_rows, facts.totals[OUT].dead) == (3, 3)
    assert facts.totals[OUT].is_balanced()
    assert set(reporter.facts) == {"quarantined 2", "quarantined 5", "quarantined 6"}
    detail = await spool.event(2)
    assert (detail.row.state, detail.row.reason, detail.payload) == (State.DEAD, "corrupt row", None)


async def test_damaged_heads_let_their_partition_go_on(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """The next of a partition is leased when its head turns out to be damaged, however many are, on a retry or not."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition="p") for n in range(1, 6)])
    await give_back(spool, await numbers(spool), reason="busy")
    await spool.close()
    rot(tmp_path, "< 4")
    spool = await open_sqlite()
    assert await numbers(spool) == [4]
    facts = await spool.facts()
    assert (facts.retrying[OUT], facts.corrupt_rows) == (0, 3)
    assert facts.unsettled_bytes[OUT] < 2_000
    await settle(spool, [4], State.DELIVERED)
    assert await numbers(spool) == [5]
    await settle(spool, [5], State.DELIVERED)
    assert (await spool.facts()).unsettled_bytes[OUT] == 0


@pytest.mark.parametrize("partition", ["", "p"], ids=["no order", "one partition"])
@pytest.mark.parametrize("leaf", [0, 0.5], ids=["first page", "middle page"])
async def test_a_damaged_page_does_not_stop_the_rest(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path, leaf: float, *, partition: str
) -> None:
    """Events on a page that cannot be read are quarantined; all others are leased in order, listed and settled."""
    await closed_with(open_sqlite, [make_envelope(n, partition=partition, payload=b"x" * 600) for n in range(1, 101)])
    spoil(tmp_path, "events_outbound", leaf)
    spool = await open_sqlite()
    sound: list[int] = []
    while leases := await numbers(spool, fresh=20):
        sound += leases
        await settle(spool, leases, State.DELIVERED)
    facts = await spool.facts()
    assert 0 < facts.corrupt_rows < 10
    assert len(sound) == 100 - facts.corrupt_rows
    assert sound == sorted(sound)
    assert facts.totals[OUT].is_balanced()
    rows = (await spool.events(EventQuery(limit=500))).rows
    assert {row.sequence for row in rows} >= set(sound)
    dead = (await spool.events(EventQuery(state=State.DEAD, limit=500))).rows
    assert len(dead) == facts.corrupt_rows
    assert (await spool.event(dead[0].sequence)).payload is None
    assert await spool.requeue([dead[0].sequence]) == 0
    assert (await stored(spool, [make_envelope(1_000)])).accepted == 1
    assert await numbers(spool) == [101]


async def test_a_page_that_cannot_be_read_hides_its_events_until_they_are_set_aside(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Behind what memory holds nobody has met them yet; a probe does, and leases the newest that can be read."""
    await closed_with(open_sqlite, [make_envelope(n, payload=b"x" * 600) for n in range(1, 3_001)])
    spoil(tmp_path, "events_outbound", 1)
    spool = await open_sqlite()
    with pytest.raises(NoSuchEvent):
        await spool.event(3_000)
    newest = await spool.lease_newest(OUT)
    assert newest is not None
    assert newest.sequence + (await spool.facts()).corrupt_rows == 3_000
    assert (await spool.event(3_000)).row.state is State.DEAD


async def test_a_damaged_page_leaves_the_rest_of_its_block_findable(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """The label index is built around rows that cannot be read: filters go on finding the sound ones."""
    # A block is only built once it is full, so the last event is added after the damage.
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, BLOCK_EVENTS)])
    spoil(tmp_path, "events_outbound", 0.2)
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(BLOCK_EVENTS, BLOCK_EVENTS + 5)])
    await wait_until(lambda: look(tmp_path, "SELECT count(*) FROM label_index WHERE kind = 0") == [(1,)])
    sound: list[int] = []
    while leases := await numbers(spool, fresh=1_000):
        sound += leases
    lost = BLOCK_EVENTS + 4 - len(sound)
    assert 0 < lost < 100
    for number in (sound[0], sound[len(sound) // 2], sound[-1]):
        rows = (await spool.events(EventQuery(message_id=f"m{number}"))).rows
        assert [row.sequence for row in rows] == [number]
    assert len((await spool.events(EventQuery(route=OUT, state=State.DEAD, limit=100))).rows) == lost


async def test_what_is_leased_is_not_quarantined(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Damage on disk to an event in hand does not settle it a second time."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    assert await numbers(spool) == [1, 2, 3]
    rot(tmp_path, "= 1")
    spool._leasing.reset()  # noqa: SLF001 - everything is read anew
    assert await numbers(spool) == []
    await settle(spool, [1, 2, 3], State.DELIVERED)
    totals = (await spool.facts()).totals[OUT]
    assert (totals.pending, totals.delivered, totals.dead) == (0, 3, 0)
    assert reporter.facts == []


async def test_a_purged_damaged_row_leaves_the_dead_bytes_right(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any, tmp_path: Path
) -> None:
    """A damaged row that is past the retention takes nothing from what the others weigh."""
    limits = SpoolLimits(retention_s=100)
    await closed_with(open_sqlite, [make_envelope(1, payload=b"x" * 5_000)])
    rot(tmp_path, "= 1")
    spool = await open_sqlite(limits=limits)
    assert await numbers(spool) == []
    assert (await spool.facts()).corrupt_rows == 1
    clock.now_ms += 200_000
    await wait_until(lambda: not look(tmp_path, "SELECT sequence FROM events_outbound"))
    await spool.close()
    amounts = look(tmp_path, "SELECT account, amount FROM totals")
    assert dict(amounts).get(Account.DEAD_BYTES, 0) == 0


async def test_damage_beside_the_events_buries_none(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """With a rotten page of progress every event is delivered, those with progress too; none is dead."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, route=IN) for n in range(1, 301)])
    for lease in await leased(spool, IN, fresh=300):
        await spool.note(lease.sequence, b"planned " * 20)
    await spool.close()
    spoil(tmp_path, "progress", 0.5)
    spool = await open_sqlite()
    leases = await leased(spool, IN, fresh=300)
    assert len(leases) == 300
    assert 0 < sum(1 for lease in leases if lease.progress) < 300
    await settle(spool, [lease.sequence for lease in leases], State.DELIVERED)
    totals = (await spool.facts()).totals[IN]
    assert (totals.delivered, totals.dead) == (300, 0)


async def test_damage_of_more_than_a_page_buries_none(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path, reporter: Any
) -> None:
    """When the table itself cannot be read no event is to blame: it is alarmed, and a repair finds all of them."""
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, 2_001)])
    spoil(tmp_path, "events_outbound")
    spool = await open_sqlite()
    assert await numbers(spool) == []
    assert (await spool.facts()).totals[OUT].dead == 0
    assert "damaged" in reporter.facts


async def test_a_queue_that_cannot_be_read_is_alarmed(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Damage that no event can be blamed for makes one alarm; nothing is leased, and the totals stay as they were."""
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, 11)], delivered=5)
    spoil(tmp_path, "given_back")
    spool = await open_sqlite()
    assert await numbers(spool) == []
    assert reporter.facts == ["damaged"]
    facts = await spool.facts()
    totals = facts.totals[OUT]
    assert (totals.accepted, totals.pending, totals.delivered) == (10, 5, 5)
    assert facts.oldest_pending_ms[OUT] is None
    with pytest.raises(SpoolUnusable, match="the database is damaged"):
        await spool.event(6)


async def test_settlements_that_damage_keeps_out_hold_everything(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any, tmp_path: Path
) -> None:
    """Where settling meets damage, nothing more is leased or taken in, and the refusal names the remedy."""
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, 11)], delivered=5)
    spoil(tmp_path, "settled_by_age")
    spool = await open_sqlite()
    settling = asyncio.create_task(settle(spool, await numbers(spool), State.DELIVERED))

    async def is_refusing() -> bool:
        return not (await spool.facts()).is_accepting

    await wait_until(is_refusing)
    facts = await spool.facts()
    assert "the database is damaged" in facts.refusal
    assert "restore it from a backup" in facts.refusal
    assert (facts.totals[OUT].pending, facts.totals[OUT].delivered) == (5, 5)
    assert await numbers(spool) == []
    with pytest.raises(SpoolFull):
        await stored(spool, [make_envelope(11)])
    await spool.close()
    with pytest.raises(SpoolClosed):
        await settling
    assert reporter.facts.count("damaged") == 1


async def test_totals_that_cannot_be_read_are_refused(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """A spool without its totals is not opened; the error names the remedy."""
    await closed_with(open_sqlite, [make_envelope(n) for n in range(1, 11)], delivered=5)
    spoil(tmp_path, "totals")
    with pytest.raises(SpoolUnusable, match="restore it from a backup"):
        await open_sqlite()


@pytest.mark.parametrize("seed", range(12))
async def test_damage_anywhere_is_met_in_the_end(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path, seed: int
) -> None:
    """Random pages overwritten with others: it opens or says why not, reads, and closes; never a loop without end."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, partition=f"p{n % 7}" if n % 3 else "") for n in range(1, 601)])
    await settle(spool, await numbers(spool, fresh=50), State.DELIVERED)
    await spool.close()
    dice = random.Random(seed)  # noqa: S311 - no secret
    path = tmp_path / "data" / DATABASE_NAME
    image = bytearray(path.read_bytes())
    pages = len(image) // 4096
    for _ in range(6):
        page, other = dice.randrange(1, pages), dice.randrange(1, pages)
        image[page * 4096 : page * 4096 + 4096] = image[other * 4096 : other * 4096 + 4096]
    path.write_bytes(image)
    async with asyncio.timeout(60):
        try:
            spool = await open_sqlite()
        except SpoolUnusable:
            return
        for _ in range(5):
            leases = await leased(spool, OUT)
            await spool.lease_newest(OUT)
            settling = asyncio.create_task(settle(spool, [one.sequence for one in leases], State.DELIVERED))
            await asyncio.wait((settling,), timeout=0.5)
        await spool.close()
        await asyncio.gather(settling, return_exceptions=True)
