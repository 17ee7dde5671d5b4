"""A real PgBouncer in transaction mode before a stand-in Postgres, on loopback."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from typing import Final

from stand_ins.listener import HOST, free_port
from stand_ins.postgres_server import USER, PostgresServer
from stand_ins.served import READY_MAX_S, pauses, takes_connections

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
MISSING: Final = "PgBouncer is not on this machine (Debian's package pgbouncer)"


@dataclass(slots=True, kw_only=True)
class PgBouncer:
    """Start it, stop it. Every transaction may get another of its `sessions`."""

    server: PostgresServer  # runs; its folder holds what is written here, too
    sessions: int = 2
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """Return where to reach a database through it."""
        return f"postgresql://{USER}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections. Belongs to the main thread, as the server's start does."""
        users = self.server.keep("users.txt", f'"{USER}" ""\n'.encode())
        settings = self.server.keep(
            "pgbouncer.ini",
            "\n".join(
                (
                    "[databases]",
                    f"* = host={HOST} port={self.server.port}",
                    "[pgbouncer]",
                    f"listen_addr = {HOST}",
                    f"listen_port = {self.port}",
                    "unix_socket_dir =",
                    "auth_type = trust",
                    f"auth_file = {users}",
                    "pool_mode = transaction",
                    f"default_pool_size = {self.sessions}",
                    "server_round_robin = 1",
                    "",
                )
            ).encode(),
        )
        self.process = self.server.spawn(PROGRAM or MISSING, "-q", str(settings))
        for pause_s in pauses(self.process, lambda: takes_connections(self.port), log=self.server.log):
            time.sleep(pause_s)

    def stop(self) -> None:
        """End it at once, with all connections. Does nothing if it is down."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(READY_MAX_S)
