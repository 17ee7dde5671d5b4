"""Talking to systemd."""

import socket
from pathlib import Path

import pytest

from forwarder.telemetry.notify import Notifier, notifier


def _everything(said: Notifier) -> None:
    said.ready()
    said.status("2 routes\nrunning")
    said.beat()
    said.stopping()


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract name"])
def test_the_manager_hears_every_word(tmp_path: Path, *, is_abstract: bool) -> None:
    """Each call is one datagram of the protocol, on a path or an abstract name."""
    name = f"forwarder-test-{tmp_path.name}-{id(tmp_path)}"
    where = f"@{name}" if is_abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if is_abstract else where)
        manager.settimeout(5)
        _everything(notifier({"NOTIFY_SOCKET": where}, pid=1))
        heard = [manager.recv(1024) for _ in range(4)]
    assert heard == [b"READY=1", b"STATUS=2 routes running", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}],
    ids=["unset", "empty", "unsupported", "nobody there"],
)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    """No socket, or one that nobody reads, is no error."""
    said = notifier(environ, pid=1)
    _everything(said)
    assert said.interval_s is None


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
    ids=["no pid", "our pid", "another's pid", "no number", "zero"],
)
def test_the_beat_is_half_the_managers_patience(environ: dict[str, str], interval_s: float | None) -> None:
    """The interval follows WATCHDOG_USEC, if it is meant for us."""
    assert notifier({"NOTIFY_SOCKET": "/nowhere"} | environ, pid=7).interval_s == interval_s
