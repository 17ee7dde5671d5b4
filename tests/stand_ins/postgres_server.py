"""A real Postgres as a process of its own, on loopback: what a database promises is tried on one, not on a fake.

It syncs every commit, in a folder of its own below the system's temporary one, and is ended by its own process id; a
test run that dies takes it along. Tests get it as `postgres_server` and `postgres_url` (tests/conftest.py).
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pytest

from stand_ins.listener import HOST, free_port
from stand_ins.served import ServerFailed, pauses, spawn

MISSING: Final = "Postgres is not on this machine (Debian's package postgresql)"
USER: Final = "forwarder"  # the owner of all; needs no password
_ANSWER_MAX_S = 60
_LAST_WORDS = 2_000  # characters of what a program said that an error quotes
_STOPS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}  # as `pg_ctl stop -m` has them
_STATUS_LINE: Final = 7  # of postmaster.pid
# It refuses root. `setpriv` becomes what it starts, so that the process id is the server's own.
_AS_NOBODY: Final = ("--reuid=nobody", "--regid=nogroup", "--clear-groups") if os.geteuid() == 0 else ()


def _programs() -> Path | None:
    """Return the folder of the newest Postgres: where Debian puts its programs, else what is on the path."""
    kept = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda found: int(found.parts[-3]))
    if kept:
        return kept[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


PROGRAMS: Final = _programs()


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="forwarder-postgres-"))
    _give(folder)
    return folder


def _give(path: Path) -> None:
    if _AS_NOBODY:
        shutil.chown(path, "nobody", "nogroup")


def _program(name: str) -> str:
    if PROGRAMS is None:
        raise ServerFailed(MISSING)
    return str(PROGRAMS / name)


def _command(program: str, *arguments: str) -> list[str]:
    return ["setpriv", *_AS_NOBODY, "--pdeathsig=INT", program, *arguments]


@dataclass(slots=True, kw_only=True)
class PostgresServer:
    """Start it, stop it, start it again, promote it. All calls wait; `start` belongs to the main thread.

    (The system ends what a thread started together with that thread.)
    """

    options: Sequence[str] = ()  # settings over the usual ones, such as `max_connections=10`
    rules: Sequence[str] = ()  # lines of pg_hba.conf before those that let everyone in
    folder: Path = field(default_factory=_folder)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return host and port, as a URL has them."""
        return f"{HOST}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Tell whether there is a process that has not ended."""
        return self.process is not None and self.process.poll() is None

    def url(self, database: str = "postgres") -> str:
        """Return where to reach a database as its owner."""
        return f"postgresql://{USER}@{self.address}/{database}"

    def start(self) -> None:
        """Start it, on the port and with the data it had before, and wait until it takes connections."""
        data = self._data
        if not data.exists():
            self._run(
                "initdb", "-D", str(data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N"
            )
            entries = data / "pg_hba.conf"
            entries.write_text("\n".join([*self.rules, entries.read_text()]))
        settings = (
            f"port={self.port}",
            f"listen_addresses={HOST}",
            "unix_socket_directories=",
            "shared_buffers=32MB",
            "timezone=UTC",
            "autovacuum_naptime=5s",
            *self.options,
        )
        words = (word for one in settings for word in ("-c", one))
        self.process = self.spawn(_program("postgres"), "-D", str(data), *words)
        for pause_s in pauses(self.process, lambda: self._status() in {"ready", "standby"}, log=self.log):
            time.sleep(pause_s)

    def spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program as who the server runs as; it writes into the server's log. Belongs to the main thread."""
        return spawn(*_command(program, *arguments), folder=self.folder, log=self.log)

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: in order, or at once as a crash would, to recover at the next start. Does nothing if it is down."""
        if self.process is not None and self.is_running:
            self.process.send_signal(_STOPS[how])
            self.process.wait(_ANSWER_MAX_S)

    def remove(self) -> None:
        """Stop it for good and leave nothing behind."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with all connections to it."""
        self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    def ask(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement as the owner; return its rows, one a line, columns parted by `|`."""
        return self._run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)).strip()

    def keep(self, name: str, content: bytes) -> Path:
        """Write a file that only the server may read, such as the key of its certificate, before it starts."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        _give(path)
        return path

    def standby(self, name: str) -> "PostgresServer":
        """Return a started standby that every commit waits for from now on. The caller removes it."""
        other = PostgresServer(options=(*self.options, f"cluster_name={name}"))
        copy = ("-D", str(other._data), "-X", "stream", "-C", "-S", name, "-c", "fast", "-N")
        other._run("pg_basebackup", "-R", *copy, "-d", f"{self.url()}?application_name={name}")
        other.start()
        self.ask(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.ask("SELECT pg_reload_conf()")
        return other

    def promote(self) -> None:
        """Make a standby the primary and wait until it is; it waits for no standby of its own."""
        self.ask("SELECT pg_promote()")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Return the file that it writes to."""
        return self.folder / "postgres.log"

    def _status(self) -> str:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return ""
        is_ours = self.process is not None and lines[:1] == [str(self.process.pid)]  # not what a crash left behind
        return lines[_STATUS_LINE].strip() if is_ours and len(lines) > _STATUS_LINE else ""

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            _command(_program(program), *arguments),
            capture_output=True,
            text=True,
            timeout=_ANSWER_MAX_S,
            cwd=self.folder,
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"], "PGCONNECT_TIMEOUT": "10"},
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"{program}: {done.stderr[-_LAST_WORDS:]}")
        return done.stdout


def started(options: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """Yield a server that runs, and remove it; what a fixture yields from. Skips the test where there is none."""
    if PROGRAMS is None:
        pytest.skip(MISSING)
    server = PostgresServer(options=options)
    try:
        server.start()
        yield server
    finally:
        server.remove()
