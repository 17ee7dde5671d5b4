"""The pages that act, over the spool in memory, behind a real listener; a person's browser is a client with cookies."""

import asyncio
import io
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from forwarder.courier import wire as courier_wire
from forwarder.mapping.link_file import read_link_file
from forwarder.mapping.link_store import LinkStore
from forwarder.model import Attempt, Envelope, RouteName, State
from forwarder.operator.api import api_routes
from forwarder.operator.checks import Finding
from forwarder.operator.desk import OperatorDesk
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.listener import OperatorListener, operator_app
from forwarder.operator.pages.acting import Acting
from forwarder.operator.pages.forms import described_forms
from forwarder.operator.pages.jobs import Jobs
from forwarder.operator.pages.login import PUBLIC_PATHS, to_login
from forwarder.operator.pages.render import Renderer
from forwarder.operator.sessions import Sessions
from forwarder.ports import EventQuery
from forwarder.rudderstack import wire as rudderstack_wire
from forwarder.spool.appending import stored
from forwarder.spool.limits import SpoolLimits
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import leased, settle

NOW_MS = 1_800_000_000_000
PINNED = '[[link]]\nevent = "Pinned Checkout"\ntarget = "checkout-flow"\n'
_NEVER_WITHIN_A_PAGE = ("style=", "onclick=", "onload=", "onerror=", "javascript:", "<style")


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def wall_ms(self) -> int:
        """Return a moment that moves with the other."""
        return NOW_MS + int((self.now_s - 1_000.0) * 1000)

    def monotonic_s(self) -> float:
        """Return the moment that the test set."""
        return self.now_s


class Checked:
    """Findings, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.findings: Sequence[Finding] = (
            Finding("ok", "settings", "routes: both"),
            Finding("warn", "data folder", "others may enter <it>"),
            Finding("fail", "clock", "it says 1970"),
        )

    def __call__(self, *, is_thorough: bool) -> Sequence[Finding]:
        """Look; a thorough look may be held up."""
        self.asked.append(is_thorough)
        if is_thorough:
            self.may_go.wait(5)
        return self.findings


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@dataclass
class Page:
    """An answer: its status, where it leads, its headers, and the words on it."""

    status: int
    html: str
    headers: Mapping[str, str]

    @property
    def location(self) -> str:
        """Return where it leads."""
        return self.headers.get("Location", "")

    @property
    def words(self) -> str:
        """Return the text that people read, blanks run together."""
        parser = _Texts()
        parser.feed(self.html)
        return " ".join(" ".join(parser.texts).replace("\u202f", " ").split())

    def forms(self, action: str) -> list[dict[str, str]]:
        """Return the hidden fields of every form that posts there."""
        found = re.findall(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', self.html, re.DOTALL)
        return [{unescape(name): unescape(value) for name, value in _HIDDEN.findall(form)} for form in found]


_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')


@dataclass
class Desk:
    """A running listener with everything that a test looks at."""

    http: aiohttp.ClientSession
    url: str
    spool: MemorySpool
    clock: HandClock
    jobs: Jobs
    sessions: Sessions
    checked: Checked
    routes: Sequence[web.RouteDef]
    operator: OperatorDesk
    log: list[dict[str, object]] = field(default_factory=list)

    async def get(self, path: str, **headers: str) -> Page:
        """Look at a page as a browser does."""
        async with self.http.get(path, headers={"Accept": "text/html"} | headers, allow_redirects=False) as answer:
            return await _page(answer)

    async def post(
        self, path: str, fields: Mapping[str, str] | None = None, *, is_multipart: bool = False, **headers: str
    ) -> Page:
        """Send a form as a browser does."""
        told = {"Accept": "text/html", "Origin": self.url, "Sec-Fetch-Site": "same-origin"} | headers
        data: object = dict(fields or {})
        if is_multipart:
            told["Content-Type"] = "multipart/form-data; boundary=edge"
            data = io.BytesIO(_multipart(fields or {}))
        async with self.http.post(path, data=data, headers=told, allow_redirects=False) as answer:
            return await _page(answer)

    async def finish(self, page: Page) -> Page:
        """Wait until the job that an act started has ended; return its page."""
        assert page.location.startswith("/jobs/"), page.words
        name = page.location.removeprefix("/jobs/")
        async with asyncio.timeout(10):
            while (job := self.jobs.of(name)) is not None and job.ended_at_ms is None:
                await self.get(f"{page.location}?part=1")
        return await self.get(page.location)

    async def put(self, event: Mapping[str, Any] | bytes, state: State, reason: str, *, inbound: bool = False) -> int:
        """Have an event arrive and be settled; return its sequence."""
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        await stored(self.spool, [_envelope(payload, self.clock.wall_ms(), inbound=inbound)])
        route = RouteName.RUDDERSTACK_TO_COURIER if inbound else RouteName.COURIER_TO_RUDDERSTACK
        (lease,) = await leased(self.spool, route, fresh=1, retry=0, size=1)
        attempt = Attempt(
            at_ms=NOW_MS,
            duration_ms=3,
            operation="POST /v1/batch",
            status=400,
            outcome="refused",
            reason="x",
            answer=b"",
        )
        if state is State.DEAD:
            await settle(self.spool, [lease.sequence], State.DEAD, reason=reason, attempt=attempt)
        else:
            await settle(self.spool, [lease.sequence], state, reason=reason)
        return lease.sequence

    async def put_many(self, count: int, state: State, reason: str, **fields: object) -> None:
        """Have many inbound events arrive and be settled together."""
        events = [
            {"type": "track", "event": "E", "userId": f"u{n}", "messageId": f"m{n}", **fields} for n in range(count)
        ]
        await stored(
            self.spool, [_envelope(json.dumps(event).encode(), self.clock.wall_ms(), inbound=True) for event in events]
        )
        leases = await leased(self.spool, RouteName.RUDDERSTACK_TO_COURIER, fresh=count, retry=0, size=1_000_000_000)
        await settle(self.spool, [lease.sequence for lease in leases], state, reason=reason)

    async def states(self) -> dict[int, str]:
        """Return the state of every event, discarded ones marked with a star."""
        rows = (await self.spool.events(EventQuery(limit=10_000))).rows
        return {row.sequence: row.state.value + ("*" if row.is_discarded else "") for row in rows}

    async def audits(self) -> list[tuple[str, str]]:
        """Return what was written down, oldest first: act and detail."""
        return [(row.action, row.detail) for row in (await self.spool.audit(limit=100))[::-1]]


Start = Callable[..., Awaitable[Desk]]


def _multipart(fields: Mapping[str, str]) -> bytes:
    parts = (f'--edge\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items())
    return ("".join(parts) + "--edge--\r\n").encode()


async def _page(answer: aiohttp.ClientResponse) -> Page:
    page = Page(status=answer.status, html=await answer.text(), headers=answer.headers)
    if answer.content_type == "text/html" and "<html" in page.html:
        lowered = page.html.lower()
        assert lowered.count("<h1") == 1
        assert lowered.count("<script") == 1, "no script but the page's own"
        assert not [word for word in _NEVER_WITHIN_A_PAGE if re.search(rf"<[^>]*{re.escape(word)}", lowered)]
    return page


def _envelope(payload: bytes, now_ms: int, *, inbound: bool) -> Envelope:
    if not inbound:
        return courier_wire.envelope(payload, received_at_ms=now_ms, source="webhook")
    event = json.loads(payload)
    return rudderstack_wire.envelope(event, payload, received_at_ms=now_ms, source="v1", unique=lambda: payload)


@asynccontextmanager
async def _desk(*, token: str | None, mode: str, with_links: bool) -> AsyncIterator[Desk]:
    log: list[dict[str, object]] = []

    def keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        log.append(dict(line))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    clock, metrics, checked = HandClock(), Metrics(), Checked()
    reporter = Reporter(metrics, logger)
    spool = MemorySpool(limits=SpoolLimits(), clock=clock)
    rows = (
        {"variable": "FORWARDER_LISTEN", "value": "0.0.0.0:8080", "origin": "environment", "is_secret": False},
        {"variable": "FORWARDER_INBOUND_MODE", "value": mode, "origin": "default", "is_secret": False},
        {"variable": "COURIER_API_KEY", "value": "(set)", "origin": ".env", "is_secret": True},
    )
    desk = OperatorDesk(
        archive=spool,
        spool=spool,
        routes=(),
        metrics=metrics,
        reporter=reporter,
        clock=clock,
        version="1.2.3",
        started_at_ms=NOW_MS,
        settings_rows=rows,
        links=await LinkStore.load(spool, read_link_file(PINNED, file="links.toml")) if with_links else None,
    )
    sessions = Sessions(clock=clock)
    guard = OperatorGuard(token=token, own_hosts=frozenset(), sessions=sessions, public_paths=PUBLIC_PATHS)
    render = Renderer(clock=clock, version="1.2.3", can_log_out=guard.has_token)
    jobs = Jobs(clock=clock, reporter=reporter)
    acting = Acting(desk=desk, render=render, jobs=jobs, sessions=sessions, guard=guard, check=checked)
    routes = acting.routes()
    app = operator_app(
        (*api_routes(desk, also_described=described_forms()), *routes),
        guard=guard,
        reporter=reporter,
        clock=clock,
        denied=to_login,
    )
    app.on_shutdown.append(lambda _: jobs.close())
    listener = OperatorListener(app, host="127.0.0.1", port=0)
    running = asyncio.create_task(listener.run())
    await asyncio.wait_for(listener.started.wait(), 5)
    url = f"http://127.0.0.1:{listener.address[1]}"
    async with aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Desk(http, url, spool, clock, jobs, sessions, checked, routes, desk, log)
    await listener.drain()
    await asyncio.wait_for(running, 5)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Give tests a way to start the page; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def make(*, token: str | None = None, mode: str = "direct", with_links: bool = True) -> Desk:
            return await stack.enter_async_context(_desk(token=token, mode=mode, with_links=with_links))

        yield make
