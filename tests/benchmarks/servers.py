"""The processes of a benchmark, each on the core that it belongs to, and what they use of it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from benchmarks.load import EVENTS_KEY, INBOUND_KEY, SECRET
from stand_ins.listener import free_port
from stand_ins.postgres_server import PostgresServer

_HERE = Path(__file__).parent
_CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE = _CORES[0] if len(_CORES) > 1 else None
_DAEMON_CORE = _CORES[-1] if len(_CORES) > 1 else None
_OURS = ("FORWARDER_", "COURIER_", "RUDDERSTACK_")
_INHERITED = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
_UP_MAX_S = 60.0
_STALLED_MAX_S = 60.0
_TOTALS_LAG_S = 1.2
OUTBOUND, INBOUND = "courier_to_rudderstack", "rudderstack_to_courier"


class Stalled(Exception):
    """What was waited for did not happen, and nothing moved for a minute."""


def ask(url: str, *, post: bool = False) -> bytes:
    """Return the body of an answer."""
    request = urllib.request.Request(url, method="POST" if post else "GET")
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: bytes = answer.read()
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running process that serves HTTP on loopback."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Return its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Return the processor time it has used, all threads (Linux: fields 14 and 15 of its stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon(Server):
    """The daemon, with what its operator can see and do."""

    operator_url: str

    def accepted(self, route: str, *, at_least: int) -> int:
        """Return how many distinct events it took, once nothing comes in; the scrape may lag by a second or so."""
        last = -1
        while (now := self._accepted(route)) < at_least or now != last:
            last = now
            time.sleep(_TOTALS_LAG_S)
        return now

    def pause(self, route: str) -> None:
        """Have the route send nothing."""
        ask(f"{self.operator_url}/api/routes/{route}/pause", post=True)

    def resume(self, route: str) -> None:
        """Have it send again."""
        ask(f"{self.operator_url}/api/routes/{route}/resume", post=True)

    def _accepted(self, route: str) -> int:
        for line in ask(f"{self.operator_url}/metrics").decode().splitlines():
            if line.startswith("forwarder_events{") and f'"{route}"' in line and '"accepted"' in line:
                return int(float(line.rpartition(" ")[2]))
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink(Server):
    """Both destinations."""

    def count(self) -> dict[str, float]:
        """Return what arrived so far."""
        found: dict[str, float] = json.loads(ask(f"{self.url}/count"))
        return found

    def times_s(self) -> list[float]:
        """Return when each request arrived, on the machine's monotonic clock."""
        found: list[float] = json.loads(ask(f"{self.url}/times"))
        return found

    def wait_for(self, wanted: int, *, of: str = "distinct") -> dict[str, float]:
        """Return the account once so much of it has arrived; raise `Stalled` when nothing moves."""
        moved_s, last = time.monotonic(), -1.0
        while (count := self.count())[of] < wanted:
            if count["requests"] != last:
                moved_s, last = time.monotonic(), count["requests"]
            elif time.monotonic() - moved_s > _STALLED_MAX_S:
                raise Stalled(f"{count} instead of {wanted}")
            time.sleep(0.25)
        return count


@contextmanager
def bare_handler(sdk_url: str = "") -> Iterator[Server]:
    """Run the bare handler, or with a data plane's URL the one that calls the SDK."""
    port = free_port()
    sdk = [f"--sdk={sdk_url}"] if sdk_url else []
    with _process([str(_HERE / "bare.py"), f"--port={port}", *sdk], port=port, core=_DAEMON_CORE) as pid:
        yield Server(pid=pid, port=port)


@contextmanager
def sink(*, delay_ms: float = 0.0) -> Iterator[Sink]:
    """Run both destinations beside the load generator."""
    port = free_port()
    arguments = [str(_HERE / "sink.py"), f"--port={port}", f"--delay-ms={delay_ms}"]
    with _process(arguments, port=port, core=LOAD_CORE, path="/count") as pid:
        yield Sink(pid=pid, port=port)


@contextmanager
def daemon(sink_url: str, settings: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """Run the daemon with a spool of its own, on this checkout's disk, both routes towards the sink."""
    port, operator_port = free_port(), free_port()
    Path("build").mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=Path("build").resolve())
    env = {
        "RUDDERSTACK_WRITE_KEY": "benchmark",
        "RUDDERSTACK_DATA_PLANE_URL": sink_url,
        "COURIER_WEBHOOK_SECRET": SECRET,
        "COURIER_API_KEY": "benchmark-api-key",
        "COURIER_API_URL": sink_url,
        "FORWARDER_INBOUND_KEYS": INBOUND_KEY,
        "FORWARDER_EVENTS_KEY": EVENTS_KEY,
        "FORWARDER_EVENTS": "all",
        "FORWARDER_LISTEN": f"127.0.0.1:{port}",
        "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{operator_port}",
        "FORWARDER_DATA_DIR": folder,
        "FORWARDER_LOG_LEVEL": "error",
        **(settings or {}),
    }
    try:
        run = ["-m", "forwarder", "run"]
        with _process(run, port=port, core=_DAEMON_CORE, cwd=folder, env=env, path="/readyz") as pid:
            yield Daemon(pid=pid, port=port, operator_url=f"http://127.0.0.1:{operator_port}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_cpu_s(database: PostgresServer) -> float:
    """Return the processor time that all processes of a server have used, those that ended too (Linux)."""
    assert database.process is not None
    pid, ticks = database.process.pid, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile, and counts with its parent
        if int(stat.parent.name) == pid:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def pin_database(database: PostgresServer) -> None:
    """Have a server, and whatever it starts, run where the daemons do."""
    if _DAEMON_CORE is None or database.process is None:
        return
    os.sched_setaffinity(database.process.pid, {_DAEMON_CORE})
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == database.process.pid:
                os.sched_setaffinity(int(stat.parent.name), {_DAEMON_CORE})


@contextmanager
def _process(
    arguments: list[str],
    *,
    port: int,
    core: int | None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    path: str = "/",
) -> Iterator[int]:
    """Run a program of ours until the block ends; it is up when `path` is answered, but for a 503."""
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        env={**_INHERITED, "PYTHON_DOTENV_DISABLED": "1", **(env or {})},
        cwd=cwd,
        stdout=subprocess.DEVNULL,
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        _wait_until_up(process, f"http://127.0.0.1:{port}{path}")
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_up(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline_s = time.monotonic() + _UP_MAX_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                return
            time.sleep(0.02)
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Stalled(f"{url} does not answer")
