"""The log: shape, limits, and what never gets in."""

import asyncio
import io
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from forwarder.telemetry.logs import Logs, RepeatSummaries
from forwarder.telemetry.metrics import Metrics
from stand_ins.clock import HandClock


class TellingStream(io.StringIO):
    """A stream that tells when a summary was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def write(self, text: str) -> int:
        """Keep the text."""
        if "log.suppressed" in text:
            self.told.set()
        return super().write(text)


@dataclass
class Written:
    """A log with everything a test looks at."""

    logs: Logs
    stream: TellingStream
    clock: HandClock
    metrics: Metrics

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines so far, decoded."""
        return [json.loads(line) for line in self.text().splitlines()]

    def text(self) -> str:
        """Return what is written when everything logged so far is."""
        assert self.logs.wait_written(5)
        return self.stream.getvalue()


def _written(log_format: str = "json", log_level: str = "info") -> Written:
    stream, clock, metrics = TellingStream(), HandClock(0), Metrics()
    logs = Logs(stream=stream, log_format=log_format, log_level=log_level, metrics=metrics, clock=clock)
    return Written(logs, stream, clock, metrics)


def test_a_line_is_json_with_utc_time_and_level() -> None:
    """A line holds time in ISO UTC, level, event and its keys."""
    written = _written()
    written.logs.logger.info("batch.delivered", route="r", events=3)
    (line,) = written.lines()
    assert line | {"time": ""} == {"event": "batch.delivered", "route": "r", "events": 3, "level": "info", "time": ""}
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_the_level_hides_what_is_below_it() -> None:
    """A level of warning hides info."""
    written = _written(log_level="warning")
    written.logs.logger.info("quiet")
    written.logs.logger.warning("loud")
    assert [line["event"] for line in written.lines()] == ["loud"]


def test_console_lines_have_no_colours_off_a_terminal() -> None:
    """A console log into a file has no escape sequences."""
    written = _written("console")
    written.logs.logger.warning("spool.refusing", reason="cap")
    assert "spool.refusing" in written.text()
    assert "\x1b" not in written.text()


def test_a_flood_of_equal_warnings_is_counted() -> None:
    """Five equal warnings a minute are said, the rest told as one number and in the metric."""
    written = _written()
    for sequence in range(100):
        written.logs.logger.warning("request.failed", route="r", reason="503", sequence=sequence)
    written.logs.logger.warning("request.failed", route="other", reason="503")
    assert len(written.lines()) == 6
    written.clock.now_s = 61
    written.logs.logger.info("tick")
    summary = written.lines()[-2]
    assert (summary["event"], summary["of"], summary["route"], summary["count"]) == (
        "log.suppressed",
        "request.failed",
        "r",
        95,
    )
    assert (
        written.metrics.registry.get_sample_value("forwarder_log_lines_suppressed_total", {"event": "request.failed"})
        == 95
    )


def test_info_is_never_limited() -> None:
    """Only warnings and errors are counted away."""
    written = _written()
    for _ in range(20):
        written.logs.logger.info("same")
    assert len(written.lines()) == 20


async def test_the_last_flood_is_told_when_the_daemon_stops() -> None:
    """Draining the summaries' worker writes what was suppressed, window over or not."""
    written = _written()
    for _ in range(7):
        written.logs.logger.error("route.held", reason="401")
    worker = RepeatSummaries(written.logs, interval_s=0.001)
    await worker.drain()
    await worker.run()
    assert written.lines()[-1]["count"] == 2


def test_an_exception_is_told_by_type_and_place_only() -> None:
    """The text of an exception, which may quote a payload, is in no line."""
    written = _written()
    try:
        int("user secret@example.com")
    except ValueError:
        written.logs.logger.exception("writer.failed")
    written.logs.logger.error("writer.failed", exc_info=KeyError("secret"))
    first, second = written.lines()
    assert first["error"] == "ValueError"
    assert "test_logs.py" in first["at"][0]
    assert second["error"] == "KeyError"
    assert "secret" not in written.text()


def test_a_stream_that_is_gone_stops_nothing() -> None:
    """Logging into a closed stream raises nothing."""
    written = _written()
    written.stream.close()
    written.logs.logger.warning("spool.refusing")


async def test_the_summaries_come_by_themselves() -> None:
    """A flood before a silence is told when its minute is over, without another line to carry it."""
    written = _written()
    for _ in range(7):
        written.logs.logger.error("route.held", reason="401")
    written.clock.now_s = 61
    worker = RepeatSummaries(written.logs, interval_s=0.001)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(written.stream.told.wait(), 5)
    await worker.drain()
    await running
    assert written.lines()[-1]["of"] == "route.held"


@pytest.mark.parametrize("value", ["\ud800", "a\nb", "\x1b[31m"], ids=["lone surrogate", "newline", "escape"])
def test_strange_text_stays_one_line(value: str) -> None:
    """No value can break the line it is in."""
    written = _written()
    written.logs.logger.info("x", reason=value)
    assert written.lines()[0]["reason"] == value
