"""Tell systemd how the service is: ready, status, alive, stopping.

The protocol of sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without one every call
does nothing. The caller beats only while the daemon is alive.
"""

import contextlib
import socket
from collections.abc import Callable, Mapping

_STATUS_MAX = 200


class Notifier:
    """Say one thing to the service manager. Never blocks, never raises."""

    def __init__(self, send: Callable[[bytes], None], *, watchdog_s: float | None = None) -> None:
        self._send = send
        self._watchdog_s = watchdog_s

    @property
    def interval_s(self) -> float | None:
        """Return how often to beat, half of the manager's patience; None when nobody watches."""
        return self._watchdog_s / 2 if self._watchdog_s else None

    def ready(self) -> None:
        """Say that start-up is over."""
        self._send(b"READY=1")

    def status(self, text: str) -> None:
        """Show one line of text with the service."""
        self._send(b"STATUS=" + " ".join(text.split())[:_STATUS_MAX].encode())

    def beat(self) -> None:
        """Say that the loops turn."""
        self._send(b"WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service shuts down by itself."""
        self._send(b"STOPPING=1")


def notifier(environ: Mapping[str, str], *, pid: int) -> Notifier:
    """Return the notifier that the environment asks for; one that does nothing when it asks for none."""
    where = environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return Notifier(_say_nothing)
    # A leading @ stands for the zero byte of Linux's abstract names.
    address = "\0" + where[1:] if where.startswith("@") else where

    def send(message: bytes) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(0)
            channel.sendto(message, address)

    return Notifier(send, watchdog_s=_watchdog_s(environ, pid))


def _say_nothing(_: bytes) -> None:
    return None


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the manager's patience, unless it is meant for another process (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None
