"""Moving a spool: all of it arrives, killed at any moment it goes on, and no daemon ever starts on both ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from spool.migration.conftest import IN, OUT, Filled, OpenSpool, an_envelope, snapshot

from forwarder.archive_port import EventQuery
from forwarder.errors import SpoolLocked, SpoolUnusable
from forwarder.model import RouteName, State
from forwarder.spool.migration import postgres_reading, sqlite_reading, two_ends
from forwarder.spool.migration.move import move
from forwarder.spool.migration.postgres_side import PostgresSource, PostgresTarget
from forwarder.spool.migration.sqlite_side import SqliteSource, SqliteTarget
from forwarder.spool.migration.two_ends import MigrationFailed, Source, Target
from stand_ins.clock import HandClock
from stand_ins.spool_acts import Work, leased, settle, stored

RETENTION_S = 604_800


def _silent(_part: str, _rows: int) -> None:
    """Tell nobody."""


class Ends:
    """The two ends, opened anew for each run, as a command does that was killed."""

    def __init__(self, folder: Path, url: str, *, to: str) -> None:
        self._folder = folder
        self._url = url
        self._to = to

    def open(self) -> tuple[Source, Target]:
        """Return source and target."""
        read_url = self._read_url
        if self._to == "postgres":
            return SqliteSource(self._folder), PostgresTarget(read_url, retention_s=RETENTION_S)
        return PostgresSource(read_url, retention_s=RETENTION_S), SqliteTarget(self._folder)

    def _read_url(self) -> str:
        return self._url

    async def run(self, wrap: Any = None) -> Any:
        """Move, until the end or until `wrap`'s target raises."""
        source, target = self.open()
        try:
            return await move(source, wrap(target) if wrap else target, tell=_silent)
        finally:
            await source.close()
            await target.close()


@pytest.fixture
def to_postgres(tmp_path: Path, postgres_url: str) -> Ends:
    """Return the ends of a move to Postgres."""
    return Ends(tmp_path / "data", postgres_url, to="postgres")


@pytest.fixture
def to_sqlite(tmp_path: Path, postgres_url: str) -> Ends:
    """Return the ends of a move to SQLite."""
    return Ends(tmp_path / "data", postgres_url, to="sqlite")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a move of a small spool take many steps."""
    for module in (two_ends, sqlite_reading, postgres_reading):
        monkeypatch.setattr(module, "EVENTS", 7)
        monkeypatch.setattr(module, "ROWS", 5)


async def test_all_of_it_arrives_and_comes_back(
    filled: Filled, open_sqlite: OpenSpool, open_postgres: OpenSpool, to_postgres: Ends, to_sqlite: Ends
) -> None:
    """There and back, a spool shows the same: events with their history, totals, reasons, types, audit, values."""
    before = await filled(open_sqlite)
    moved = await to_postgres.run()
    assert moved.retired.endswith("spool.db.moved")
    assert moved.counts["keys"] == 61
    async with open_postgres() as spool:
        there = await snapshot(spool)
    assert there == before
    moved = await to_sqlite.run()
    assert moved.retired == "the schema forwarder_moved_1"
    async with open_sqlite() as spool:
        assert await snapshot(spool) == before


async def _finish(spool: Any, clock: HandClock, route: RouteName) -> list[int]:
    """Deliver all that waits; return the sequences in the order in which they went."""
    went: list[int] = []
    clock.now_ms += 60_000
    work = Work(spool, route)
    while (await spool.facts()).totals[route].pending:
        leases = await leased(spool, route, fresh=50, retry=50)
        if not leases:  # who is next of an order may be read yet
            assert await work.wait(within_s=20)
        went += [lease.sequence for lease in leases]
        await settle(spool, [lease.sequence for lease in leases], State.DELIVERED)
    return went


@pytest.mark.parametrize("to", ["postgres", "sqlite"])
async def test_a_moved_spool_goes_on(  # noqa: PLR0917 - all of them are fixtures
    filled: Filled,
    open_sqlite: OpenSpool,
    open_postgres: OpenSpool,
    to_postgres: Ends,
    to_sqlite: Ends,
    clock: HandClock,
    to: str,
) -> None:
    """Copies are duplicates, numbers go on, all that waited is leased once, each user's in order, totals balance."""
    first, second, ends = (
        (open_sqlite, open_postgres, to_postgres) if to == "postgres" else (open_postgres, open_sqlite, to_sqlite)
    )
    before = await filled(first)
    await ends.run()
    async with second() as spool:
        receipt = await stored(spool, [an_envelope(number, clock=clock) for number in range(1, 61)])
        assert (receipt.accepted, receipt.duplicates) == (0, 60)
        receipt = await stored(spool, [an_envelope(1_000_000, clock=clock, is_recurring=True)])
        assert (receipt.accepted, receipt.duplicates) == (0, 1)
        assert (await stored(spool, [an_envelope(61, clock=clock)])).accepted == 1
        pending = {detail.row.sequence: detail for detail in before["details"] if detail.row.state.value == "pending"}
        went = {route: await _finish(spool, clock, route) for route in (OUT, IN)}
        assert sorted(went[OUT] + went[IN]) == sorted([*pending, 62])
        facts = await spool.facts()
        assert all(totals.is_balanced() and totals.pending == 0 for totals in facts.totals.values())
        assert facts.unsettled_bytes == {OUT: 0, IN: 0}
        assert facts.retrying == {OUT: 0, IN: 0}
        replays = {sequence for sequence, detail in pending.items() if detail.row.status == 0 and detail.progress}
        in_line = [sequence for sequence in went[IN] if sequence not in replays]
        by_user: dict[str, list[int]] = {}
        for sequence in in_line:
            by_user.setdefault((await spool.event(sequence)).row.labels.user_id, []).append(sequence)
        assert all(of == sorted(of) for of in by_user.values())


class Killed(BaseException):
    """As if by kill -9: nothing catches it."""


class Fragile:
    """A target that is killed at its n-th call, before or after what was asked is done."""

    def __init__(self, target: Any, *, at: int, is_done: bool) -> None:
        self._target = target
        self._left = at
        self._is_done = is_done

    def __getattr__(self, name: str) -> Any:
        """Hand a call on, until its turn has come."""
        call = getattr(self._target, name)

        async def called(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._is_done:
                raise Killed
            result = await call(*arguments)
            if self._left == 0:
                raise Killed
            return result

        return called


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("to", ["postgres", "sqlite"])
async def test_killed_at_any_moment_it_goes_on(  # noqa: PLR0917 - all of them are fixtures
    filled: Filled,
    open_sqlite: OpenSpool,
    open_postgres: OpenSpool,
    to_postgres: Ends,
    to_sqlite: Ends,
    to: str,
) -> None:
    """Killed again and again, at every kind of step and on either side of its commit, it ends with all of it, once."""
    first, second, ends = (
        (open_sqlite, open_postgres, to_postgres) if to == "postgres" else (open_postgres, open_sqlite, to_sqlite)
    )
    before = await filled(first)
    kills = 0
    while True:
        at, is_done = 1 + (kills * 3) % 7, bool(kills % 2)
        try:
            await ends.run(lambda target, at=at, is_done=is_done: Fragile(target, at=at, is_done=is_done))
        except Killed:
            kills += 1
            assert kills < 200
            continue
        break
    assert kills > 10
    async with second() as spool:
        assert await snapshot(spool) == before


async def test_no_daemon_starts_on_what_is_not_complete(
    filled: Filled, open_sqlite: OpenSpool, open_postgres: OpenSpool, to_postgres: Ends, to_sqlite: Ends
) -> None:
    """While a move is not complete its target cannot be opened and its source can; then it is the other way round."""
    await filled(open_sqlite)
    with pytest.raises(Killed):
        await to_postgres.run(lambda target: Fragile(target, at=5, is_done=True))
    with pytest.raises(SpoolUnusable, match="forwarder migrate"):
        async with open_postgres():
            pass
    async with open_sqlite() as spool:
        with pytest.raises(SpoolLocked):
            await to_postgres.run()
        await spool.put("links", b"others")
    with pytest.raises(MigrationFailed, match="before a daemon ran on it again"):
        await to_postgres.run()
    async with open_sqlite() as spool:
        await spool.put("links", b"some links")
    await to_postgres.run()
    async with open_postgres() as spool:
        with pytest.raises(MigrationFailed, match="stop every replica"):
            await to_sqlite.run()
    with pytest.raises(SpoolUnusable, match="holds no spool"):
        await to_postgres.run()


async def test_a_target_that_holds_a_spool_is_left_alone(
    filled: Filled, open_sqlite: OpenSpool, open_postgres: OpenSpool, to_postgres: Ends, to_sqlite: Ends
) -> None:
    """Nothing is written over, in either direction."""
    there = await filled(open_sqlite)
    async with open_postgres() as spool:
        await stored(spool, [an_envelope(1, clock=HandClock(0))])
    with pytest.raises(MigrationFailed, match="holds a spool already"):
        await to_postgres.run()
    with pytest.raises(MigrationFailed, match="holds a spool already"):
        await to_sqlite.run()
    async with open_sqlite() as spool:
        assert await snapshot(spool) == there


async def test_a_database_that_a_daemon_made_and_nothing_happened_on_will_do(
    filled: Filled, open_sqlite: OpenSpool, open_postgres: OpenSpool, to_postgres: Ends
) -> None:
    """One was started on it too early, took in nothing and was stopped."""
    there = await filled(open_sqlite)
    async with open_postgres():
        with pytest.raises(MigrationFailed, match="stop every replica first"):
            await to_postgres.run()
    await to_postgres.run()
    async with open_postgres() as spool:
        assert await snapshot(spool) == there


async def test_a_count_that_does_not_agree_ends_it(
    filled: Filled, open_sqlite: OpenSpool, to_postgres: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost on the way is found before anything changes at the source."""
    before = await filled(open_sqlite)
    kept = sqlite_reading.READ["events"]

    def lossy(connection: Any, cursor: Any) -> tuple[Sequence[Any], Any]:
        events, after = kept(connection, cursor)
        return [event for event in events if event.sequence != 33], after

    monkeypatch.setitem(sqlite_reading.READ, "events", lossy)
    with pytest.raises(MigrationFailed, match="does not agree"):
        await to_postgres.run()
    async with open_sqlite() as spool:
        assert await snapshot(spool) == before


async def test_a_spool_with_high_numbers_makes_few_tables(
    open_sqlite: OpenSpool, open_postgres: OpenSpool, to_postgres: Ends, clock: HandClock, tmp_path: Path
) -> None:
    """Old dead letters and new events have tables; the millions of numbers between them have none."""
    async with open_sqlite() as spool:
        await stored(spool, [an_envelope(1, clock=clock)])
    connection = apsw.Connection(str(tmp_path / "data" / "spool.db"))
    connection.execute("UPDATE totals SET amount = 50000000 WHERE account = 10")
    connection.close()
    async with open_sqlite() as spool:
        await stored(spool, [an_envelope(2, clock=clock)])
    await to_postgres.run()
    async with open_postgres() as spool:
        assert (await spool.facts()).totals[OUT].pending == 2
        assert (await stored(spool, [an_envelope(4, clock=clock)])).accepted == 1
        page = await spool.events(EventQuery())
        assert [row.sequence for row in page.rows] == [50_000_002, 50_000_001, 1]
        assert [len(await leased(spool, route, fresh=9)) for route in (OUT, IN)] == [3, 0]
