"""A spool is opened by one owner, closed to others, and refused with the remedy where it cannot be."""

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import SpoolLocked, SpoolUnusable
from forwarder.model import Envelope, RouteName
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.database import open_reader
from forwarder.spool.sqlite.files import LOCK_NAME, FolderLock, Reserve
from stand_ins.spool_acts import stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER
OpenSqlite = Callable[..., Awaitable[SqliteSpool]]
MakeEnvelope = Callable[..., Envelope]


@pytest.mark.parametrize("content", [b"this is no database" * 300, b"SQLite format 3\0" + b"\xff" * 9_000])
async def test_a_file_that_is_no_database_is_refused(open_sqlite: OpenSqlite, tmp_path: Path, content: bytes) -> None:
    """The refusal names the file and says what to do; the lock is free again."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "spool.db").write_bytes(content)
    for _ in range(2):
        with pytest.raises(SpoolUnusable, match=r"spool\.db"):
            await open_sqlite(folder)


async def test_a_newer_schema_is_refused(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
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


async def test_a_folder_has_one_owner(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    """A second spool in the same folder is refused with the owner's pid; after a close it is welcome."""
    spool = await open_sqlite(tmp_path / "one")
    with pytest.raises(SpoolLocked, match=str(os.getpid())):
        await open_sqlite(tmp_path / "one")
    await spool.close()
    await open_sqlite(tmp_path / "one")


async def test_the_folder_is_closed_to_others(
    open_sqlite: OpenSqlite, make_envelope: MakeEnvelope, tmp_path: Path
) -> None:
    """The folder is 0700 and every file in it 0600, whatever the umask."""
    spool = await open_sqlite(tmp_path / "one")
    await stored(spool, [make_envelope(1)])
    await spool.events(EventQuery())
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "one").iterdir()}
    assert "spool.db-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_a_path_that_cannot_be_a_folder_is_refused(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    """The refusal names the setting to change."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpoolUnusable, match="FORWARDER_DATA_DIR"):
        await open_sqlite(tmp_path / "file")


async def test_a_killed_daemons_folder_can_be_read(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
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


async def test_an_unwritable_reserve_is_no_full_disk(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    """A directory in the reserve's place is named at the start."""
    (tmp_path / "data" / "spool.reserve").mkdir(parents=True)
    with pytest.raises(SpoolUnusable, match=r"spool\.reserve cannot be written"):
        await open_sqlite()


def test_a_reserve_without_its_folder_is_not_built(tmp_path: Path) -> None:
    """Where the folder is gone there is no reserve, no error, and no talk of a full disk."""
    for is_first in (False, True):
        refusal = Reserve(tmp_path / "gone", size_bytes=4_096).build(is_first=is_first)
        assert "cannot be written" in refusal
        assert "full" not in refusal


def test_a_lock_without_room_for_the_pid_holds(tmp_path: Path) -> None:
    """A lock file that takes no bytes locks all the same, and is given back once or twice."""
    (tmp_path / LOCK_NAME).symlink_to("/dev/full")
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
