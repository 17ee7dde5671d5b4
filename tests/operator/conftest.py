"""The operator's side over a spool in memory, behind a real listener; a person's browser is a client with cookies.

With replicas there are several of it over one Postgres, and each request meets the next; the daemons' routes, which the
test moves, and the clock are one.
"""

import asyncio
import io
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from forwarder.archive_port import EventQuery
from forwarder.courier import wire as courier_wire
from forwarder.courier.catalogue import Catalogue
from forwarder.delivery.route_status import Pause, RouteStatus, ScopeStop
from forwarder.mapping.link_file import read_link_file
from forwarder.mapping.link_store import LinkStore
from forwarder.model import Attempt, Envelope, Labels, Lease, RouteName, State
from forwarder.operator.acts import Acts
from forwarder.operator.api import Api, described
from forwarder.operator.checks import Finding
from forwarder.operator.explain import Explain
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.incidents.keeper import STORE_KEY, Incidents
from forwarder.operator.operation import Operation
from forwarder.operator.pages.bulk import Job, Jobs
from forwarder.operator.pages.login import PUBLIC_PATHS
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.site import Site, static_routes
from forwarder.operator.parts import Parts
from forwarder.operator.people import People
from forwarder.operator.searching import Searches
from forwarder.operator.serving import OperatorListener, operator_app
from forwarder.rudderstack import wire as rudderstack_wire
from forwarder.settings.operators import named_token, user_header
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import Rates
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.gate import Gate
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import give_back, leased, settle, stored
from stand_ins.waiting import wait_until

NOW_MS = 1_800_000_000_000
OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
PINNED = '[[link]]\nevent = "Pinned Checkout"\ntarget = "checkout-flow"\n'
_NEVER_IN_A_PAGE = ("style=", "onclick=", "onload=", "onerror=", "javascript:", "<style", 'src="http')
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')


class SetRoute:
    """A route whose state a test sets, and that remembers who moved it."""

    def __init__(self, name: RouteName) -> None:
        self.name = name.value
        self.state = "running"
        self.reason = ""
        self.stop: ScopeStop | None = None
        self.families: tuple[ScopeStop, ...] = ()
        self.paused: Pause | None = None
        self.moved_by: list[str] = []

    def hold(self, reason: str) -> None:
        """Stand still with this reason."""
        self.state, self.reason = "held", reason
        self.stop = ScopeStop(
            scope="route", state="held", reason=reason, since_ms=NOW_MS - 5_000, next_try_ms=NOW_MS + 30_000
        )

    def status(self) -> RouteStatus:
        """Return what was set."""
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
            pause=self.paused,
        )

    async def pause(self, *, who: str, reason: str = "", until_ms: int | None = None) -> None:
        """Pause."""
        self.state, self.reason = "paused", reason
        self.paused = Pause(who=who, reason=reason, since_ms=NOW_MS, until_ms=until_ms)
        self.moved_by.append(who)

    async def resume(self, *, who: str) -> None:
        """Resume."""
        self.state, self.reason, self.paused = "running", "", None
        self.moved_by.append(who)


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
        parser.feed(re.sub(r"</?[bius](?: [^>]*)?>", "", self.html))  # JSON's colours cut no word in two
        return " ".join(" ".join(parser.texts).split())

    def forms(self, action: str) -> list[dict[str, str]]:
        """Return the hidden fields of every form that posts there."""
        found = re.findall(rf'<form[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', self.html, re.DOTALL)
        return [{unescape(name): unescape(value) for name, value in _HIDDEN.findall(form)} for form in found]


TestSpool = MemorySpool | PostgresSpool


@dataclass(frozen=True, kw_only=True)
class Side:
    """One replica's operator's side: its parts, what is made of them, and the application."""

    parts: Parts
    acts: Acts
    jobs: Jobs
    rates: Rates
    incidents: Incidents
    people: People
    operations: Sequence[Operation]
    app: web.Application


@dataclass(kw_only=True)
class World:
    """A running listener with everything that a test looks at; of several replicas the first one's."""

    http: aiohttp.ClientSession
    url: str
    spool: TestSpool
    spools: Sequence[TestSpool]
    own: Mapping[str, Side]  # each side by its own address
    clock: HandClock
    parts: Parts
    acts: Acts
    jobs: Jobs
    rates: Rates
    incidents: Incidents
    metrics: Metrics
    people: People
    checked: Checked
    routes: Mapping[RouteName, SetRoute]
    operations: Sequence[Operation]
    log: list[dict[str, object]]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _turns: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the first replica."""
        self._turns = itertools.cycle(self.own)

    # --- looking and acting ---

    async def get(self, path: str, **headers: str) -> Page:
        """Look at a page as a browser does."""
        headers = {"Accept": "text/html"} | headers
        async with self.http.get(self._at(path) + path, headers=headers, allow_redirects=False) as answer:
            return await _page(answer)

    async def page(self, path: str, *, status: int = 200) -> str:
        """Return a page's markup."""
        page = await self.get(path)
        assert page.status == status, page.words
        return page.html

    async def post(
        self, path: str, fields: Mapping[str, str] | None = None, *, is_multipart: bool = False, **headers: str
    ) -> Page:
        """Send a form as a browser does."""
        sent = {"Accept": "text/html", "Origin": self.url, "Sec-Fetch-Site": "same-origin"} | headers
        data: object = dict(fields or {})
        if is_multipart:
            sent["Content-Type"] = "multipart/form-data; boundary=edge"
            data = io.BytesIO(_multipart(fields or {}))
        async with self.http.post(path, data=data, headers=sent, allow_redirects=False) as answer:
            page = await _page(answer)
        await self.share()
        return page

    async def api(self, path: str, body: object = None, *, status: int = 200, **headers: str) -> Any:
        """Ask the API, or with a body make a change; return the JSON."""
        method = "GET" if body is None else "POST"
        async with self.http.request(method, path, json=body, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == status, said
        if method == "POST":
            await self.share()
        return said

    async def finish(self, page: Page) -> Page:
        """Wait until the job that an act started has ended; return its page."""
        assert page.location.startswith("/jobs/"), page.words
        async with asyncio.timeout(60):
            while (job := self.job(page.location)) is not None and job.ended_at_ms is None:
                self.clock.now_ms += 1_000
                await self.get(page.location)
        return await self.get(page.location)

    def job(self, path: str) -> Job | None:
        """Return the job of this page, at whichever replica it runs."""
        found = (side.jobs.of(path.removeprefix("/jobs/")) for side in self.own.values())
        return next((job for job in found if job is not None), None)

    def _at(self, path: str) -> str:
        """Return the address of the replica that alone knows this page: a job's is shown where it began."""
        name = path.removeprefix("/jobs/")
        return next((url for url, side in self.own.items() if side.jobs.of(name) is not None), "")

    def next_url(self) -> str:
        """Return the address of the next replica, for who must come from an address of his own."""
        return next(self._turns)

    async def share(self) -> None:
        """Have each replica hear what the others changed, as it does within a second by itself."""
        for spool in self.spools:
            if isinstance(spool, PostgresSpool):
                await spool._kept.look()  # noqa: SLF001 - to wait a second after each act takes too long

    # --- what happens to the spools ---

    async def look(self) -> None:
        """Look for incidents, as one replica does for all."""
        await self.incidents.look()
        await self.share()

    def replace(self, **methods: Any) -> None:
        """Have every replica's spool do these instead."""
        for spool in self.spools:
            for name, method in methods.items():
                setattr(spool, name, method)

    async def shut(self) -> None:
        """Close every replica's spool."""
        for spool in self.spools:
            await spool.close()

    # --- what happens to events ---

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
        """Let one event with these labels arrive, and settle it as told; return its sequence."""
        number = next(self._numbers)
        envelope = Envelope(
            route=route,
            event_key=number.to_bytes(16, "big"),
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
        await self._settle(route, sequence, state, reason=reason, attempt=attempt, progress=progress)
        return sequence

    async def put(
        self, event: Mapping[str, Any] | bytes, state: State, reason: str = "", *, inbound: bool = False
    ) -> int:
        """Have an event of a vendor's own form arrive and be settled; return its sequence."""
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        await stored(self.spool, [_envelope(payload, self.clock.wall_ms(), inbound=inbound)])
        sequence = (await self.newest())[0]
        attempt = an_attempt(status=400, outcome="refused") if state is State.DEAD else None
        await self._settle(INBOUND if inbound else OUTBOUND, sequence, state, reason=reason, attempt=attempt)
        return sequence

    async def put_many(self, count: int, state: State, reason: str, **fields: object) -> None:
        """Have many inbound events arrive and be settled together."""
        events = [
            {"type": "track", "event": "E", "userId": f"u{n}", "messageId": f"m{n}", **fields} for n in range(count)
        ]
        made = [_envelope(json.dumps(event).encode(), self.clock.wall_ms(), inbound=True) for event in events]
        await stored(self.spool, made)
        settled = 0

        async def are_settled() -> bool:
            nonlocal settled
            settled += await self.deliver(INBOUND, state, reason)
            return settled >= count

        await wait_until(are_settled)

    async def deliver(self, route: RouteName = OUTBOUND, state: State = State.DELIVERED, reason: str = "") -> int:
        """Settle everything that is due on a route; return how many that were."""
        settled = 0
        for spool in self.spools:
            leases = await leased(spool, route, fresh=1_000, retry=1_000, size=10**9)
            await settle(spool, [lease.sequence for lease in leases], state, reason=reason)
            settled += len(leases)
        return settled

    async def lease(self, route: RouteName, sequence: int) -> tuple[TestSpool, Lease]:
        """Lease one event at the replica that may, as soon as one may."""
        async with asyncio.timeout(60):
            while True:
                for spool in self.spools:
                    leases = {one.sequence: one for one in await leased(spool, route, fresh=500, size=10**9)}
                    found = leases.pop(sequence, None)
                    if leases:
                        await give_back(spool, list(leases), counts=False)
                    if found is not None:
                        return spool, found
                await asyncio.sleep(0.01)

    async def _settle(
        self,
        route: RouteName,
        sequence: int,
        state: State,
        *,
        reason: str,
        attempt: Attempt | None,
        progress: bytes = b"",
    ) -> None:
        spool, _ = await self.lease(route, sequence)
        if progress:
            await spool.note(sequence, progress)
        if state is State.PENDING:
            await give_back(spool, [sequence], self.clock.now_ms + 60_000, reason=reason, attempt=attempt)
        else:
            await settle(spool, [sequence], state, reason=reason, attempt=attempt)

    # --- what is there ---

    async def newest(self) -> list[int]:
        """Return the sequences in the spool, newest first."""
        return [row.sequence for row in (await self.spool.events(EventQuery(limit=10_000))).rows]

    async def states(self) -> dict[int, str]:
        """Return the state of every event, discarded ones marked with a star."""
        rows = (await self.spool.events(EventQuery(limit=10_000))).rows
        return {row.sequence: row.state.value + ("*" if row.is_discarded else "") for row in rows}

    async def audits(self) -> list[tuple[str, str]]:
        """Return what was written down, oldest first: act and detail."""
        return [(row.action, row.detail) for row in (await self.spool.audit(limit=100))[::-1]]

    async def acts_told(self) -> list[tuple[str, str, int | None, str]]:
        """Return the same with the count and what came of it."""
        rows = (await self.spool.audit(limit=100))[::-1]
        return [(row.action, row.detail, row.count, row.outcome) for row in rows]


def an_attempt(*, status: int | None = 200, outcome: str = "delivered", answer: bytes = b"") -> Attempt:
    """Return one exchange."""
    return Attempt(
        at_ms=NOW_MS,
        duration_ms=3,
        operation="POST /v1/batch",
        status=status,
        outcome=outcome,
        reason="x" if outcome != "delivered" else "",
        answer=answer,
    )


def _multipart(fields: Mapping[str, str]) -> bytes:
    parts = (f'--edge\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items())
    return ("".join(parts) + "--edge--\r\n").encode()


async def _page(answer: aiohttp.ClientResponse) -> Page:
    """Read an answer, and hold a page to what holds for every page: nothing inline, nothing from outside."""
    page = Page(status=answer.status, html=await answer.text(errors="replace"), headers=answer.headers)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    if answer.content_type == "text/html" and "<html" in page.html:
        lowered = page.html.lower()
        assert lowered.count("<h1") == 1
        assert lowered.count("<script") == lowered.count('<script src="/static/page.js"') == 1
        assert not [word for word in _NEVER_IN_A_PAGE if re.search(rf"<[^>]*{re.escape(word)}", lowered)]
    return page


def _envelope(payload: bytes, now_ms: int, *, inbound: bool) -> Envelope:
    if not inbound:
        return courier_wire.envelope(payload, received_at_ms=now_ms, source="webhook")
    event = json.loads(payload)
    return rudderstack_wire.envelope(event, payload, received_at_ms=now_ms, source="v1", unique=lambda: payload)


async def _parts(
    spool: TestSpool,
    clock: HandClock,
    routes: Sequence[SetRoute],
    *,
    mode: str,
    explain: Mapping[RouteName, Explain],
    reporter: Reporter,
) -> Parts:
    return Parts(
        archive=spool,
        spool=spool,
        links=await LinkStore.load(spool, read_link_file(PINNED, file="links.toml")),
        routes=routes,
        metrics=reporter.metrics,
        reporter=reporter,
        clock=clock,
        settings_rows=(
            {"variable": "FORWARDER_LISTEN", "value": "0.0.0.0:8080", "origin": "environment", "is_secret": False},
            {"variable": "FORWARDER_INBOUND_MODE", "value": mode, "origin": "default", "is_secret": False},
            {"variable": "COURIER_API_KEY", "value": "(set)", "origin": ".env", "is_secret": True},
        ),
        explain=explain,
    )


def _guard(people: People, proxy: str) -> OperatorGuard:
    header = user_header(proxy) if proxy else None
    own_hosts = frozenset({"bridge.internal"})
    return OperatorGuard(people=people, own_hosts=own_hosts, user_header=header, public_paths=PUBLIC_PATHS)


def _side(parts: Parts, people: People, *, proxy: str, catalogue: Catalogue | None, checked: Checked) -> Side:
    guard = _guard(people, proxy)
    acts = Acts(parts=parts, catalogue=catalogue or Catalogue(None, parts.clock), look_every_s=0.001)
    jobs, searches = Jobs(parts, look_every_s=0.001), Searches(parts)
    rates, incidents = Rates(metrics=parts.metrics, clock=parts.clock), Incidents(parts)
    site = Site(
        acts=acts,
        render=Renderer(parts),
        jobs=jobs,
        searches=searches,
        rates=rates,
        incidents=incidents,
        guard=guard,
        people=people,
        check=checked,
    )
    operations = (*Api(acts=acts, incidents=incidents).operations(), *site.operations())
    routes_served = [one.route() for one in (*operations, described(operations))]
    app = operator_app((*static_routes(), *routes_served), guard=guard, parts=parts, told=site.told)
    app.on_shutdown.extend((lambda _: jobs.close(), lambda _: searches.close()))
    app.on_cleanup.append(lambda _: acts.close())
    return Side(
        parts=parts,
        acts=acts,
        jobs=jobs,
        rates=rates,
        incidents=incidents,
        people=people,
        operations=operations,
        app=app,
    )


@asynccontextmanager
async def _spools(
    database: str | None, clock: HandClock, reporters: Sequence[Reporter]
) -> AsyncIterator[Sequence[TestSpool]]:
    """Give a spool in memory, or where there is a database one of each replica on it."""
    if database is None:
        yield [MemorySpool(limits=SpoolLimits(), clock=clock)]
        return
    limits, made = SpoolLimits(), list[PostgresSpool]()
    try:
        for reporter in reporters:
            made.append(await PostgresSpool.open(lambda: database, limits=limits, clock=clock, reporter=reporter))
        yield made
    finally:
        for spool in made:
            await spool.close()


@asynccontextmanager
async def _world(
    *,
    database: str | None,
    replicas: int,
    token: str | None,
    named: Sequence[str],
    proxy: str,
    mode: str,
    running: Sequence[RouteName],
    explain: Mapping[RouteName, Explain],
    catalogue: Catalogue | None,
) -> AsyncIterator[World]:
    log: list[dict[str, object]] = []

    def keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        log.append(dict(line))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    routes, checked, clock = {name: SetRoute(name) for name in running}, Checked(), HandClock(NOW_MS)
    reporters = [Reporter(Metrics(), logger) for _ in range(replicas)]
    async with AsyncExitStack() as stack:
        spools = await stack.enter_async_context(_spools(database, clock, reporters))
        own: dict[str, Side] = {}
        for spool, reporter in zip(spools, reporters, strict=True):
            parts = await _parts(spool, clock, tuple(routes.values()), mode=mode, explain=explain, reporter=reporter)
            memory = None if database is None else spool
            people = People(clock=clock, memory=memory, shared=token, named=[named_token(one) for one in named])
            side = _side(parts, people, proxy=proxy, catalogue=catalogue, checked=checked)
            spool.watch(STORE_KEY, side.incidents._hear)  # noqa: SLF001 - as its worker does, which does not run here
            own[await stack.enter_async_context(_served(side.app))] = side
        url, http = await stack.enter_async_context(_browser(list(own)))
        first = next(iter(own.values()))
        yield World(
            http=http,
            url=url,
            spool=spools[0],
            spools=spools,
            own=own,
            clock=clock,
            parts=first.parts,
            acts=first.acts,
            jobs=first.jobs,
            rates=first.rates,
            incidents=first.incidents,
            metrics=first.parts.metrics,
            people=first.people,
            checked=checked,
            routes=routes,
            operations=first.operations,
            log=log,
        )


@asynccontextmanager
async def _browser(addresses: Sequence[str]) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Give a browser's client, and the address at which each of its requests meets the next of these."""
    turns = itertools.cycle([int(address.rpartition(":")[2]) for address in addresses])
    is_one, url = len(addresses) == 1, addresses[0]
    async with AsyncExitStack() as stack:
        if not is_one:
            gate = await stack.enter_async_context(Gate(lambda: next(turns)))
            url = f"http://127.0.0.1:{gate.port}"
        jar, connector = aiohttp.CookieJar(unsafe=True), aiohttp.TCPConnector(force_close=not is_one)
        yield url, await stack.enter_async_context(aiohttp.ClientSession(url, cookie_jar=jar, connector=connector))


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[str]:
    """Serve it on loopback; give its address."""
    listener = OperatorListener(app, host="127.0.0.1", port=0)
    task = asyncio.create_task(listener.run())
    await asyncio.wait_for(listener.started.wait(), 60)
    yield f"http://127.0.0.1:{listener.address[1]}"
    await listener.drain()
    await asyncio.wait_for(task, 60)


Start = Callable[..., Awaitable[World]]


@pytest.fixture
async def start(daemon_database: Callable[[], str] | None, replicas: int) -> AsyncIterator[Start]:
    """Give tests a way to start the listener, or two replicas of it on a database; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            token: str | None = None,
            named: Sequence[str] = (),
            proxy: str = "",
            mode: str = "direct",
            running: Sequence[RouteName] = (OUTBOUND, INBOUND),
            explain: Mapping[RouteName, Explain] | None = None,
            catalogue: Catalogue | None = None,
            pair_on: str | None = None,
        ) -> World:
            database = pair_on if daemon_database is None else daemon_database()
            made = _world(
                database=database,
                replicas=replicas if pair_on is None else 2,
                token=token,
                named=named,
                proxy=proxy,
                mode=mode,
                running=running,
                explain=dict(explain or {}),
                catalogue=catalogue,
            )
            return await stack.enter_async_context(made)

        yield make


@pytest.fixture
async def world(start: Start) -> World:
    """Return a listener with both routes and nothing in the spool."""
    return await start()
