"""What is tidied behind the commits: age, space, prints of labels, keys. And that a backlog costs nothing."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from forwarder.archive_port import AuditRow, EventQuery
from forwarder.errors import NoSuchEvent, SpoolClosed, SpoolFull
from forwarder.model import Envelope, Labels, Receipt, RouteName, State
from forwarder.spool.codes import Account
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite import known_keys as keys_module
from forwarder.spool.sqlite.database import open_reader, open_writer, prepare_folder
from forwarder.spool.sqlite.housekeeping import Eviction
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS
from forwarder.spool.sqlite.runs import Run, write_run
from forwarder.spool.sqlite.transaction import Memory, Transaction
from stand_ins.spool_acts import leased, settle, stored
from stand_ins.waiting import wait_until

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]


async def lease_all(spool: SqliteSpool, route: RouteName = OUT) -> list[int]:
    """Lease everything that is due."""
    leases: list[int] = []
    while more := await leased(spool, route, fresh=1_000, retry=1_000, size=10**9):
        leases += [lease.sequence for lease in more]
    return leases


async def test_settled_events_go_after_the_retention(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """History is dropped when it is old enough; what is pending never is; the totals keep counting all."""
    spool = await open_sqlite(limits=SpoolLimits(retention_s=1_000))
    await stored(spool, [make_envelope(n) for n in range(1, 1_201)])
    leases = await lease_all(spool)
    await spool.note(2, b"half done")
    await settle(spool, leases[0:1], State.DELIVERED)
    await settle(spool, leases[1:1_100], State.DEAD, reason="refused")
    await spool.write_audit(AuditRow(at_ms=clock.now_ms, who="cli", action="replay", detail=""))
    clock.now_ms += 999_000
    await stored(spool, [make_envelope(5_000)])
    await asyncio.sleep(0.6)  # the writer tidies when it is idle; nothing tells that it found nothing to do
    assert (await spool.event(2)).payload is not None
    clock.now_ms += 62_000

    async def is_gone() -> bool:
        return len((await spool.events(EventQuery(limit=2_000))).rows) == 101

    await wait_until(is_gone)
    with pytest.raises(NoSuchEvent):
        await spool.event(2)
    assert await spool.requeue([2]) == 0
    assert not await spool.reasons(None, State.DEAD, limit=5)
    assert not await spool.audit(limit=5)
    facts = await spool.facts()
    assert (facts.totals[OUT].accepted, facts.totals[OUT].delivered, facts.totals[OUT].dead) == (1_201, 1, 1_099)
    assert facts.totals[OUT].is_balanced()


async def test_history_yields_before_new_events_are_refused(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any
) -> None:
    """Near the cap settled payloads go first: filtered, then delivered; dead ones stay and can be replayed."""
    spool = await open_sqlite(limits=SpoolLimits(bytes_max=3_000_000))
    await stored(spool, [make_envelope(n, payload=b"x" * 5_000) for n in range(1, 301)])
    leases = await lease_all(spool)
    await settle(spool, leases[:100], State.FILTERED, reason="not listed")
    await settle(spool, leases[100:250], State.DELIVERED)
    await settle(spool, leases[250:], State.DEAD, reason="refused")
    assert "yielded" not in " ".join(reporter.facts)
    for number in range(1_000, 1_250):
        await stored(spool, [make_envelope(number, payload=b"y" * 5_000)])

    async def is_within() -> bool:
        return (await spool.facts()).size_bytes <= 2_700_000

    await wait_until(is_within)
    assert any(fact.startswith("yielded") for fact in reporter.facts)
    assert (await spool.event(leases[0])).payload is None
    assert await spool.requeue([leases[0]]) == 0
    assert (await spool.event(leases[299])).payload is not None
    assert await spool.requeue([leases[299]]) == 1
    assert len((await spool.events(EventQuery(limit=1_000))).rows) == 550
    assert (await stored(spool, [make_envelope(1)])).duplicates == 1
    assert (await spool.facts()).totals[OUT].is_balanced()


async def test_rows_yield_last(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """When every payload has yielded, the oldest settled rows go; the flow never stops, no key goes with its row."""
    limits = SpoolLimits(bytes_max=600_000)
    spool = await open_sqlite(limits=limits)
    labels = Labels(type="t", event="e" * 200, message_id="m" * 200, user_id="u" * 200)
    for number in range(60):
        batch = [make_envelope(number * 50 + n, labels=labels) for n in range(50)]
        for _ in range(200):
            try:
                await stored(spool, batch)
                break
            except SpoolFull:
                await asyncio.sleep(0.02)
        await settle(spool, await lease_all(spool), State.DELIVERED)
    totals = (await spool.facts()).totals[OUT]
    assert (totals.accepted, totals.delivered) == (3_000, 3_000)
    assert len((await spool.events(EventQuery(limit=5_000))).rows) < 3_000
    await spool.close()
    spool = await open_sqlite(limits=limits)
    for first in range(0, 3_000, 100):
        again = [make_envelope(first + n) for n in range(100)]
        assert await stored(spool, again) == Receipt(accepted=0, duplicates=100)


async def test_labels_are_found_in_blocks_and_beside_them(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any
) -> None:
    """A filter is exact over blocks of prints and over the newest rows, for rare, common and absent values."""
    spool = await open_sqlite()
    count = BLOCK_EVENTS * 3 + 500
    for start in range(1, count, 500):
        clock.now_ms += 1_000
        await stored(
            spool,
            [
                make_envelope(
                    n,
                    route=IN if n % 1_000 == 0 else OUT,
                    labels=Labels(type="t", event=f"e{n % 3}", message_id=f"m{n}", user_id=f"u{n // 100}"),
                )
                for n in range(start, min(start + 500, count))
            ],
        )
    reader = open_reader(spool._folder)  # noqa: SLF001 - the promise is about what is behind the spool

    async def is_built() -> bool:
        return bool(reader.execute("SELECT count(*) FROM label_index WHERE kind = 0").fetchone() == (3,))

    await wait_until(is_built)
    reader.close()
    everything = range(1, count)

    async def found(**filters: Any) -> list[int]:
        page = await spool.events(EventQuery(limit=10_000, **filters))
        assert not page.is_cut
        return [row.sequence for row in page.rows]

    assert await found(message_id="m7") == [7]
    assert await found(message_id=f"m{count - 1}") == [count - 1]
    assert await found(message_id="none") == []
    assert await found(user_id="u20") == list(range(2_099, 1_999, -1))
    assert await found(user_id="u20", event="e1") == [n for n in range(2_099, 1_999, -1) if n % 3 == 1]
    assert await found(event="e2", after_sequence=5_000) == [n for n in everything if n > 5_000 and n % 3 == 2]
    assert await found(route=IN) == [6_000, 5_000, 4_000, 3_000, 2_000, 1_000]
    assert await found(route=IN, after_sequence=3_500) == [4_000, 5_000, 6_000]
    assert await found(route=IN, before_sequence=2_500, event="e1") == [1_000]
    low_ms = (await spool.event(1_200)).row.received_at_ms
    high_ms = (await spool.event(5_800)).row.received_at_ms
    assert await found(received_from_ms=low_ms, received_to_ms=high_ms) == list(range(5_500, 1_000, -1))
    assert await found(received_from_ms=high_ms, after_sequence=100) == list(range(5_501, count))
    assert await found(received_to_ms=1, after_sequence=0) == []


async def test_draining_does_not_slow_down_with_the_backlog(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """Leasing and settling an event takes about as long with 100,000 waiting behind it as with none."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=65_536))

    async def fill(start: int, count: int) -> None:
        for first in range(start, start + count, 1_000):
            await stored(spool, [make_envelope(n) for n in range(first, first + 1_000)])

    async def drain(count: int) -> float:
        begun_s, done = time.process_time(), 0
        while done < count:
            leases = await leased(spool, OUT, fresh=100, retry=100, size=500_000)
            await settle(spool, [lease.sequence for lease in leases], State.DELIVERED)
            done += len(leases)
        return time.process_time() - begun_s

    await fill(0, 5_000)
    alone_s = await drain(5_000)
    await fill(10_000, 100_000)
    # The writer tidies up after so many meanwhile, which is not draining: the cheapest of a few tells.
    first_s = min([await drain(5_000) for _ in range(4)])
    assert first_s < alone_s * 4


def test_keys_go_into_tables_and_are_known_ever_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is known while it is in memory, while it is moved, in its table, and again after a restart."""
    monkeypatch.setattr(keys_module, "KEYS_IN_MEMORY_MAX", 10)
    prepare_folder(tmp_path)
    connection = open_writer(tmp_path)
    known = KnownKeys(connection, retention_s=800, now_ms=0)
    memory = Memory()
    all_keys = [n.to_bytes(17, "big") for n in range(8_192)]

    def commit(work: Callable[[Transaction], None], *, now_ms: int) -> None:
        transaction = Transaction(connection, memory, SpoolLimits(), now_ms=now_ms)
        connection.execute("BEGIN IMMEDIATE")
        work(transaction)
        connection.execute("COMMIT")
        known.keep()

    commit(lambda _: known.add(all_keys, now_ms=0), now_ms=0)
    assert known.find(all_keys[:9], now_ms=0) == set(all_keys[:9])
    steps = 0
    while known.is_sealing_due(now_ms=0):
        commit(known.seal, now_ms=0)
        assert known.find(all_keys, now_ms=0) == set(all_keys)
        steps += 1
    assert steps == 2
    again = KnownKeys(connection, retention_s=800, now_ms=0)
    assert again.find([all_keys[0], b"x" * 17], now_ms=0) == {all_keys[0]}
    more = [b"k%016d" % n for n in range(20)]
    commit(lambda _: known.add(more, now_ms=500_000), now_ms=500_000)
    commit(known.seal, now_ms=500_000)
    assert known.find([*more, *all_keys], now_ms=800_000) == {*more, *all_keys}
    assert known.find([*more, *all_keys], now_ms=800_001) == set(more)
    commit(lambda t: None if known.drop_old(t) else pytest.fail("kept"), now_ms=1_100_000)
    assert known.find([*more, *all_keys], now_ms=0) == set(more)
    newest = [b"n%016d" % n for n in range(20)]
    commit(lambda _: known.add(newest, now_ms=1_000_000), now_ms=1_000_000)
    commit(known.seal, now_ms=1_000_000)
    assert known.find([*more, *newest], now_ms=0) == {*more, *newest}
    commit(lambda t: None if known.drop_oldest(t) else pytest.fail("kept"), now_ms=0)
    assert known.find([*more, *newest], now_ms=0) == set(newest)
    commit(lambda t: pytest.fail("the newest is open") if known.drop_oldest(t) else None, now_ms=0)
    connection.close()


def test_eviction_ends_where_nothing_is_left_to_evict(tmp_path: Path) -> None:
    """With no history it is not asked again until there is some; then payloads, keys and rows go, to the first one."""
    prepare_folder(tmp_path)
    connection = open_writer(tmp_path)
    known = KnownKeys(connection, retention_s=800, now_ms=0)
    memory = Memory()
    eviction = Eviction(SpoolLimits(bytes_max=1_000), known)

    def step() -> int:
        transaction = Transaction(connection, memory, SpoolLimits(), now_ms=0)
        with connection:
            evicted = eviction.step(transaction, is_pressed=False)
        known.keep()
        return evicted

    def is_due(history: int) -> bool:
        return eviction.is_due(used_bytes=901, history=history, is_pressed=False)

    assert not eviction.is_due(used_bytes=900, history=0, is_pressed=False)
    assert is_due(0)
    assert step() == 0
    assert not is_due(0)
    event = (1, b"k" * 16, "", 0, "s", "t", "e", "m", "u", 1, 0, b"x")
    connection.execute("INSERT INTO events_outbound VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", event)
    write_run(Transaction(connection, memory, SpoolLimits(), now_ms=0), Run(0, 1, 1, 1, 0, 1, None, None, 0, None))
    memory.totals = {(0, Account.DELIVERED): 1, (0, Account.SEQUENCE): 1}
    for now_ms in (0, 60_000):  # two buckets of keys
        key = now_ms.to_bytes(17, "big")
        known.add([key], now_ms=now_ms)
        known.keep()
        known.seal(Transaction(connection, memory, SpoolLimits(), now_ms=now_ms))
        known.keep()
    steps = []
    while is_due(1):
        steps.append(step())
        assert len(steps) < 10
    assert steps[0] == 1  # its payload
    assert known.find([bytes(17), key], now_ms=0) == {key}
    assert connection.execute("SELECT count(*) FROM events_outbound").get == 0
    connection.close()


def test_keys_in_memory_live_as_long_as_the_retention(tmp_path: Path) -> None:
    """Below any size a key is known for the whole retention, and forgotten after it; what comes then is known anew."""
    prepare_folder(tmp_path)
    connection = open_writer(tmp_path)
    known = KnownKeys(connection, retention_s=800, now_ms=0)
    old, new = b"old".ljust(17), b"new".ljust(17)
    known.add([old], now_ms=0)
    known.keep()
    assert known.find([old, new], now_ms=800_000) == {old}
    assert known.find([old, new], now_ms=800_001) == set()
    known.add([new], now_ms=800_001)
    known.keep()
    assert known.find([old, new], now_ms=800_002) == {new}
    connection.close()


async def test_a_poisoned_append_does_not_fail_its_commit_mates(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope
) -> None:
    """What one caller got wrong is told to that caller alone, however many share the commit."""
    spool = await open_sqlite()
    good = [stored(spool, [make_envelope(n)]) for n in range(1, 20)]
    wrong: Any = "text is no payload"
    results = await asyncio.gather(
        *good[:10], stored(spool, [make_envelope(99, payload=wrong)]), *good[10:], return_exceptions=True
    )
    assert [r for r in results if not isinstance(r, BaseException)] == [Receipt(accepted=1, duplicates=0)] * 19
    assert sum(isinstance(r, SpoolClosed) for r in results) == 1
    assert (await spool.facts()).totals[OUT].accepted == 19


async def test_a_cancelled_caller_leaves_nothing_leased(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """A lease that is cancelled while it reads is not lost, and a settlement that was asked for is made."""
    spool = await open_sqlite(limits=SpoolLimits(cache_bytes_max=1))
    await stored(spool, [make_envelope(n) for n in range(1, 4)])
    leasing = asyncio.create_task(leased(spool, OUT, fresh=9, retry=9, size=10_000))
    await asyncio.sleep(0)
    leasing.cancel()
    await asyncio.gather(leasing, return_exceptions=True)
    assert await lease_all(spool) == [1, 2, 3]
    settling = asyncio.create_task(settle(spool, [1], State.DELIVERED))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await settle(spool, [2], State.DELIVERED)
    assert (await spool.facts()).totals[OUT].delivered == 2


async def test_the_watchdog_sees_the_writer(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, clock: Any) -> None:
    """An idle writer is alive, and so is one that turned lately."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(1)])
    assert spool.name == "spool writer"

    async def is_alive() -> bool:
        return spool.is_alive(now_s=clock.monotonic_s(), within_s=5)

    await wait_until(is_alive)
    assert "SqliteSpool" in repr(spool)


async def test_the_cap_is_reported_once(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any) -> None:
    """However many appends are refused, the alarm is raised when it begins and ended when it ends."""
    spool = await open_sqlite(limits=SpoolLimits(bytes_max=400_000))
    for number in range(1, 20):
        with contextlib.suppress(SpoolFull):
            await stored(spool, [make_envelope(number, payload=b"x" * 50_000)])
    assert len(reporter.facts) == 1
    await settle(spool, await lease_all(spool), State.DELIVERED)

    async def is_taken() -> bool:
        with contextlib.suppress(SpoolFull):
            await stored(spool, [make_envelope(20)])
            return True
        return False

    await wait_until(is_taken)
    assert [fact.split(":")[0] for fact in reporter.facts if "yielded" not in fact] == ["refusing", "accepting"]


async def test_history_above_the_cap_is_told_as_long_as_it_refuses(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, reporter: Any
) -> None:
    """Where the file itself is above the cap, the facts say what the sender was told; an append that fits ends it."""
    spool = await open_sqlite(limits=SpoolLimits(bytes_max=40_000))
    assert (await spool.facts()).is_accepting  # nobody was refused yet
    with pytest.raises(SpoolFull) as refused:
        await stored(spool, [make_envelope(1)])
    facts = await spool.facts()
    assert (facts.is_accepting, facts.refusal) == (False, str(refused.value))
    assert reporter.facts == [f"refusing: {facts.refusal}"]
    await spool.close()
    spool = await open_sqlite(limits=SpoolLimits(bytes_max=262_144))
    await stored(spool, [make_envelope(1)])
    facts = await spool.facts()
    assert (facts.is_accepting, facts.refusal) == (True, "")


async def test_a_text_search_reads_what_can_be_read(open_sqlite: OpenSqlite, make_envelope: MakeEnvelope) -> None:
    """Text is found in payloads together with other filters, and tailing finds it too."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, payload=b'{"name":"caf\xc3\xa9 %d"}' % (n % 2)) for n in range(1, 9)])
    assert [row.sequence for row in (await spool.events(EventQuery(text="caf\u00e9 1", limit=2))).rows] == [7, 5]
    page = await spool.events(EventQuery(text="caf\u00e9 0", after_sequence=3, user_id="u2"))
    assert [row.sequence for row in page.rows] == [8]


async def test_what_is_settled_together_costs_one_row(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """A batch is one run, also where the other route's events lie between its own, and again after a restart."""
    spool = await open_sqlite()
    await stored(spool, [make_envelope(n, route=IN if n % 2 else OUT) for n in range(1, 401)])
    await settle(spool, [lease.sequence for lease in await leased(spool, OUT)], State.DELIVERED)
    await spool.close()
    spool = await open_sqlite()
    await settle(spool, [lease.sequence for lease in await leased(spool, OUT)], State.DELIVERED)
    reader = open_reader(tmp_path / "data")
    assert reader.execute("SELECT first, last FROM settled ORDER BY last").fetchall() == [(2, 200), (202, 400)]
    reader.close()
