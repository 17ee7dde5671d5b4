"""What other libraries log through the standard library, let in without what they quote.

Their messages interpolate requests, headers and exception texts, all of which may hold a payload. So a
line tells the logger, the level, the error's type and place, and of aiohttp and asyncio the first line of
the message before its arguments are put in. The RudderStack SDK logs whole events, and aiokafka several errors a
second while a broker is away, which is told once as `source.away`: they are silenced.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from structlog.typing import FilteringBoundLogger

from forwarder.ports import Clock
from forwarder.telemetry.logs import Logs, places
from forwarder.telemetry.metrics import Metrics

SILENCED = ("rudderstack", "segment", "aiokafka")
_TEMPLATES_ARE_SAFE = ("aiohttp", "asyncio")
_MESSAGE_MAX = 120


class ForeignLines(logging.Handler):
    """A handler that passes warnings and errors of other libraries on as `foreign.logged`."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on without its arguments."""
        about: dict[str, object] = {"logger": record.name, "reason": _reason(record)}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            about |= {"error": type(error).__name__, "at": places(error)}
        if record.levelno >= logging.ERROR:
            self._log.error("foreign.logged", **about)
        else:
            self._log.warning("foreign.logged", **about)


@contextmanager
def foreign_logs_captured(log: FilteringBoundLogger) -> Iterator[None]:
    """Let the standard library's root logger write through ours; puts everything back at the end."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    silenced = [(logger, logger.handlers[:], logger.propagate) for logger in map(logging.getLogger, SILENCED)]
    root.handlers[:] = [ForeignLines(log)]
    root.setLevel(logging.WARNING)
    for logger, _, _ in silenced:
        # A handler that does nothing: without any, Python would print to stderr.
        logger.handlers[:], logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        for logger, handlers, propagate in silenced:
            logger.handlers[:], logger.propagate = handlers, propagate


def begin_logs(stack: AsyncExitStack, log_format: str, log_level: str, *, metrics: Metrics, clock: Clock) -> Logs:
    """Open the log on standard error, for us and for the libraries; `stack` closes it."""
    logs = Logs(stream=sys.stderr, log_format=log_format, log_level=log_level, metrics=metrics, clock=clock)
    stack.callback(logs.close)
    stack.enter_context(foreign_logs_captured(logs.logger))
    return logs


def _reason(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] not in _TEMPLATES_ARE_SAFE or not isinstance(record.msg, str):
        return record.name
    return record.msg.partition("\n")[0][:_MESSAGE_MAX]
