"""Write lines on a thread of its own, so that a reader that stalls never stalls who logs.

The lines that wait are bounded in bytes; what does not fit is dropped, counted, and told as soon as something is read
again.
"""

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

LINES_BYTES_MAX = 1_048_576
_WRITABLE_AFTER_S = 1.0


class LineWriter:
    """Takes lines and never blocks, never raises; only `wait_written` and `close` wait.

    `dropped_line` is asked, on the writing thread, for the line that tells how many were dropped.
    """

    def __init__(self, stream: TextIO, *, dropped_line: Callable[[int], str], bytes_max: int = LINES_BYTES_MAX) -> None:
        self._write = _writer_to(stream)
        self._encoding = stream.encoding or "utf-8"
        self._dropped_line = dropped_line
        self._bytes_max = bytes_max
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._is_closed = False
        self._changed = threading.Condition()
        # A daemon thread: a reader that never comes back must not keep the process from ending.
        threading.Thread(target=self._run, name="log lines", daemon=True).start()

    def put(self, line: str) -> None:
        """Take a line, or count it as dropped when too much waits."""
        data = self._encoded(line)
        with self._changed:
            if self._bytes + len(data) > self._bytes_max or self._is_closed:
                self._dropped += 1
                return
            self._lines.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def wait_written(self, within_s: float) -> bool:
        """Wait until everything taken is written; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._is_writing, within_s)

    def close(self, within_s: float) -> None:
        """Take nothing more, and wait for what was taken to be written, but not longer than that."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self.wait_written(within_s)

    def _encoded(self, line: str) -> bytes:
        return line.encode(self._encoding, "backslashreplace") + b"\n"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closed)
                if not self._lines:
                    return
                data, dropped = self._lines.popleft(), self._dropped
                self._dropped, self._is_writing = 0, True
            with contextlib.suppress(OSError, ValueError):  # a stream that is gone stops nothing
                self._write(data)
                if dropped:
                    self._write(self._encoded(self._dropped_line(dropped)))
            with self._changed:
                self._bytes -= len(data)
                self._is_writing = False
                self._changed.notify_all()


def _writer_to(stream: TextIO) -> Callable[[bytes], None]:
    """Return what writes to the stream, past its buffer where it has a file: at exit nothing is left to flush."""
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return lambda data: _write_text(stream, data)
    return lambda data: _write_all(fd, data)


def _write_text(stream: TextIO, data: bytes) -> None:
    stream.write(data.decode(stream.encoding or "utf-8"))
    stream.flush()


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # whoever shares the pipe made it non-blocking
            select.select([], [fd], [], _WRITABLE_AFTER_S)
