"""Lines are written on a thread of their own: whoever reads them, or does not, stops nobody."""

import fcntl
import io
import os
import re
import threading
from collections.abc import Iterator

import pytest

from forwarder.telemetry.lines import LineWriter

_READ_BYTES = 65_536


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """Give the reading end of a small pipe and a stream into it."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    with open(writing, "w", encoding="ascii") as stream:  # noqa: PTH123 - a descriptor has no path
        yield reading, stream
        os.close(reading)


def _read_until(reading: int, last: bytes) -> bytes:
    read = b""
    while last not in read:
        read += os.read(reading, _READ_BYTES)
    return read


def test_a_reader_that_stalls_stops_nobody(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """What a full pipe cannot take waits up to the bound, the rest is dropped, and every drop is told."""
    reading, stream = pipe
    writer = LineWriter(stream, dropped_line=lambda count: f"dropped {count}", bytes_max=10_000)
    for _ in range(3_000):
        writer.put("x" * 9)
    assert not writer.wait_written(0.05)
    read, told = b"", 0
    while read.count(b"x" * 9 + b"\n") + told < 3_000:
        read += os.read(reading, _READ_BYTES)
        told = sum(int(count) for count in re.findall(rb"^dropped (\d+)\n", read, re.MULTILINE))
    assert read.count(b"x" * 9 + b"\n") + told == 3_000
    assert told > 1_000
    writer.put("again")
    assert _read_until(reading, b"again\n") == b"again\n"
    assert writer.wait_written(5)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """A pipe that another program made non-blocking loses no part of a line."""
    reading, stream = pipe
    os.set_blocking(stream.fileno(), False)
    writer = LineWriter(stream, dropped_line=str)
    writer.put("y" * 20_000)
    assert _read_until(reading, b"\n") == b"y" * 20_000 + b"\n"


def test_a_stream_that_is_gone_stops_nothing() -> None:
    """A closed stream and a broken pipe take what comes, in silence."""
    closed = io.StringIO()
    closed.close()
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as broken:  # noqa: PTH123 - a descriptor has no path
        for stream in (closed, broken):
            writer = LineWriter(stream, dropped_line=str)
            writer.put("a")
            writer.put("b")
            assert writer.wait_written(5)


def test_what_an_encoding_lacks_is_escaped(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """No character ends a line, whatever the locale."""
    reading, stream = pipe
    LineWriter(stream, dropped_line=str).put("a→b")
    assert _read_until(reading, b"\n") == b"a\\u2192b\n"


def test_closing_writes_what_was_taken_and_ends_the_thread() -> None:
    """Closed, it takes nothing more."""
    stream = io.StringIO()
    writer = LineWriter(stream, dropped_line=str)
    writer.put("last")
    writer.close(5)
    writer.put("too late")
    assert stream.getvalue() == "last\n"


def test_a_reader_that_never_comes_back_does_not_keep_the_process(pipe: tuple[int, io.TextIOWrapper]) -> None:
    """Closing waits only so long, and the thread that writes ends with the process."""
    reading, stream = pipe
    writer = LineWriter(stream, dropped_line=str)
    writer.put("x" * 10_000)
    writer.close(0.05)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "log lines")
    # It must not be left writing to a descriptor that the next test may get.
    assert _read_until(reading, b"\n") == b"x" * 10_000 + b"\n"
    assert writer.wait_written(60)
