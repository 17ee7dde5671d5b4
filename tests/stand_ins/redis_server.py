"""A real Redis as a process of its own, on loopback: what a stream promises is tried on the server, not on a fake.

Every commit is synced, so that it may be killed and started again in the same folder and on the same port.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from stand_ins.listener import HOST
from stand_ins.served import Server, ServerFailed

PROGRAM = shutil.which("redis-server")
MISSING = "redis-server is not on this machine (Debian's package redis-server)"


@dataclass(slots=True, kw_only=True)
class RedisServer(Server):
    """See `Server`."""

    options: Sequence[str] = ()  # as on its command line, such as `--requirepass`, `secret`
    is_tls: bool = False  # `options` then name certificate and key; the port takes TLS alone

    async def start(self) -> None:
        """Start it and wait until it takes connections; raises `ServerFailed`."""
        if PROGRAM is None:
            raise ServerFailed(MISSING)
        ports = ("--port", "0", "--tls-port", str(self.port)) if self.is_tls else ("--port", str(self.port))
        sync = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        command = (PROGRAM, "--bind", HOST, *ports, "--dir", str(self.folder), *sync, *self.options)
        await self._serve(*command, says="Ready to accept connections")
