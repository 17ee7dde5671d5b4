"""Acts on many events: started by a person, done in steps, shown on a page until it is known what came of them.

Kept in memory only. What a step did is durable; what a stopped job did not reach stays as it was, and the same act
can be started again.
"""

import asyncio
import secrets
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

from aiohttp import web

from forwarder.archive_port import EventQuery, EventRow
from forwarder.errors import ForwarderError
from forwarder.model import State
from forwarder.operator.acts import FOLLOWED_MAX, Acts, outcome_words, outcomes
from forwarder.operator.operation import Operation, QueryInvalid
from forwarder.operator.pages.render import Question, Renderer, see_other
from forwarder.operator.parameters import ACTION_EVENTS_MAX
from forwarder.operator.parts import Parts
from forwarder.operator.people import who
from forwarder.operator.walk import walk

JOBS_RUNNING_MAX: Final = 4
JOBS_KEPT_MAX: Final = 32

Verb = Literal["replay", "discard"]
Act = Callable[[Sequence[int]], Awaitable[int]]
Meant = Callable[[EventRow], bool]
OnEnd = Callable[[str], Awaitable[None]]


async def _nothing(_: str) -> None:
    """Hear what came of a job, and leave it at that."""


@dataclass(slots=True, kw_only=True)
class Job:
    """Work under way. `total` was counted at its start, up to a limit when `is_at_least`; another may be done."""

    title: str
    did: str  # the past participle of the act: "replayed"
    back: str
    total: int
    started_at_ms: int
    is_at_least: bool = False
    is_followed: bool = False  # what becomes of its events is of interest
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    done: int = 0
    moved: "array[int]" = field(default_factory=lambda: array("q"))
    outcome: Mapping[State, int] = field(default_factory=dict)
    acted_at_ms: int | None = None  # when the last event was acted on
    ended_at_ms: int | None = None
    error: str = ""

    @property
    def path(self) -> str:
        """Return where its progress is shown."""
        return f"/jobs/{self.name}"

    @property
    def is_good(self) -> bool:
        """Tell whether it did what it was for: of a replay, that everything arrived."""
        arrived = self.outcome.get(State.DELIVERED, 0) + self.outcome.get(State.FILTERED, 0)
        return not self.error and (not self.is_followed or arrived == sum(self.outcome.values()))

    def outcome_words(self) -> str:
        """Say what came of it, for the audit log."""
        if self.error:
            return f"stopped: {self.error}; {self.done} of {self.total}{' or more' if self.is_at_least else ''}"
        return outcome_words(self.outcome, of=self.done) if self.is_followed else "done"


class Jobs:
    """Run jobs side by side, a few at a time. `close` stops them; call it before the spool is closed."""

    def __init__(self, parts: Parts, *, look_every_s: float = 0.5) -> None:
        self._parts = parts
        self._look_every_s = look_every_s
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        """Show how many run."""
        return f"Jobs({len(self._tasks)} running, {len(self._jobs)} known)"

    def start(
        self, job: Job, query: EventQuery, act: Act, *, on_end: OnEnd = _nothing, is_meant: Meant = lambda _: True
    ) -> Job:
        """Act on all events that the query selects but discarded ones, oldest first.

        `on_end` hears in words what came of it. Raises `QueryInvalid` when too many jobs run.
        """
        if len(self._tasks) >= JOBS_RUNNING_MAX:
            raise QueryInvalid(f"{JOBS_RUNNING_MAX} long acts are under way already: wait until one has ended")
        while len(self._jobs) >= JOBS_KEPT_MAX:
            del self._jobs[next(name for name in self._jobs if name not in self._tasks)]
        self._jobs[job.name] = job
        work = self._run(job, replace(query, has_discarded=False), act, on_end, is_meant)
        self._tasks[job.name] = asyncio.create_task(work, name=f"job {job.name}")
        return job

    def of(self, name: str) -> Job | None:
        """Return the job of that name; None once it is forgotten."""
        return self._jobs.get(name)

    def running(self) -> Sequence[Job]:
        """Return what is under way, oldest first."""
        return [self._jobs[name] for name in self._tasks]

    def forget(self) -> None:
        """Forget those that ended, and what the others are for, which may name somebody who was erased."""
        self._jobs = {name: self._jobs[name] for name in self._tasks}
        for job in self.running():
            job.title, job.back = "An act on events, some of which were erased meanwhile", "/events"

    async def close(self) -> None:
        """Stop what runs, between two steps or within one; what was committed stays. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job, query: EventQuery, act: Act, on_end: OnEnd, is_meant: Meant) -> None:
        clock = self._parts.clock
        try:
            async for step in walk(self._parts.archive, query, step_events=ACTION_EVENTS_MAX):
                sequences = [row.sequence for row in step.rows if is_meant(row)]
                if sequences:
                    job.done += await act(sequences)
                    job.moved.extend(sequences[: FOLLOWED_MAX - len(job.moved)])
            job.acted_at_ms = clock.wall_ms()
            if job.is_followed:
                async for counts in outcomes(self._parts, job.moved, look_every_s=self._look_every_s):
                    job.outcome = counts
        except ForwarderError as error:
            job.error = str(error)
        except asyncio.CancelledError:
            job.error = "the daemon stopped"
            raise
        except Exception as error:  # noqa: BLE001  nobody awaits a job: its bug is told here, and on its page
            self._parts.reporter.operator_failed(error)
            job.error = "this failed inside the daemon; its log names the place"
        finally:
            with suppress(ForwarderError):  # the spool is shut: what was written down so far stands
                await on_end(job.outcome_words())
            job.ended_at_ms = clock.wall_ms()
            self._tasks.pop(job.name, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPages:
    """Pages on which all events of a choice are acted on."""

    acts: Acts
    render: Renderer
    jobs: Jobs

    async def act_on_all(
        self,
        request: web.Request,
        verb: Verb,
        query: EventQuery,
        question: Question,
        *,
        title: str,
        total: int,
        detail: str,
        logged: str,
        meant: Mapping[str, str] | None = None,
        is_at_least: bool = False,
        is_meant: Meant = lambda _: True,
    ) -> web.Response:
        """Begin a job once the person said yes; until then return the question."""
        if (asked := await self.render.ask(request, question, meant)) is not None:
            return asked
        act, did, doing = {
            "replay": (self.acts.replay, "replayed", "Replaying"),
            "discard": (self.acts.discard, "discarded", "Discarding"),
        }[verb]
        job = Job(
            title=f"{doing} {title}",
            did=did,
            back=question.back,
            total=total,
            is_at_least=is_at_least,
            is_followed=verb == "replay",
            started_at_ms=self.acts.parts.clock.wall_ms(),
        )
        line = self.acts.line(who(request), verb, detail, logged=logged)
        on_end = partial(self.acts.end, line)
        raise see_other(self.jobs.start(job, query, partial(act, line=line), on_end=on_end, is_meant=is_meant).path)


def job_operations(jobs: Jobs, render: Renderer) -> Sequence[Operation]:
    """Return the page that shows a job's progress."""

    async def show(request: web.Request) -> web.Response:
        job = jobs.of(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(
                reason="this progress is not known here: another replica tells it, the daemon was restarted, "
                "or it ended long ago"
            )
        return await render.page(request, "job.html", job=job, followed_max=FOLLOWED_MAX)

    return (Operation("GET", "/jobs/{job}", "Progress of a long act", show),)
