"""One line per fact: JSON for machines or columns for a terminal, UTC, and never a flood.

Lines carry no payload: exceptions are told by their type and place, never by their text, and what foreign
libraries log is reduced the same way (see `foreign`). Which facts there are: `reporter`.
"""

import asyncio
import sys
import traceback
from collections.abc import Callable
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from forwarder.clock import wait_within
from forwarder.ports import Clock
from forwarder.telemetry.lines import LineWriter
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.repeats import Repeats

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
REPEATS_SAID_MAX = 5
REPEATS_WINDOW_S = 60.0
_LOUD = frozenset({"warning", "error", "critical"})
_FRAMES_MAX = 8
_LAST_LINES_S = 1.0

_Key = tuple[str, str, str, str]  # level, event, route, reason


class _Lines:
    """What structlog writes to: every level is a line."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = put


class Logs:
    """The daemon's log. `logger` is what everything logs through; it never blocks, whoever reads the stream.

    A warning or error with the same event, route and reason is said at most five times a minute; then one
    line (`log.suppressed`) tells how many were not, and the metric counts them. `flush` writes those lines
    when their minute is over; whoever owns a timer calls it (see `RepeatSummaries`).
    """

    def __init__(self, *, stream: TextIO, log_format: str, log_level: str, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._repeats: Repeats[_Key] = Repeats(said_max=REPEATS_SAID_MAX, window_s=REPEATS_WINDOW_S)
        self._lines = LineWriter(stream, dropped_line=self._dropped_line)
        lines = _Lines(self._lines.put)
        tail: list[Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _without_exception_text,
            _in_order,
            _renderer(log_format, is_terminal=stream.isatty()),
        ]
        wrapper = structlog.make_filtering_bound_logger(LEVELS[log_level])
        self.logger = cast(
            "FilteringBoundLogger",
            structlog.wrap_logger(lines, processors=[self._limit_repeats, *tail], wrapper_class=wrapper),
        )
        self._unlimited = cast(
            "FilteringBoundLogger", structlog.wrap_logger(lines, processors=tail, wrapper_class=wrapper)
        )
        self._returned = structlog.wrap_logger(structlog.ReturnLogger(), processors=tail, wrapper_class=wrapper)

    def close(self) -> None:
        """Write the last summaries and wait a moment for what was logged to be written."""
        self.flush(is_last=True)
        self._lines.close(_LAST_LINES_S)

    def wait_written(self, within_s: float) -> bool:
        """Block until everything logged is written; False when that took too long."""
        return self._lines.wait_written(within_s)

    def flush(self, *, is_last: bool = False) -> None:
        """Write the summaries of the minutes that are over; of all of them when it is the last call."""
        taken = self._repeats.take_all() if is_last else self._repeats.take_ended(now_s=self._clock.monotonic_s())
        for (_, event, route, reason), count in taken:
            named = {name: value for name, value in (("route", route), ("reason", reason)) if value}
            self._unlimited.warning("log.suppressed", of=event, count=count, **named)

    def _dropped_line(self, count: int) -> str:
        self._metrics.log_dropped.inc(count)
        return str(self._returned.error("log.dropped", count=count, reason="nobody read the log"))

    def _limit_repeats(self, _: WrappedLogger, level: str, line: EventDict) -> EventDict:
        self.flush()
        if level not in _LOUD:
            return line
        event = str(line.get("event", ""))
        key = (level, event, str(line.get("route", "")), str(line.get("reason", "")))
        if self._repeats.may_say(key, now_s=self._clock.monotonic_s()):
            return line
        self._metrics.log_suppressed.labels(event).inc()
        raise structlog.DropEvent


class RepeatSummaries:
    """A worker that flushes the log's summaries, so that the last flood of a quiet night is told too."""

    name = "log summaries"

    def __init__(self, logs: Logs, *, interval_s: float = 10.0) -> None:
        self._logs = logs
        self._interval_s = interval_s
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Flush every interval until drained; once more at the end."""
        try:
            while not self._drained.is_set():
                await wait_within(self._interval_s, self._drained)
                self._logs.flush()
        finally:
            self._logs.flush(is_last=True)

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()


def _renderer(log_format: str, *, is_terminal: bool) -> Processor:
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(colors=is_terminal, timestamp_key="time")
    return structlog.processors.JSONRenderer()


def _without_exception_text(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Replace an exception by its type and place: its text may quote a payload or a secret."""
    given = line.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exception() if given else None
    if error is not None:
        line["error"] = type(error).__name__
        line["at"] = places(error)
    return line


def _in_order(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Put first what people look for first."""
    return {"time": line.pop("time"), "level": line.pop("level"), "event": line.pop("event"), **line}


def places(error: BaseException) -> list[str]:
    """Return where an exception came from, innermost last, as `file:line function`; no values."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
