"""Long work in steps: a person starts it, a page shows how far it is, the daemon's end stops it between two steps.

Kept in memory only. What a step did is durable; what a stopped job did not reach stays as it was, and the same act
can be started again. Deliberately absent: what the steps do.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from forwarder.errors import ForwarderError
from forwarder.operator.pages.render import Renderer
from forwarder.operator.query import QueryInvalid
from forwarder.ports import Clock
from forwarder.telemetry.reporter import Reporter

JOBS_RUNNING_MAX: Final = 4
JOBS_KEPT_MAX: Final = 32


@dataclass(slots=True, kw_only=True)
class Job:
    """Work under way. `total` was counted at its start, up to a limit when `is_at_least`; another may be done."""

    name: str
    title: str
    did: str  # the past participle of the act: "replayed"
    back: str
    total: int
    is_at_least: bool
    started_at_ms: int
    done: int = 0
    ended_at_ms: int | None = None
    error: str = ""

    @property
    def path(self) -> str:
        """Return where its progress is shown."""
        return f"/jobs/{self.name}"


class Jobs:
    """Run jobs side by side, a few at a time. `close` stops them; call it before the spool is closed."""

    def __init__(self, *, clock: Clock, reporter: Reporter) -> None:
        self._clock = clock
        self._reporter = reporter
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        """Show how many run."""
        return f"Jobs({len(self._tasks)} running, {len(self._jobs)} known)"

    def start(
        self,
        steps: AsyncIterator[int],
        *,
        title: str,
        did: str,
        back: str,
        total: int,
        is_at_least: bool = False,
    ) -> Job:
        """Start a job; every step says how many events it moved. Raises `QueryInvalid` when too many run."""
        if len(self._tasks) >= JOBS_RUNNING_MAX:
            raise QueryInvalid(f"{JOBS_RUNNING_MAX} long acts are under way already: wait until one has ended")
        while len(self._jobs) >= JOBS_KEPT_MAX:
            del self._jobs[next(name for name in self._jobs if name not in self._tasks)]
        job = Job(
            name=secrets.token_hex(8),
            title=title,
            did=did,
            back=back,
            total=total,
            is_at_least=is_at_least,
            started_at_ms=self._clock.wall_ms(),
        )
        self._jobs[job.name] = job
        self._tasks[job.name] = asyncio.create_task(self._run(job, steps), name=f"job {job.name}")
        return job

    def of(self, name: str) -> Job | None:
        """Return the job of that name; None once it is forgotten."""
        return self._jobs.get(name)

    def running(self) -> Sequence[Job]:
        """Return what is under way, oldest first."""
        return [self._jobs[name] for name in self._tasks]

    async def close(self) -> None:
        """Stop what runs, between two steps or within one; what was committed stays. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job, steps: AsyncIterator[int]) -> None:
        try:
            async for moved in steps:
                job.done += moved
        except ForwarderError as error:
            job.error = str(error)
        except asyncio.CancelledError:
            job.error = "the daemon stopped"
            raise
        except Exception as error:  # noqa: BLE001  nobody awaits a job: its bug is told here, and on its page
            self._reporter.operator_failed(error)
            job.error = "this failed inside the daemon; its log names the place"
        finally:
            job.ended_at_ms = self._clock.wall_ms()
            self._tasks.pop(job.name, None)


def job_routes(jobs: Jobs, render: Renderer) -> Sequence[web.RouteDef]:
    """Return the page that shows a job's progress; `?part=1` answers its changing part alone, for the script."""

    async def show(request: web.Request) -> web.Response:
        job = jobs.of(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(
                reason="this progress is no longer known: the daemon was restarted, or it ended long ago"
            )
        if request.query.get("part"):
            part = render.text("job_part.html", job=job)
            headers = {} if job.ended_at_ms is None else {"X-Job-Ended": "1"}
            return web.Response(body=part.encode(), content_type="text/html", charset="utf-8", headers=headers)
        return render.page(request, "job.html", job=job)

    return (web.get("/jobs/{job}", show),)
