"""A real server as a process of its own, on loopback: started, waited for, and ended by its own process id."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stand_ins.listener import HOST, free_port

READY_MAX_S = 60.0
_LOOK_AGAIN_S = 0.01
_LAST_WORDS = 3_000  # characters of its log that an error quotes


class ServerFailed(Exception):
    """The server did not start, or one of its programs failed; the text ends with what it said."""


def spawn(
    *command: str, folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that works in a folder and writes to the end of a log."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )


def takes_connections(port: int) -> bool:
    """Tell whether somebody does on this port."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


def pauses(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], *, log: Path) -> Iterator[float]:
    """Yield how long to wait, in seconds, until it is ready; raises `ServerFailed` when it ended, or is not in time."""
    ends_s = time.monotonic() + READY_MAX_S
    while process.poll() is None and time.monotonic() < ends_s:
        if is_ready():
            return
        yield _LOOK_AGAIN_S
    end(process)
    raise ServerFailed(f"it did not start: {last_words(log)}")


def end(process: subprocess.Popen[bytes] | None) -> None:
    """End it as a power cut would. Does nothing when it is not running."""
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


def last_words(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(errors="replace")[-_LAST_WORDS:] if log.exists() else "no log"


@dataclass(slots=True, kw_only=True)
class Server:
    """Start it, kill it, start it again: same folder, same port."""

    folder: Path  # exists; holds the data, the settings and the log
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return host and port, as a URL has them."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file that it writes to."""
        return self.folder / "log.txt"

    async def stop(self) -> None:
        """Ask it to stop and wait for it. Does nothing when it is not running."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            await asyncio.to_thread(self.process.wait, READY_MAX_S)

    async def kill(self) -> None:
        """End it as a power cut would. Does nothing when it is not running."""
        end(self.process)

    async def _serve(self, *command: str, says: str) -> None:
        """Start it and wait until it says that it is ready; raises `ServerFailed`."""
        said = self._count(says)
        self.process = spawn(*command, folder=self.folder, log=self.log)
        for pause_s in pauses(self.process, lambda: self._count(says) > said, log=self.log):
            await asyncio.sleep(pause_s)

    def _count(self, words: str) -> int:
        return self.log.read_text(errors="replace").count(words) if self.log.exists() else 0
