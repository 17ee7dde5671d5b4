"""What an erasure leaves on disk, and what happens to it while routes lease and after a restart."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.archive_port import AuditRow, EventQuery
from forwarder.model import Attempt, Demand, Envelope, Labels, RouteName, State
from forwarder.spool.codes import Account
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.erasure import erase
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS
from forwarder.spool.sqlite.settlement import quarantine
from forwarder.spool.sqlite.transaction import Transaction
from stand_ins.spool_acts import leased, settle, stored

OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]
MARK = "ada-lovelace-1815"


def _made(make: MakeEnvelope, number: int, *, route: RouteName = IN, size: int = 100) -> Envelope:
    labels = Labels(type="track", event="Bought", message_id=f"m-{MARK}", user_id=MARK)
    payload = f'{{"userId":"{MARK}","x":"{MARK * (size // len(MARK))}"}}'.encode()
    return make(number, route=route, partition=MARK, labels=labels, payload=payload)


def _files_with(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if MARK.encode() in file.read_bytes())


async def test_no_byte_of_the_person_stays_in_the_files(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """Erased and scrubbed, neither database nor log holds a byte of payload, label, plan, path, answer or audit."""
    spool = await open_sqlite()
    called = Attempt(
        at_ms=0, duration_ms=1, operation=f"POST /profiles/{MARK}", status=400, outcome="refused", reason="bad",
        answer=f"no {MARK}".encode(),
    )  # fmt: skip
    for number in range(1, 40):
        await stored(spool, [_made(make_envelope, number, route=IN if number % 2 else OUT, size=number * 700)])
    for route, attempt in ((IN, called), (OUT, replace(called, operation="POST /v1/batch"))):
        for lease in await leased(spool, route, fresh=5, size=10**9):
            await spool.note(lease.sequence, f"plan for {MARK}".encode())
            await spool.record([lease.sequence], attempt)
            await settle(spool, [lease.sequence], State.DEAD, reason=f"bad: {MARK}", attempt=attempt)
    await spool.write_audit(AuditRow(at_ms=4 * 10**12, who="page", action="replay", detail=f"user_id={MARK}", count=1))
    folder = tmp_path / "data"
    assert _files_with(folder), "the control: it is there before"
    rows = (await spool.events(EventQuery(user_id=MARK, limit=500))).rows
    erased = await spool.erase([row.sequence for row in rows])
    assert (erased.events, erased.leased) == (39, 0)
    assert await spool.scrub([MARK]) is True
    assert _files_with(folder) == []
    facts = await spool.facts()
    assert all(totals.is_balanced() for totals in facts.totals.values())
    assert (await spool.event(1)).event_key == (1).to_bytes(16, "big")


async def test_a_label_block_names_nobody_any_more(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """Events that the label index holds are found by their user before, and by nobody after."""
    spool = await open_sqlite()
    first = [_made(make_envelope, number, route=OUT) for number in range(1, 5)]
    rest = [make_envelope(number, route=OUT) for number in range(5, 2 * BLOCK_EVENTS)]
    await stored(spool, first)
    for start in range(0, len(rest), 500):
        await stored(spool, rest[start : start + 500])
    async with asyncio.timeout(60):
        while True:
            rows = await spool._reads.read(lambda c: c.execute("SELECT count(*) FROM label_index").fetchone())  # noqa: SLF001 - the index has no other face
            if rows[0]:
                break
            await asyncio.sleep(0.05)
    assert len((await spool.events(EventQuery(user_id=MARK))).rows) == 4
    await spool.erase([1, 2, 3, 4])
    assert (await spool.events(EventQuery(user_id=MARK))).rows == ()
    assert (await spool.events(EventQuery(message_id=f"m-{MARK}"))).rows == ()
    del clock


async def test_what_is_being_erased_is_leased_to_nobody(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """While the erasure is on its way to disk and back, a route is leased others alone; then what is left."""
    spool = await open_sqlite()
    envelopes = [make_envelope(number, route=OUT) for number in range(1, 41)]
    await stored(spool, envelopes)
    await spool.refill(OUT, Demand(fresh_max=40, retry_max=0, bytes_max=10**9))
    erasing = asyncio.create_task(spool.erase(list(range(1, 21))))
    await asyncio.sleep(0)  # it is on its way
    got: list[int] = []
    demand = Demand(fresh_max=3, retry_max=0, bytes_max=10**9)
    async with asyncio.timeout(60):
        while len(got) < 20:
            leases = [lease.sequence for lease in spool.lease(OUT, demand)]
            got += leases
            if leases:
                await settle(spool, leases, State.DELIVERED)
            await asyncio.sleep(0)
    erased = await erasing
    assert (erased.pending, erased.leased) == (20, 0)
    assert sorted(got) == list(range(21, 41))
    totals = (await spool.facts()).totals[OUT]
    assert (totals.pending, totals.delivered, totals.dead, totals.is_balanced()) == (0, 20, 20, True)


async def test_an_erasure_takes_from_the_queues_what_it_erases_alone(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """However long it takes: all others that were at hand are leased at once, on either route, without a read."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, route=OUT if n % 3 else IN, partition=f"u{n}") for n in range(1, 901)])
    demand = Demand(fresh_max=900, retry_max=0, bytes_max=10**9)
    await spool.refill(OUT, demand)
    await spool.refill(IN, demand)
    generations = [queue.generation for queue in spool._leasing.queues]  # noqa: SLF001 - a reset has no other face
    assert (await spool.erase(range(1, 601))).pending == 600
    assert [queue.generation for queue in spool._leasing.queues] == generations  # noqa: SLF001 - as above
    for route in (OUT, IN):
        expected = [n for n in range(601, 901) if (n % 3 == 0) == (route == IN)]
        assert [lease.sequence for lease in spool.lease(route, demand)] == expected


async def test_an_erasure_outlives_a_restart(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """After a restart nothing of it is pending, its keys are known, and what others have is leased in order."""
    spool = await open_sqlite()
    for number in range(1, 7):
        await stored(spool, [_made(make_envelope, number) if number % 2 else make_envelope(number, route=IN)])
    await spool.erase([1, 3, 5])
    await spool.close()
    spool = await open_sqlite()
    assert [lease.sequence for lease in await leased(spool, IN, fresh=50)] == [2, 4, 6]
    receipt = await stored(spool, [_made(make_envelope, number) for number in (1, 3, 5)])
    assert receipt.duplicates == 3
    await settle(spool, [2, 4, 6], State.DELIVERED)
    facts = await spool.facts()
    assert facts.totals[IN].is_balanced()
    assert facts.unsettled_bytes[IN] == 0


async def test_the_weight_of_erased_events_goes_with_them(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """What dead events weigh is taken off when they are erased, and the rest once the retention has purged them."""
    spool = await open_sqlite()
    await stored(spool, [_made(make_envelope, number, route=OUT, size=5_000) for number in range(1, 9)])
    for lease in await leased(spool, OUT, fresh=1, size=10**9):
        await settle(spool, [lease.sequence], State.DEAD, reason="bad")
    await spool.erase(range(1, 9))
    memory = spool._group.memory  # noqa: SLF001 - what it weighs is told nowhere
    assert 0 < memory.totals[0, Account.DEAD_BYTES] < 8 * 1_000
    clock.now_ms += 8 * 86_400_000
    async with asyncio.timeout(60):
        while (await spool.events(EventQuery())).rows:
            await stored(spool, [])
            await asyncio.sleep(0.05)
    assert memory.totals[0, Account.DEAD_BYTES] == 0
    assert (await spool.facts()).totals[OUT].dead == 8


@pytest.mark.parametrize(
    ("work", "looks"),
    [(partial(erase, sequences=[4, 5]), 0), (partial(quarantine, route=1, sequences=[4, 5]), 1)],
    ids=["erasing", "setting damaged ones aside"],
)
async def test_no_event_is_looked_for_in_all_partitions(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, work: Callable[[Transaction], Any], looks: int
) -> None:
    """Erasing costs no look at every event that waits; for damaged ones, whose rows say nothing, one does for all."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(number, route=IN, partition=f"u{number // 2}") for number in range(1, 300)])

    def scanned(transaction: Transaction) -> list[str]:
        steps: list[str] = []

        def hear(event: dict[str, Any]) -> None:
            if event["stmt_status"]["SQLITE_STMTSTATUS_FULLSCAN_STEP"] and "partitions" in event["sql"]:
                steps.append(event["sql"])

        transaction.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, hear)
        transaction.execute("SELECT * FROM partitions").fetchall()
        work(transaction)
        transaction.connection.trace_v2(0, None)
        return steps

    control, *others = await spool._work.run(scanned)  # noqa: SLF001 - steps have no other face
    assert (control, len(others)) == ("SELECT * FROM partitions", looks)
    left = await spool._work.run(lambda t: t.execute("SELECT sequence FROM partitions WHERE sequence < 8").fetchall())  # noqa: SLF001 - as above
    assert sorted(left) == [(1,), (2,), (3,), (6,), (7,)]


async def test_an_erased_event_whose_row_lies_holds_nobody_up(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """A damaged row may name another partition than the event stands in: who came behind it is leased all the same."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(number, route=IN, partition="u") for number in (1, 2)])
    spoil = "UPDATE events_inbound SET partition = 'v' WHERE sequence = 1"
    await spool._work.run(lambda transaction: transaction.execute(spoil).fetchall())  # noqa: SLF001 - damage has no other face
    assert (await spool.erase([1])).pending == 1
    assert [lease.sequence for lease in await leased(spool, IN)] == [2]
