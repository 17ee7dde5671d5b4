"""What the writer tells, as the event loop hears it: callers are answered, queues fed, people told."""

import asyncio
from collections.abc import Callable
from typing import Any

from forwarder.errors import SpoolUnusable
from forwarder.model import RouteName
from forwarder.spool.capacity import incoming_bytes
from forwarder.spool.sqlite.appends import Intake
from forwarder.spool.sqlite.faults import DAMAGE_ERRORS, DISK_ERRORS
from forwarder.spool.sqlite.leasing import Leasing
from forwarder.spool.sqlite.writer_jobs import Commit, Condition
from forwarder.telemetry.reporter import Reporter


class News:
    """Hear of commits and conditions, in their order. Lives on the event loop's thread."""

    leasing: Leasing  # given before the writer starts

    def __init__(self, loop: asyncio.AbstractEventLoop, reporter: Reporter) -> None:
        self._loop = loop
        self._reporter = reporter
        self._is_damage_told = False
        self.condition = Condition()
        self.refused: dict[RouteName, int] = {}  # what the last append would have added, if the cap refused it

    def hear(self, commit: Commit) -> None:
        """Answer those who appended, feed the queues, tell the others. An error in one keeps the news from no other."""
        for call, result in commit.answers:
            self._call(call, result)
        if commit.intake is not None:
            try:
                self.leasing.arrived(commit.intake, last_sequence=commit.last_sequence)
            except Exception as error:  # noqa: BLE001 - what the queues may have missed is on disk
                self._tell_error("new events could not be queued", error)
                self.leasing.reset()
            self._hear_cap(commit.intake)
        for call, result in commit.calls:
            self._call(call, result)
        for sequence in commit.quarantined:
            self._reporter.row_quarantined(sequence=sequence)
        if commit.is_damaged:
            self._hear_damage()
        if commit.evicted:
            self._reporter.history_yielded(events=commit.evicted)

    def _call(self, call: Callable[[Any], None], result: object) -> None:
        try:
            call(result)
        except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
            self._tell_error("a commit could not be heard", error)

    def _tell_error(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})

    def _hear_damage(self) -> None:
        if not self._is_damage_told:
            self._is_damage_told = True
            self._reporter.spool_damaged()

    def hear_read_failure(self, error: Exception) -> None:
        """Hear that what waits could not be read."""
        if isinstance(error, (*DAMAGE_ERRORS, SpoolUnusable)):
            self._hear_damage()
        elif not isinstance(error, DISK_ERRORS):
            self._tell_error("waiting events could not be read", error)

    def hear_condition(self, condition: Condition) -> None:
        """Hear how the writer is now."""
        before, self.condition = self.condition, condition
        if condition.refusal and not before.refusal:
            self._reporter.spool_refusing(reason=condition.refusal)
        if before.refusal and not condition.refusal:
            self._reporter.spool_accepting()
        if condition.deferred and not before.deferred:
            self._reporter.settlement_waiting(reason=condition.refusal, events=condition.deferred)
        if bool(condition.deferred) != bool(before.deferred):
            self.leasing.is_deferring = bool(condition.deferred)
            self.leasing.wake()

    def _hear_cap(self, intake: Intake) -> None:
        """Report when appends begin to be refused for the cap, and when they are taken again."""
        if self.condition.refusal:
            return
        before = self.refused
        if intake.refusals:
            envelopes, full = intake.refusals[-1]
            self.refused = incoming_bytes(envelopes)
            if not before:
                self._reporter.spool_refusing(reason=str(full))
        elif before:
            self.refused = {}
            self._reporter.spool_accepting()
