"""A desk on fakes with behaviour, behind a real listener."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
import structlog

from forwarder.errors import NoSuchEvent, SpoolClosed, SpoolFull
from forwarder.flow.route import RouteStatus, ScopeStop
from forwarder.model import Attempt, Demand, Envelope, Labels, Lease, Receipt, RouteName, Settlement, State, Totals
from forwarder.operator.api import api_routes
from forwarder.operator.api_links import link_routes
from forwarder.operator.desk import LinkKeeper, OperatorDesk
from forwarder.operator.guard import OperatorGuard, SessionReader
from forwarder.operator.listener import OperatorListener, operator_app
from forwarder.ports import (
    AuditRow,
    EventDetail,
    EventPage,
    EventQuery,
    EventRow,
    EventTypeRow,
    ReasonGroup,
    SpoolFacts,
)
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
NOW_MS = 1_800_000_000_000


class StillClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def wall_ms(self) -> int:
        """Return a fixed moment."""
        return NOW_MS

    def monotonic_s(self) -> float:
        """Return the moment that the test set."""
        return self.now_s


class ListedSpool:
    """Archive and spool over a list of rows: what the operator does to them shows in what is listed."""

    def __init__(self) -> None:
        self.rows: dict[int, EventRow] = {}
        self.audits: list[AuditRow] = []
        self.everything: list[bool] = []  # what each replay asked for
        self.queries: list[EventQuery] = []
        self.is_closed = False
        self.failure: Exception | None = None
        self.payload: bytes | None = b'{"id":"m1"}'
        self.seen = EventTypeRow(route=ROUTE, type="track", event="E", count=1, first_at_ms=0, last_at_ms=NOW_MS)

    def add(self, sequence: int, state: State = State.DEAD, reason: str = "no id") -> None:
        """Add one event."""
        self.rows[sequence] = EventRow(
            sequence=sequence,
            route=ROUTE,
            state=state,
            labels=Labels(type="message:updated", event="Message Sent", message_id=f"m{sequence}", user_id="u1"),
            source="webhook",
            received_at_ms=NOW_MS - 1_000,
            settled_at_ms=None,
            attempts=2,
            reason=reason,
            not_before_ms=None,
            is_discarded=False,
            size_bytes=10,
        )

    async def facts(self) -> SpoolFacts:
        """Count the rows."""
        self._check()
        counts = {state: sum(row.state is state for row in self.rows.values()) for state in State}
        books = Totals(accepted=len(self.rows), **{state.value: counts[state] for state in State})
        return SpoolFacts(
            size_bytes=100,
            cap_bytes=1_000,
            unsettled_bytes={ROUTE: 10},
            totals={ROUTE: books},
            oldest_pending_ms={ROUTE: NOW_MS - 5_000},
            retrying={ROUTE: 1},
            corrupt_rows=0,
            is_accepting=True,
            refusal="",
            sqlite_version="3.51.3",
        )

    async def events(self, query: EventQuery) -> EventPage:
        """List by route, state, reason and sequence, as the query asks."""
        self._check()
        self.queries.append(query)
        found = [
            row
            for row in self.rows.values()
            if query.state in (None, row.state)
            and query.reason in (None, row.reason)
            and (query.after_sequence is None or row.sequence > query.after_sequence)
            and (query.before_sequence is None or row.sequence < query.before_sequence)
        ]
        found.sort(key=lambda row: row.sequence, reverse=query.after_sequence is None)
        shown = found[: query.limit]
        more = shown[-1].sequence if len(found) > query.limit else None
        return EventPage(rows=tuple(shown), next_before=more, is_cut=False)

    async def event(self, sequence: int) -> EventDetail:
        """Return one row with a payload and an attempt."""
        self._check()
        if sequence not in self.rows:
            raise NoSuchEvent(f"no event {sequence}")
        attempt = Attempt(
            at_ms=NOW_MS,
            duration_ms=3,
            operation="POST /v1/batch",
            status=400,
            outcome="refused",
            reason="x",
            answer=b"\xff",
        )
        return EventDetail(
            row=self.rows[sequence], event_key=b"\x01", payload=self.payload, progress=b"", attempts=(attempt,)
        )

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """Return one type."""
        del route, limit
        return [self.seen]

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Return one group."""
        del route, limit
        return [ReasonGroup(reason=f"{state.value} reason", count=1, sample_sequence=1, last_at_ms=NOW_MS)]

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """Return what was written, newest first."""
        return self.audits[::-1][:limit]

    async def write_audit(self, row: AuditRow) -> None:
        """Keep a line."""
        self.audits.append(row)

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False) -> int:
        """Make settled rows pending."""
        self.everything.append(everything)
        self._check()
        moved = [s for s in sequences if s in self.rows and self.rows[s].state is not State.PENDING]
        for sequence in moved:
            self.rows[sequence] = replace(self.rows[sequence], state=State.PENDING, attempts=0, reason="")
        return len(moved)

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead rows."""
        moved = [s for s in sequences if s in self.rows and self.rows[s].state is State.DEAD]
        for sequence in moved:
            self.rows[sequence] = replace(self.rows[sequence], is_discarded=True)
        return len(moved)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.is_closed:
            raise SpoolClosed("the spool is shut")

    # The rest of the spool is no business of the operator's.

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Take nothing."""
        del on_commit
        on_rollback(SpoolClosed(f"{len(envelopes)} not taken"))

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease nothing."""
        del route, demand
        return ()

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lend nothing."""
        del route
        return None

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Wake nobody."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle nothing."""

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Not needed here."""

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep nothing."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep nothing."""

    async def get(self, key: str) -> bytes | None:
        """Know nothing."""
        del key
        return None

    async def close(self) -> None:
        """Close."""
        self.is_closed = True


class SwitchedRoute:
    """A route that can be paused and resumed, and is held."""

    name = ROUTE.value

    def __init__(self) -> None:
        self.state = "held"
        self.by: list[str] = []

    def status(self) -> RouteStatus:
        """Return the state with one stop of the route and one of a family."""
        stop = ScopeStop(scope="route", state="held", reason="401", since_ms=NOW_MS, next_try_ms=NOW_MS + 30_000)
        return RouteStatus(
            name=ROUTE,
            state=self.state,
            since_ms=NOW_MS,
            reason="401",
            stop=stop,
            families=(replace(stop, scope="lists"),),
            in_flight=1,
            in_hand=2,
            concurrency_limit=4,
        )

    async def pause(self, *, who: str) -> None:
        """Pause."""
        self.state = "paused"
        self.by.append(who)

    async def resume(self, *, who: str) -> None:
        """Resume."""
        self.state = "running"
        self.by.append(who)


@dataclass
class Operated:
    """A running listener with everything a test looks at."""

    http: aiohttp.ClientSession
    spool: ListedSpool
    route: SwitchedRoute
    clock: StillClock
    metrics: Metrics
    log: list[dict[str, object]] = field(default_factory=list)


Operate = Callable[..., "asyncio.Future[Operated]"]


@asynccontextmanager
async def operated(
    *,
    token: str | None = None,
    sessions: SessionReader | None = None,
    public_paths: tuple[str, ...] = (),
    links: LinkKeeper | None = None,
) -> AsyncIterator[Operated]:
    """Run a listener on loopback and a client that speaks to it."""
    log: list[dict[str, object]] = []

    def keep(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        log.append(dict(line))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    spool, route, clock, metrics = ListedSpool(), SwitchedRoute(), StillClock(), Metrics()
    reporter = Reporter(metrics, logger)
    desk = OperatorDesk(
        archive=spool,
        spool=spool,
        routes=(route,),
        metrics=metrics,
        reporter=reporter,
        clock=clock,
        version="1.2.3",
        started_at_ms=NOW_MS - 60_000,
        settings_rows=({"variable": "FORWARDER_LISTEN", "value": "x", "origin": "default", "is_secret": False},),
        links=links,
    )
    guard = OperatorGuard(
        token=token, own_hosts=frozenset({"bridge.internal"}), sessions=sessions, public_paths=public_paths
    )
    app = operator_app((*api_routes(desk), *link_routes(desk)), guard=guard, reporter=reporter, clock=clock)
    listener = OperatorListener(app, host="127.0.0.1", port=0)
    running = asyncio.create_task(listener.run())
    await asyncio.wait_for(listener.started.wait(), 5)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.address[1]}") as http:
        yield Operated(http=http, spool=spool, route=route, clock=clock, metrics=metrics, log=log)
    await listener.drain()
    await asyncio.wait_for(running, 5)


@pytest.fixture
async def operate() -> AsyncIterator[Callable[..., object]]:
    """Give tests a way to start a listener with the guard they need; all are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            *,
            token: str | None = None,
            sessions: SessionReader | None = None,
            public_paths: tuple[str, ...] = (),
            links: LinkKeeper | None = None,
        ) -> Operated:
            return await stack.enter_async_context(
                operated(token=token, sessions=sessions, public_paths=public_paths, links=links)
            )

        yield start
