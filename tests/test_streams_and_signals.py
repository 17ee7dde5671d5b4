"""The daemon as a process: its standard streams, and the signals it gets at any moment of its life."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from forwarder.demo.signing import signed
from stand_ins.listener import free_port

pytestmark = pytest.mark.journey

_START_MAX_S = 60.0
_LOOK_AGAIN_S = 0.02
_OURS = ("FORWARDER_", "COURIER_", "RUDDERSTACK_")


@dataclass
class Process:
    """A daemon that was started in a way of its own."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def get(self, path: str, *, within_s: float = 60.0) -> int:
        """Return the status of a request to the public listener."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=within_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def post_signed(self, secret: str) -> int:
        """Post a webhook that Courier signed with this secret; return the status."""
        body = b'{"type":"message:updated","data":{"id":"1-6","status":"SENT"}}'
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/webhooks/courier", body, signed(body, secret, time.time_ns() // 1_000_000))
            return connection.getresponse().status
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Wait until it says so."""
        ends_s = time.monotonic() + _START_MAX_S
        while time.monotonic() < ends_s:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                if self.get("/readyz") == 200:
                    return
            time.sleep(_LOOK_AGAIN_S)
        raise AssertionError(self.log())

    def wait_for_log(self, event: str) -> None:
        """Wait until its log holds an event."""
        ends_s = time.monotonic() + _START_MAX_S
        while event not in self.log():
            assert time.monotonic() < ends_s, self.log()
            time.sleep(_LOOK_AGAIN_S)

    def ends(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_START_MAX_S)

    def log(self) -> str:
        """Return what it wrote to the file that is its standard error."""
        return (self.folder / "log").read_text()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start daemons; whatever still runs is killed at the end."""
    started: list[Process] = []

    def start(
        *, before: tuple[str, ...] = (), environ: dict[str, str] | None = None, stderr: int | None = None
    ) -> Process:
        port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        own = {
            "RUDDERSTACK_WRITE_KEY": "wk",
            "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
            "COURIER_WEBHOOK_SECRET": "ws",
            "FORWARDER_LISTEN": f"127.0.0.1:{port}",
            "FORWARDER_OPERATOR_LISTEN": "127.0.0.1:0",
        }
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                (*before, sys.executable, "-m", "forwarder", "run"),
                cwd=tmp_path,
                env=inherited | own | (environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
            )
        started.append(Process(process, port, tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(10)


@pytest.mark.parametrize(
    "closed",
    ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"],
    ids=["standard error", "standard output", "standard input", "all three"],
)
def test_closed_streams_are_no_obstacle(start: Start, closed: str) -> None:
    """Whoever starts it without a standard stream has a daemon that works, and no socket in the stream's place."""
    one = start(before=("/bin/sh", "-c", f'exec "$@" {closed}', "sh"))
    one.wait_until_ready()
    assert {str(Path(f"/proc/{one.process.pid}/fd/{fd}").readlink()) for fd in range(3)} <= {
        "/dev/null",
        str(one.folder / "log"),
    }
    assert one.ends(signal.SIGTERM) == 0


def test_a_reader_that_stalls_freezes_nothing(start: Start) -> None:
    """With the pipe of its log full, every request is answered; what was dropped is told as soon as somebody reads."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    one = start(stderr=writing, environ={"FORWARDER_LOG_LEVEL": "debug"})
    os.close(writing)
    one.wait_until_ready()
    os.set_blocking(reading, False)
    filler = os.open(f"/proc/{one.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(filler, b"x" * 64)
    for number in range(12):
        assert one.get(f"/nowhere-{number}") == 404
    assert one.get("/livez") == 200
    assert one.ends(signal.SIGTERM) == 0
    os.close(filler)
    os.close(reading)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_that_stops_drains(start: Start, number: signal.Signals) -> None:
    """TERM, INT and QUIT drain and end with 0."""
    one = start()
    one.wait_until_ready()
    assert one.ends(number) == 0
    assert "daemon.draining" in one.log()


def test_the_other_signals_never_end_it(start: Start) -> None:
    """HUP, USR1 and USR2 leave it running."""
    one = start()
    one.wait_until_ready()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        one.process.send_signal(number)
        assert one.get("/livez") == 200
    assert one.ends(signal.SIGTERM) == 0


# Stands in the place of a library that the daemon loads early: says that it is being loaded, and waits to go on.
_SLOW_LIBRARY = """
import pathlib, sys, time
here = pathlib.Path(__file__).parent
(here / "loading").touch()
while not (here / "go").exists():
    time.sleep(0.01)
sys.path.remove(str(here))
del sys.modules["uvloop"]
import uvloop
"""


def _own_process_space() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0  # noqa: S603 - our own command
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "before",
    [
        (),
        pytest.param(
            ("unshare", "--pid", "--fork", "--kill-child"),
            marks=pytest.mark.skipif(not _own_process_space(), reason="no process spaces here"),
        ),
    ],
    ids=["any process", "process 1"],
)
def test_a_signal_during_the_start_counts(
    start: Start, tmp_path: Path, before: tuple[str, ...], number: signal.Signals
) -> None:
    """What stops does so though nothing is ready to listen yet, as process 1 of a container too; HUP never does."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "uvloop.py").write_text(_SLOW_LIBRARY)
    path = os.pathsep.join([str(slow), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    one = start(before=before, environ={"PYTHONPATH": path})
    ends_s = time.monotonic() + _START_MAX_S
    while not (slow / "loading").exists():
        assert time.monotonic() < ends_s, one.log()
        time.sleep(_LOOK_AGAIN_S)
    pid = one.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(children[0]) if before else pid, number)
    (slow / "go").touch()
    if number is signal.SIGHUP:
        one.wait_until_ready()
        return
    assert one.process.wait(_START_MAX_S) == 0
    assert "daemon.ready" not in one.log()


def _statuses(listen: str, *tokens: str) -> list[int]:
    """Return what the operator's listener answers to each token."""
    statuses = []
    for token in tokens:
        connection = HTTPConnection(listen, timeout=10)
        try:
            connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {token}"})
            statuses.append(connection.getresponse().status)
        finally:
            connection.close()
    return statuses


def test_secrets_are_replaced_without_a_restart(start: Start, tmp_path: Path) -> None:
    """After HUP the new secret is taken and the old one is not; one that cannot be used changes nothing."""
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "COURIER_WEBHOOK_SECRET"
    secret.write_text("old\n")
    token = tmp_path / "secrets" / "FORWARDER_OPERATOR_TOKEN"
    token.write_text("an-old-token-that-is-long")
    listen = f"127.0.0.1:{free_port()}"
    one = start(
        environ={"COURIER_WEBHOOK_SECRET": "", "FORWARDER_SECRETS_DIR": "secrets", "FORWARDER_OPERATOR_LISTEN": listen}
    )
    one.wait_until_ready()
    assert (one.post_signed("old"), one.post_signed("new")) == (200, 429)
    assert _statuses(listen, "an-old-token-that-is-long", "a-new-token-that-is-long") == [200, 401]
    secret.write_text("new\n")
    token.write_text("a-new-token-that-is-long")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for_log('"secrets.read"')
    assert (one.post_signed("old"), one.post_signed("new")) == (429, 200)
    assert _statuses(listen, "an-old-token-that-is-long", "a-new-token-that-is-long") == [401, 200]
    secret.write_text("replace-me\n")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for_log('"secrets.refused"')
    assert one.post_signed("new") == 200
    assert one.ends(signal.SIGTERM) == 0
