"""The pages put together: every operation of them, the files that they load, and how an error is told to people."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from aiohttp import web

from forwarder.operator.acts import Acts
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.operation import Operation
from forwarder.operator.pages.bulk import Jobs, job_operations
from forwarder.operator.pages.dead_letters import DeadLetters
from forwarder.operator.pages.destination_events import DestinationEvents
from forwarder.operator.pages.event_list import EventList
from forwarder.operator.pages.event_page import EventPages
from forwarder.operator.pages.forget_form import ForgetPage
from forwarder.operator.pages.login import Login, to_login
from forwarder.operator.pages.overview import Overview
from forwarder.operator.pages.records import Check, Records
from forwarder.operator.pages.render import Renderer
from forwarder.operator.people import People
from forwarder.operator.searching import Searches
from forwarder.telemetry.rates import Rates

_STATIC: Final = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "alarm.svg": "image/svg+xml",
}
_FOR_PROGRAMS: Final = ("/api/", "/metrics", "/static/")
_UNAUTHORIZED: Final = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pages are made of. Whoever serves them closes `jobs` and `searches`."""

    acts: Acts
    render: Renderer
    jobs: Jobs
    searches: Searches
    rates: Rates
    incidents: Incidents
    guard: OperatorGuard
    people: People
    check: Check

    def __post_init__(self) -> None:
        """Have what the pages keep in memory forgotten with a person who is erased."""
        self.acts.on_erased.extend((self.jobs.forget, self.searches.forget))

    def operations(self) -> Sequence[Operation]:
        """Return every page and what can be done on it."""
        acts, render, jobs = self.acts, self.render, self.jobs
        return (
            *Overview(acts=acts, render=render, rates=self.rates, incidents=self.incidents).operations(),
            *EventList(acts=acts, render=render, jobs=jobs, searches=self.searches).operations(),
            *EventPages(acts=acts, render=render).operations(),
            *DestinationEvents(acts=acts, render=render, jobs=jobs).operations(),
            *DeadLetters(acts=acts, render=render, jobs=jobs).operations(),
            *Records(parts=acts.parts, render=render, check=self.check, incidents=self.incidents).operations(),
            *Login(acts=acts, render=render, throttle=self.guard.throttle, people=self.people).operations(),
            *ForgetPage(acts=acts, render=render).operations(),
            *job_operations(jobs, render),
            # Tried last: aiohttp looks for the longest fixed beginning first.
            Operation("GET", "/{missing:(?!api/).*}", "Nothing", _missing),
        )

    async def told(self, request: web.Request, status: int, message: str) -> web.StreamResponse | None:
        """Tell an error as a page; None for programs, which get it as JSON."""
        if request.path.startswith(_FOR_PROGRAMS):
            return None
        if status == _UNAUTHORIZED and self.people.have_tokens:
            return to_login(request)
        return await self.render.error(request, status, message)


def static_routes() -> Sequence[web.RouteDef]:
    """Return a route for each file that the pages load: read once, a closed set, checked by the browser at each use."""
    return [_static(name, kind) for name, kind in _STATIC.items()]


def _static(name: str, kind: str) -> web.RouteDef:
    body = (files("forwarder.operator") / "static" / name).read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:32]

    async def serve(request: web.Request) -> web.Response:
        headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache"}
        if any(one.value == tag for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return web.get(f"/static/{name}", serve)


async def _missing(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound(reason="There is no page of that name.")
