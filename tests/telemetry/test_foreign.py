"""What other libraries log."""

import logging

import structlog
from structlog.testing import CapturingLogger
from structlog.typing import FilteringBoundLogger

from forwarder.telemetry.foreign import foreign_logs_captured


def _capture() -> tuple[CapturingLogger, FilteringBoundLogger]:
    lines = CapturingLogger()
    return lines, structlog.wrap_logger(lines, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))


def test_arguments_and_exception_texts_stay_out() -> None:
    """A foreign line keeps its template and the error's type; the values in it are gone."""
    lines, log = _capture()
    with foreign_logs_captured(log):
        try:
            int("payload")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request from %s", "payload")
    (call,) = lines.calls
    assert call.method_name == "error"
    assert call.kwargs["reason"] == "Error handling request from %s"
    assert call.kwargs["error"] == "ValueError"
    assert "payload" not in repr({k: v for k, v in call.kwargs.items() if k != "at"})


def test_an_unknown_library_is_named_only() -> None:
    """A library whose templates we do not know may have put values into its message."""
    lines, log = _capture()
    with foreign_logs_captured(log):
        logging.getLogger("other.module").warning("user a@b.c failed")
    assert lines.calls[0].kwargs == {"event": "foreign.logged", "logger": "other.module", "reason": "other.module"}


def test_asyncio_shows_the_first_line_of_its_report() -> None:
    """The lines after the first hold reprs of tasks and their exceptions."""
    lines, log = _capture()
    with foreign_logs_captured(log):
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: payload")
    assert lines.calls[0].kwargs["reason"] == "Task exception was never retrieved"


def test_info_and_the_sdk_are_silent() -> None:
    """Information of others is dropped, and the SDK, which logs whole events, says nothing at all."""
    lines, log = _capture()
    with foreign_logs_captured(log):
        logging.getLogger("aiohttp.access").info("GET /")
        logging.getLogger("rudderstack").error("event %s", {"userId": "u"})
        logging.getLogger("rudderstack.analytics").error("event")
    assert lines.calls == []


def test_everything_is_put_back() -> None:
    """Leaving the block restores the root logger and the silenced ones."""
    _, log = _capture()
    root, sdk = logging.getLogger(), logging.getLogger("rudderstack")
    before = (root.handlers[:], root.level, sdk.handlers[:], sdk.propagate)
    with foreign_logs_captured(log):
        pass
    assert (root.handlers[:], root.level, sdk.handlers[:], sdk.propagate) == before
