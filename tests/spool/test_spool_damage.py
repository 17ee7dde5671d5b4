"""Damage is set aside and shown; what is sound is served on."""

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from forwarder.errors import SpoolLocked, SpoolUnusable
from forwarder.model import Envelope, RouteName, State
from forwarder.ports import EventQuery
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.database import open_reader
from stand_ins.spool_acts import give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK


async def lease(spool: SqliteSpool, *, fresh: int = 1_000) -> list[int]:
    """Lease what there is."""
    leases = await leased(spool, OUT, fresh=fresh, retry=100, size=10**7)
    return [one.sequence for one in leases]


async def closed_with(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    make_envelope: Callable[..., Envelope],
    count: int,
    folder: Path,
    **kwargs: Any,
) -> Path:
    """Make a folder with so many pending events."""
    spool = await open_sqlite(folder)
    await stored(spool, [make_envelope(n, **kwargs) for n in range(1, count + 1)])
    await spool.close()
    return folder / "spool.db"


async def test_a_damaged_payload_is_quarantined(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    reporter: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """A payload that fails its checksum ends dead as a corrupt row; the rest, and its partition, go on."""
    path = await closed_with(open_sqlite, make_envelope, 4, tmp_path / "one", partition="")
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence = 2")
    connection.close()
    spool = await open_sqlite(tmp_path / "one")
    assert await lease(spool) == [1, 3, 4]
    facts = await spool.facts()
    assert facts.corrupt_rows == 1
    assert facts.totals[OUT].dead == 1
    assert facts.totals[OUT].is_balanced()
    assert "quarantined 2" in reporter.facts
    detail = await spool.event(2)
    assert (detail.row.state, detail.row.reason, detail.payload) == (State.DEAD, "corrupt row", None)


async def test_a_damaged_head_lets_its_partition_go_on(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], make_envelope: Callable[..., Envelope], tmp_path: Path
) -> None:
    """The next of a partition is leased when its head turns out to be damaged, however many are."""
    path = await closed_with(open_sqlite, make_envelope, 5, tmp_path / "one", partition="p")
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence < 4")
    connection.close()
    spool = await open_sqlite(tmp_path / "one")
    assert await lease(spool) == [4]
    assert (await spool.facts()).corrupt_rows == 3
    await settle(spool, [4], State.DELIVERED)
    assert await lease(spool) == [5]


async def test_a_damaged_retry_is_quarantined(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], make_envelope: Callable[..., Envelope], tmp_path: Path
) -> None:
    """An event on a retry whose row went bad does not come back for ever."""
    spool = await open_sqlite(tmp_path / "one")
    await stored(spool, [make_envelope(n, partition="p") for n in range(1, 3)])
    await lease(spool)
    await give_back(spool, [1], 0, reason="busy")
    await spool.close()
    connection = apsw.Connection(str(tmp_path / "one" / "spool.db"))
    connection.execute("UPDATE events_outbound SET payload = 'rotten' WHERE sequence = 1")
    connection.close()
    spool = await open_sqlite(tmp_path / "one")
    assert await lease(spool) == [2]
    facts = await spool.facts()
    assert (facts.retrying[OUT], facts.corrupt_rows) == (0, 1)
    assert facts.unsettled_bytes[OUT] < 1_000


async def test_a_damaged_page_does_not_stop_the_rest(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """Events on a page that cannot be read are quarantined; all others are leased, listed and settled."""
    path = await closed_with(open_sqlite, make_envelope, 200, tmp_path / "one", payload=b"x" * 600)
    connection = apsw.Connection(str(path))
    pages = connection.execute(
        "SELECT pageno FROM dbstat WHERE name = 'events_outbound' AND pagetype = 'leaf' ORDER BY pageno"
    )
    leaves = [int(str(row[0])) for row in pages]
    connection.close()
    with path.open("r+b") as file:
        file.seek((leaves[len(leaves) // 2] - 1) * 4096)
        file.write(b"\xff" * 4096)
    spool = await open_sqlite(tmp_path / "one")
    sound: list[int] = []
    while leases := await lease(spool, fresh=50):
        sound += leases
        await settle(spool, leases, State.DELIVERED)
    facts = await spool.facts()
    assert 0 < facts.corrupt_rows < 20
    assert len(sound) == 200 - facts.corrupt_rows
    assert facts.totals[OUT].is_balanced()
    rows = (await spool.events(EventQuery(limit=500))).rows
    assert {row.sequence for row in rows} >= set(sound)
    dead = (await spool.events(EventQuery(state=State.DEAD, limit=500))).rows
    assert len(dead) == facts.corrupt_rows
    assert (await spool.event(dead[0].sequence)).payload is None
    assert (await stored(spool, [make_envelope(1_000)])).accepted == 1
    assert await lease(spool) == [201]


@pytest.mark.parametrize("content", [b"this is no database" * 300, b"SQLite format 3\0" + b"\xff" * 9_000])
async def test_a_file_that_is_no_database_is_refused(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path, content: bytes
) -> None:
    """The refusal names the file and says what to do; the lock is free again."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "spool.db").write_bytes(content)
    for _ in range(2):
        with pytest.raises(SpoolUnusable, match=r"spool\.db"):
            await open_sqlite(folder)


async def test_a_newer_schema_is_refused(open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path) -> None:
    """A folder that a later version wrote is left alone, by daemon and commands."""
    spool = await open_sqlite(tmp_path / "one")
    await spool.close()
    connection = apsw.Connection(str(tmp_path / "one" / "spool.db"))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(SpoolUnusable, match="newer"):
        await open_sqlite(tmp_path / "one")
    with pytest.raises(SpoolUnusable, match="newer"):
        open_reader(tmp_path / "one")


async def test_a_folder_has_one_owner(open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path) -> None:
    """A second spool in the same folder is refused with the owner's pid; after a close it is welcome."""
    spool = await open_sqlite(tmp_path / "one")
    with pytest.raises(SpoolLocked, match=str(os.getpid())):
        await open_sqlite(tmp_path / "one")
    await spool.close()
    await open_sqlite(tmp_path / "one")


async def test_the_folder_is_closed_to_others(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], make_envelope: Callable[..., Envelope], tmp_path: Path
) -> None:
    """The folder is 0700 and every file in it 0600, whatever the umask."""
    spool = await open_sqlite(tmp_path / "one")
    await stored(spool, [make_envelope(1)])
    await spool.events(EventQuery())
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "one").iterdir()}
    assert "spool.db-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_a_path_that_cannot_be_a_folder_is_refused(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path
) -> None:
    """The refusal names the setting to change."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpoolUnusable, match="FORWARDER_DATA_DIR"):
        await open_sqlite(tmp_path / "file")


async def test_a_killed_daemons_folder_can_be_read(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path
) -> None:
    """What is only in the log of a killed daemon is read too, and its lock is gone with it."""
    code = (
        "import sys; from pathlib import Path; from forwarder.spool.sqlite.database import open_writer\n"
        "connection = open_writer(Path(sys.argv[1]))\n"
        "connection.execute(\"INSERT INTO audit (at_ms, who, action, detail) VALUES (1, 'a', 'b', 'c')\")\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "one"
    folder.mkdir()
    root = str(Path(__file__).parents[2])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, folder, env={**os.environ, "PYTHONPATH": root}
    )
    await child.wait()
    spool = await open_sqlite(folder)
    assert len(await spool.audit(limit=5)) == 1
