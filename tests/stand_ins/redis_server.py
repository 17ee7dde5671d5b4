"""A real Redis as a process of its own, on loopback: what a stream promises is tried on the server, not on a fake.

Every commit is synced, so that it may be killed and started again in the same folder and on the same port.
"""

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stand_ins.listener import HOST, free_port

_LOOK_AGAIN_S = 0.01
_LAST_WORDS = 2_000  # characters of its log that an error quotes
PROGRAM = shutil.which("redis-server")
MISSING = "redis-server is not on this machine (Debian's package redis-server)"


class RedisFailed(Exception):
    """The server did not start or stop in time; the text ends with its log."""


@dataclass(slots=True, kw_only=True)
class RedisServer:
    """Start it, kill it, start it again. It is ended by its own process id."""

    folder: Path  # exists; holds the data and the log
    options: Sequence[str] = ()  # as on its command line, such as `--requirepass`, `secret`
    is_tls: bool = False  # `options` then name certificate and key; the port takes TLS alone
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Return host and port, as a URL has them."""
        return f"{HOST}:{self.port}"

    async def start(self, *, ready_max_s: float = 60.0) -> None:
        """Start it and wait until it takes connections; `RedisFailed` at the time-out."""
        if PROGRAM is None:
            raise RedisFailed(MISSING)
        ports = ("--port", "0", "--tls-port", str(self.port)) if self.is_tls else ("--port", str(self.port))
        self.process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "--bind", HOST, *ports, "--dir", str(self.folder), "--logfile", "redis.log"),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always", *self.options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        ends_s = time.monotonic() + ready_max_s
        while time.monotonic() < ends_s and self.process.returncode is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        await self.kill()
        log = self.folder / "redis.log"
        raise RedisFailed(f"it did not start: {log.read_text()[-_LAST_WORDS:] if log.exists() else 'no log'}")

    async def stop(self, *, timeout_s: float = 60.0) -> None:
        """Ask it to stop and wait for it. Does nothing when it is not running."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), timeout_s)

    async def kill(self) -> None:
        """End it as a power cut would. Does nothing when it is not running."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
