"""The operator's page over a real spool, behind a real listener."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import structlog

from forwarder.flow.route import RouteStatus, ScopeStop
from forwarder.mapping.event_time import stated_time_ms
from forwarder.model import Attempt, Envelope, Labels, RouteName, State
from forwarder.operator.api import api_routes
from forwarder.operator.desk import OperatorDesk
from forwarder.operator.explain import Explain
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.listener import OperatorListener, operator_app
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.routes import make_page
from forwarder.operator.pages.stream import Stream
from forwarder.operator.sessions import Sessions
from forwarder.ports import EventQuery
from forwarder.spool.appending import stored
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import Rates
from forwarder.telemetry.reporter import Reporter
from stand_ins.spool_acts import give_back, leased, settle

NOW_MS = 1_800_000_000_000
OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK
INBOUND = RouteName.RUDDERSTACK_TO_COURIER


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def wall_ms(self) -> int:
        """Return the time it was set to."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """Return the same in seconds."""
        return self.now_ms / 1000


class ToldRoute:
    """A route whose state a test says, and that remembers who moved it."""

    def __init__(self, name: RouteName) -> None:
        self.name = name.value
        self.state = "running"
        self.reason = ""
        self.stop: ScopeStop | None = None
        self.families: tuple[ScopeStop, ...] = ()
        self.moved_by: list[str] = []

    def hold(self, reason: str) -> None:
        """Stand still with this reason."""
        self.state, self.reason = "held", reason
        self.stop = ScopeStop(
            scope="route", state="held", reason=reason, since_ms=NOW_MS - 5_000, next_try_ms=NOW_MS + 30_000
        )

    def status(self) -> RouteStatus:
        """Return what was said."""
        return RouteStatus(
            name=RouteName(self.name),
            state=self.state,
            since_ms=NOW_MS - 5_000,
            reason=self.reason,
            stop=self.stop,
            families=self.families,
            in_flight=1,
            in_hand=2,
            concurrency_limit=4,
        )

    async def pause(self, *, who: str) -> None:
        """Pause."""
        self.state = "paused"
        self.moved_by.append(who)

    async def resume(self, *, who: str) -> None:
        """Resume."""
        self.state = "running"
        self.moved_by.append(who)


@dataclass(kw_only=True)
class World:
    """A page to look at, and what is behind it."""

    http: aiohttp.ClientSession
    spool: SqliteSpool
    clock: HandClock
    desk: OperatorDesk
    metrics: Metrics
    rates: Rates
    stream: Stream
    routes: Mapping[RouteName, ToldRoute]
    log: list[dict[str, object]]
    sessions: Sessions
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def arrive(
        self,
        payload: bytes | None = None,
        *,
        route: RouteName = OUTBOUND,
        event: str = "Message Sent",
        user: str = "u1",
        message: str = "m1",
        state: State = State.PENDING,
        reason: str = "",
        attempt: Attempt | None = None,
        progress: bytes = b"",
        source: str = "webhook",
    ) -> int:
        """Let one event arrive, and settle it as told; return its sequence."""
        number = next(self._numbers)
        envelope = Envelope(
            route=route,
            event_key=number.to_bytes(16),
            partition_key="",
            received_at_ms=self.clock.now_ms,
            payload=payload if payload is not None else json.dumps({"number": number}).encode(),
            source=source,
            labels=Labels(type="message:updated", event=event, message_id=message, user_id=user),
        )
        await stored(self.spool, [envelope])
        sequence = (await self.newest())[0]
        if state is State.PENDING and attempt is None and not progress:
            return sequence
        lease = await self._lend(route, sequence)
        if progress:
            await self.spool.note(lease, progress)
        if state is State.PENDING:
            await give_back(self.spool, [lease], self.clock.now_ms + 60_000, reason=reason, attempt=attempt)
        elif state is State.DEAD:
            await settle(self.spool, [lease], State.DEAD, reason=reason, attempt=attempt)
        else:
            await settle(self.spool, [lease], state, reason=reason, attempt=attempt)
        return sequence

    async def newest(self) -> list[int]:
        """Return the sequences in the spool, newest first."""
        return [row.sequence for row in (await self.spool.events(EventQuery(limit=500))).rows]

    async def _lend(self, route: RouteName, sequence: int) -> int:
        """Borrow until the wanted one is lent; the others are given back."""
        async with asyncio.timeout(5):
            while True:
                leases = await leased(self.spool, route, fresh=500, retry=0, size=10**9)
                others = [lease.sequence for lease in leases if lease.sequence != sequence]
                if others:
                    await give_back(self.spool, others, 0, counts=False)
                if len(others) < len(leases):
                    return sequence

    async def page(self, path: str, *, status: int = 200) -> str:
        """Return a page's text after the checks that hold for every page."""
        async with self.http.get(path) as answer:
            text = await answer.text()
            assert answer.status == status, text
            assert answer.content_type == "text/html"
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert_strict(text)
        return text


def assert_strict(text: str) -> None:
    """Hold a page to the policy: nothing inline, nothing from outside, one heading of the first rank."""
    lowered = text.lower()
    for forbidden in ("style=", "onclick=", "onload=", "onerror=", "javascript:", "<style", 'src="http'):
        assert forbidden not in lowered
    assert lowered.count("<script") == lowered.count('<script src="/static/page.js"')
    assert lowered.count("<h1") == 1


Build = Callable[..., Awaitable[World]]


@asynccontextmanager
async def looked_at(
    folder: Path,
    *,
    explain: Mapping[RouteName, Explain],
    running: tuple[RouteName, ...],
    tick_s: float,
    token: str | None = None,
) -> AsyncIterator[World]:
    """Run the page over a new spool."""
    log: list[dict[str, object]] = []

    def keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        log.append(dict(line))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    clock, metrics = HandClock(), Metrics()
    reporter = Reporter(metrics, logger)
    limits = SpoolLimits(bytes_max=2**30, retention_s=604_800)
    spool = await SqliteSpool.open(folder, limits=limits, clock=clock, reporter=reporter)
    routes = {name: ToldRoute(name) for name in running}
    desk = OperatorDesk(
        archive=spool,
        spool=spool,
        routes=tuple(routes.values()),
        metrics=metrics,
        reporter=reporter,
        clock=clock,
        version="1.2.3",
        started_at_ms=NOW_MS - 60_000,
        settings_rows=({"variable": "FORWARDER_LISTEN", "value": "0.0.0.0:8080", "origin": "x", "is_secret": False},),
        explain=explain,
        time_of={OUTBOUND: stated_time_ms},
    )
    sessions = Sessions(clock=clock)
    render = Renderer(clock=clock, version="1.2.3")
    rates = Rates(metrics=metrics, clock=clock)
    guard = OperatorGuard(token=token, own_hosts=frozenset(), sessions=sessions)
    pages, stream = make_page(desk, render, rates, guard=guard, tick_s=tick_s)
    app = operator_app((*api_routes(desk), *pages), guard=guard, reporter=reporter, clock=clock)
    listener = OperatorListener(app, host="127.0.0.1", port=0)
    running_tasks = [asyncio.create_task(listener.run()), asyncio.create_task(stream.run())]
    await asyncio.wait_for(listener.started.wait(), 5)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.address[1]}") as http:
        yield World(
            http=http,
            spool=spool,
            clock=clock,
            desk=desk,
            metrics=metrics,
            rates=rates,
            stream=stream,
            routes=routes,
            log=log,
            sessions=sessions,
        )
    await stream.drain()
    await listener.drain()
    await asyncio.wait_for(asyncio.gather(*running_tasks), 5)
    await spool.close()


@pytest.fixture
async def look(tmp_path: Path) -> AsyncIterator[Build]:
    """Give tests a way to put the page over a spool; it is taken down at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            *,
            explain: Mapping[RouteName, Explain] | None = None,
            running: tuple[RouteName, ...] = (OUTBOUND, INBOUND),
            tick_s: float = 0.05,
            token: str | None = None,
        ) -> World:
            return await stack.enter_async_context(
                looked_at(tmp_path / "data", explain=explain or {}, running=running, tick_s=tick_s, token=token)
            )

        yield start


@pytest.fixture
async def world(look: Build) -> World:
    """Return a page with both routes and nothing in the spool."""
    return await look()
