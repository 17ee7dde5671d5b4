"""The real Postgres under the replicas: crashes, failovers, a full disk, and whether its account is true."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg

from forwarder.spool.codes import Account
from forwarder.spool.limits import EVENT_OVERHEAD_BYTES
from forwarder.spool.postgres.transaction import ACCOUNTS
from forwarder.spool.postgres.transaction import read_totals as read_accounts
from stand_ins.postgres_server import PostgresServer
from stand_ins.served import ServerFailed

CONNECTIONS_MAX: Final = 60
_OPTIONS: Final = (f"max_connections={CONNECTIONS_MAX}", "wal_retrieve_retry_interval=200ms", "max_wal_size=256MB")
_DISK_BYTES: Final = 8 << 30
_SPARE_BYTES: Final = 256 << 10
_LOOK_AGAIN_S: Final = 0.05
_SYNCED_MAX_S: Final = 60.0
_MOUNT, _UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"
_TRUTH: Final = """
SELECT e.route, coalesce(o.state, 0), coalesce(o.is_discarded, false), count(*), sum(e.size + $1::integer)
FROM forwarder.events e LEFT JOIN forwarder.outcomes o USING (sequence) GROUP BY 1, 2, 3
"""
_RETRYING: Final = "SELECT route, count(*) FROM forwarder.work WHERE attempts > 0 GROUP BY 1"
_BOTH: Final = "SELECT count(*) FROM forwarder.work JOIN forwarder.outcomes USING (sequence)"


class Database:
    """A primary on one of two sides; its servers are started by one thread, with which they would end."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._keeper = ThreadPoolExecutor(1)
        self._servers: list[PostgresServer | None] = [PostgresServer(options=(*_OPTIONS, *options)), None]
        self._side = 0
        self._made = 0

    @property
    def primary(self) -> PostgresServer:
        """Return who takes writes."""
        server = self._servers[self._side]
        assert server is not None
        return server

    def port(self, side: int) -> int | None:
        """Return the port of who is on this side."""
        server = self._servers[side]
        return None if server is None else server.port

    async def do(self, act: Callable[[], object]) -> None:
        """Act on a server without standing in the load's way."""
        await asyncio.get_running_loop().run_in_executor(self._keeper, act)

    async def ask(self, statement: str) -> str:
        """Run one statement on the primary."""
        said: list[str] = []
        await self.do(lambda: said.append(self.primary.ask(statement)))
        return said[0]

    async def add_standby(self, *, is_synchronous: bool = True) -> None:
        """Have a standby on the other side; from then on every commit waits for it, if it is a synchronous one."""
        self._made += 1
        primary, other = self.primary, 1 - self._side

        def make() -> None:
            self._servers[other] = primary.standby(f"standby_{self._made}")

        await self.do(make)
        state = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"
        ends_s = time.monotonic() + _SYNCED_MAX_S
        while await self.ask(state) != "1":
            if time.monotonic() > ends_s:
                raise ServerFailed("the standby does not follow")
            await asyncio.sleep(_LOOK_AGAIN_S)
        if not is_synchronous:
            await self.ask("ALTER SYSTEM SET synchronous_standby_names = ''")
            await self.ask("SELECT pg_reload_conf()")

    async def fail_over(self, *, overlap_s: float = 0.0, behind_s: float = 0.0) -> None:
        """Lose the primary, and promote the standby; so much earlier, or after it was so long behind."""
        old, other = self.primary, 1 - self._side
        standby = self._servers[other]
        assert standby is not None
        if behind_s:
            await self.do(lambda: _signal(standby, signal.SIGSTOP))
            await self.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            await asyncio.sleep(behind_s)
        if not overlap_s:
            await self.do(lambda: old.stop("immediate"))
        if behind_s:
            await self.do(lambda: _signal(standby, signal.SIGCONT))
        await self.do(standby.promote)
        if overlap_s:
            await asyncio.sleep(overlap_s)
        self._side = other
        await self.do(old.remove)
        self._servers[1 - other] = None

    async def close(self) -> None:
        """Leave nothing behind."""
        for server in self._servers:
            if server is not None:
                await self.do(server.remove)
        self._keeper.shutdown()


def _signal(server: PostgresServer, number: int) -> None:
    if server.process is not None:
        server.process.send_signal(number)


async def untrue(url: str) -> list[str]:
    """Return where the totals differ from what there is, in one snapshot of the database."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            sums = await read_accounts(connection)
            wanted = [0] * (2 * ACCOUNTS)
            for route, state, is_discarded, count, size in await connection.fetch(_TRUTH, EVENT_OVERHEAD_BYTES):
                base = route * ACCOUNTS
                wanted[base + state] += count
                wanted[base + Account.ACCEPTED] += count
                if state == Account.PENDING:
                    wanted[base + Account.UNSETTLED_BYTES] += size
                elif state == Account.DEAD:
                    wanted[base + Account.DEAD_BYTES] += size
                    wanted[base + (Account.DISCARDED if is_discarded else Account.OPEN_DEAD)] += count
            for route, count in await connection.fetch(_RETRYING):
                wanted[route * ACCOUNTS + Account.RETRYING] += count
            both = await connection.fetchval(_BOTH)
    finally:
        connection.terminate()
    found = [
        f"{Account(index % ACCOUNTS).name} of route {index // ACCOUNTS}: {sums[index]} in the totals, {amount} there"
        for index, amount in enumerate(wanted)
        if sums[index] != amount
    ]
    return [*found, *([f"{both} events are settled and waiting"] if both else [])]


class Disk:
    """A file system in memory that can be full (Linux, root)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self) -> None:
        """Leave next to no room."""
        self._resize(shutil.disk_usage(self._folder).used + _SPARE_BYTES)

    def free(self) -> None:
        """Give the room back."""
        self._resize(_DISK_BYTES)

    def _resize(self, size: int) -> None:
        subprocess.run([_MOUNT, "-o", f"remount,size={size}", str(self._folder)], check=True)


@contextmanager
def a_disk(folder: Path) -> Iterator[Disk | None]:
    """Give a disk of the servers' own, where one can be had; what is made in the temporary folder lies on it."""
    folder.mkdir()
    mount = [_MOUNT, "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=1777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield Disk(folder)
    finally:
        tempfile.tempdir = before
        subprocess.run([_UMOUNT, "--lazy", str(folder)], check=True)
