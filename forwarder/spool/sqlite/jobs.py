"""What passes between the event loop and the writer thread: jobs go in, commits and conditions are heard.

Everything but the structs lives on the event loop's thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from forwarder.errors import SpoolClosed, SpoolFull, SpoolUnusable
from forwarder.model import Envelope, Receipt, RouteName
from forwarder.spool.leasing import Leasing
from forwarder.spool.limits import incoming_bytes
from forwarder.spool.sqlite.appends import Intake
from forwarder.spool.sqlite.files import DISK_ERRORS
from forwarder.spool.sqlite.transaction import Transaction
from forwarder.telemetry.reporter import Reporter

T = TypeVar("T")


class AppendJob(msgspec.Struct):
    """Envelopes to store. One of the two is called on the event loop's thread."""

    envelopes: Sequence[Envelope]
    on_commit: Callable[[Receipt], None]
    on_rollback: Callable[[SpoolFull | SpoolClosed], None]


@dataclass(slots=True)
class Job:
    """Any other work inside a transaction. Both callbacks run on the event loop's thread.

    `is_settlement`: it is deferred and tried again while the disk is full. `may_wait`: nobody waits for it, so it may
    wait a moment for others to share a commit with.
    """

    work: Callable[[Transaction], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    is_settlement: bool = False
    may_wait: bool = False


@dataclass(slots=True)
class Commit:
    """What the event loop hears of one commit, in the order to take it in."""

    answers: list[tuple[AppendJob, Receipt | SpoolFull]] = field(default_factory=list)  # to those who appended
    intake: Intake | None = None
    calls: list[tuple[Callable[[Any], None], Any]] = field(default_factory=list)  # to those who asked for other work
    last_sequence: int = 0  # given to an event, as of this commit; with an intake
    quarantined: list[int] = field(default_factory=list)
    evicted: int = 0
    is_damaged: bool = False  # a page that no event can be blamed for could not be read


@dataclass(frozen=True, slots=True)
class Condition:
    """How the writer is. Replaced whole, read from any thread."""

    refusal: str = ""
    deferred: int = 0  # settlements that wait for the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the writer thread calls, on itself: each hands over to the event loop's thread where that is needed."""

    on_commit: Callable[[Commit], None]
    on_synced: Callable[[float], None]  # how long it took, in seconds
    on_condition: Callable[[Condition], None]
    on_end: Callable[[BaseException | None], None]


class AwaitedWork:
    """Submit jobs, and wait for their commits. Lives on the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, submit: Callable[[Job], None]) -> None:
        self._loop = loop
        self._submit = submit
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_ended = False

    async def run(
        self,
        work: Callable[[Transaction], T],
        *,
        on_commit: Callable[[T], None] | None = None,
        on_rollback: Callable[[], None] | None = None,
        is_settlement: bool = False,
        may_wait: bool = False,
    ) -> T:
        """Do work in the next commit. `on_commit` is called with its result, in the order of the commits.

        A caller that is cancelled stops waiting; the work is done and `on_commit` called all the same.
        """
        if self._is_ended:
            raise SpoolClosed("the spool is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def done(result: T) -> None:
            if not future.done():
                future.set_result(result)
            if on_commit is not None:
                on_commit(result)

        def failed(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)
            if on_rollback is not None:
                on_rollback()

        self._submit(Job(work, done, failed, is_settlement, may_wait))
        return await future

    def refuse(self) -> None:
        """Take nothing new; what was submitted is still answered."""
        self._is_ended = True

    def end(self) -> None:
        """Tell whoever still waits, and whoever comes, that the spool is closed."""
        self._is_ended = True
        for future in list(self._pending):
            if not future.done():
                future.set_exception(SpoolClosed("the spool is closed"))


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
        for job, answer in commit.answers:
            self._answer(job, answer)
        if commit.intake is not None:
            try:
                self.leasing.arrived(commit.intake.arrivals, last_sequence=commit.last_sequence)
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

    def _answer(self, job: AppendJob, answer: Receipt | SpoolFull) -> None:
        if isinstance(answer, SpoolFull):
            self._call(job.on_rollback, answer)
        elif not self._call(job.on_commit, answer):
            self._call(job.on_rollback, SpoolClosed("what was stored could not be answered: a copy is a duplicate"))

    def _call(self, call: Callable[[Any], None], result: object) -> bool:
        """Call back; tell whether that went well."""
        try:
            call(result)
        except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
            self._tell_error("a commit could not be heard", error)
            return False
        return True

    def _tell_error(self, message: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})

    def _hear_damage(self) -> None:
        if not self._is_damage_told:
            self._is_damage_told = True
            self._reporter.spool_damaged()

    def hear_read_failure(self, error: Exception) -> None:
        """Hear that what waits could not be read."""
        if isinstance(error, SpoolUnusable):
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
            self.leasing.disk_recovered()
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
