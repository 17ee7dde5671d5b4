"""One table of replicas over one Postgres: what they take and deliver, and what an event costs daemon and database.

Everything but the load runs on one core, so that rates divide it; the processor time per event, of the daemons and of
all processes of Postgres, is what a larger machine is reckoned from. The model at the end says how.
"""

import http.client
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import load
from benchmarks.load import Answers, send
from benchmarks.rows import CONNECTIONS, Requests
from benchmarks.servers import INBOUND, LOAD_CORE, OUTBOUND, Daemon, Sink, daemon, pin_database, postgres_cpu_s, sink
from stand_ins.postgres_server import PROGRAMS, PostgresServer

REPLICAS: Final = (1, 2, 4)
# As one would run it: the rest as the server comes.
_OPTIONS: Final = ("shared_buffers=256MB", "max_wal_size=4GB", "max_connections=100", "wal_compression=off")
_CHUNK: Final = 50_000
_KEPT, _DELIVERED, _BULK = "webhook, kept", "webhook to delivered", "NDJSON of 100 to delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One row. Processor times are per event."""

    per_s: float
    daemon_us: float
    database_us: float
    wal_bytes: float  # per event
    commits: float  # per event
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    lost: int = 0
    twice: int = 0

    @property
    def cpu_us(self) -> float:
        """Return both processor times together."""
        return self.daemon_us + self.database_us


class Bench:
    """Replicas over one database with both destinations, and what all of them have used."""

    def __init__(self, database: PostgresServer, plane: Sink, replicas: Sequence[Daemon]) -> None:
        self.database = database
        self.plane = plane
        self.replicas = replicas
        self._sent = 0

    def pause(self, route: str) -> None:
        """Have no replica send anything of a route."""
        for one in self.replicas:
            one.pause(route)

    def resume(self, route: str) -> None:
        """Have them send again."""
        for one in self.replicas:
            one.resume(route)

    def fill(self, events: int, requests: Requests = load.ndjson) -> int:
        """Send so many, and return how many were accepted so far of the outbound route."""
        for first in range(0, events, _CHUNK):
            self._send(min(_CHUNK, events - first), requests)
        return self.accepted(at_least=0)

    def accepted(self, *, at_least: int, route: str = OUTBOUND) -> int:
        """Return how many events were accepted, once nothing comes in."""
        return self.replicas[0].accepted(route, at_least=at_least)

    def kept(self, events: int) -> Cost:
        """Measure what is taken while nothing is sent."""
        self.pause(OUTBOUND)
        return self._measured(lambda: self._send(events, load.webhooks), per_request=1)

    def delivered(self, events: int, requests: Requests, *, per_request: int) -> Cost:
        """Measure from the first request to the last arrival."""
        before = self.accepted(at_least=0)
        arrived = self.plane.count()["distinct"]

        def act() -> list[Answers]:
            answers = self._send(events, requests)
            taken = sum(one.answered for one in answers) * per_request
            self.plane.wait_for(int(arrived) + taken)
            return answers

        cost = self._measured(act, per_request=per_request, until_arrival=True)
        accepted = self.accepted(at_least=before) - before
        count = self.plane.wait_for(int(arrived) + accepted)
        lost = accepted - int(count["distinct"] - arrived)
        return _with(cost, lost=lost, twice=int(count["events"] - count["distinct"]))

    def drained(self, events: int) -> Cost:
        """Measure the delivery of a backlog."""
        self.pause(OUTBOUND)
        before = self.plane.count()["distinct"]
        accepted = self.fill(events)
        meter = self._meter()
        started_s = time.monotonic()
        self.resume(OUTBOUND)
        count = self.plane.wait_for(accepted)
        return meter(int(accepted - before), count["last_s"] - started_s, [])

    def lone_ms(self, events: int = 31) -> list[float]:
        """Return how long lone events took from their first byte to the data plane, each at another replica."""
        arrived = len(self.plane.times_s())
        sent_s: list[float] = []
        numbers = range(self._sent, self._sent + events)
        self._sent += events
        for number, request in zip(numbers, load.webhooks(numbers), strict=True):
            head, _, body = request.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            one = self.replicas[number % len(self.replicas)]
            connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
            connection.connect()
            sent_s.append(time.monotonic())
            connection.request("POST", "/webhooks/courier", body, headers)
            connection.getresponse().read()
            connection.close()
            self.plane.wait_for(arrived + len(sent_s), of="requests")
        return [(at_s - began_s) * 1e3 for began_s, at_s in zip(sent_s, self.plane.times_s()[arrived:], strict=True)]

    def inbound(self, events: int) -> Cost:
        """Measure calls of users of their own, one call to Courier each, a hundred events a request."""
        before = self.accepted(at_least=0, route=INBOUND)
        requests = self.plane.count()["requests"]
        meter, started_s = self._meter(), time.monotonic()
        answers = self._send(events, load.sdk_batches)
        taken = sum(one.answered for one in answers) * load.NDJSON_LINES
        accepted = self.accepted(at_least=before + taken, route=INBOUND) - before
        count = self.plane.wait_for(int(requests) + accepted, of="requests")
        return meter(accepted, count["last_s"] - started_s, answers)

    def _send(self, events: int, requests: Requests) -> list[Answers]:
        """Send so many in equal shares to all replicas at once."""
        share, first = events // len(self.replicas), self._sent
        share -= share % load.NDJSON_LINES  # or the last request would hold fewer
        self._sent += events
        with ThreadPoolExecutor(len(self.replicas)) as senders:
            return list(
                senders.map(
                    lambda n: send(
                        requests(range(first + n * share, first + (n + 1) * share)),
                        port=self.replicas[n].port,
                        connections=CONNECTIONS // len(self.replicas),
                        core=LOAD_CORE,
                    ),
                    range(len(self.replicas)),
                )
            )

    def _measured(self, act: Callable[[], list[Answers]], *, per_request: int, until_arrival: bool = False) -> Cost:
        meter = self._meter()
        answers = act()
        taken = sum(one.answered for one in answers) * per_request
        started_s = min(one.started_s for one in answers)
        if until_arrival:
            seconds = self.plane.count()["last_s"] - started_s
        else:
            seconds = max(one.started_s + one.seconds for one in answers) - started_s
        return meter(taken, seconds, answers)

    def _meter(self) -> Callable[[int, float, Sequence[Answers]], Cost]:
        daemons_s = sum(one.cpu_s() for one in self.replicas)
        database_s, wal, commits = postgres_cpu_s(self.database), *self._written()

        def read(events: int, seconds: float, answers: Sequence[Answers]) -> Cost:
            now_wal, now_commits = self._written()
            return Cost(
                per_s=events / seconds,
                daemon_us=(sum(one.cpu_s() for one in self.replicas) - daemons_s) / events * 1e6,
                database_us=(postgres_cpu_s(self.database) - database_s) / events * 1e6,
                wal_bytes=(now_wal - wal) / events,
                commits=(now_commits - commits) / events,
                p50_ms=max((one.p50_ms for one in answers), default=0.0),
                p99_ms=max((one.p99_ms for one in answers), default=0.0),
            )

        return read

    def _written(self) -> tuple[int, int]:
        found = self.database.ask(
            "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn, xact_commit FROM pg_stat_database WHERE datname = 'postgres'"
        )
        wal, commits = found.split("|")
        return int(wal), int(commits)


def _with(cost: Cost, *, lost: int, twice: int) -> Cost:
    return Cost(
        per_s=cost.per_s,
        daemon_us=cost.daemon_us,
        database_us=cost.database_us,
        wal_bytes=cost.wal_bytes,
        commits=cost.commits,
        p50_ms=cost.p50_ms,
        p99_ms=cost.p99_ms,
        lost=lost,
        twice=twice,
    )


@contextmanager
def bench(replicas: int) -> Iterator[Bench]:
    """Run so many over a database of their own."""
    with ExitStack() as stack:
        database = PostgresServer(options=_OPTIONS)
        stack.callback(database.remove)
        database.start()
        pin_database(database)
        plane = stack.enter_context(sink())
        settings = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": database.url()}
        yield Bench(database, plane, [stack.enter_context(daemon(plane.url, settings)) for _ in range(replicas)])


def table(events: int, rounds: int, say: Callable[[str], object]) -> dict[tuple[str, int], Cost]:
    """Measure and say each row; return the medians."""
    found: dict[tuple[str, int], Cost] = {}
    for replicas in REPLICAS:
        rows: dict[str, list[Cost]] = {}
        lone: list[float] = []
        for _ in range(rounds):
            with bench(replicas) as one:
                one.delivered(events // 10, load.webhooks, per_request=1)  # every plan is made once
                lone += one.lone_ms()
                rows.setdefault(_DELIVERED, []).append(one.delivered(events, load.webhooks, per_request=1))
                bulk = partial(one.delivered, 4 * events, load.ndjson, per_request=load.NDJSON_LINES)
                rows.setdefault(_BULK, []).append(bulk())
                rows.setdefault("inbound, one call an event", []).append(one.inbound(events))
                rows.setdefault(_KEPT, []).append(one.kept(events))
        for name, costs in rows.items():
            cost = found[name, replicas] = middle(costs)
            say(line(f"{replicas}: {name}", cost))
        say(f"{f'{replicas}: a lone event':36}{statistics.median(lone):9.0f} ms (median), {max(lone):.0f} ms at most\n")
    return found


def drains(sizes: Sequence[int], say: Callable[[str], object]) -> None:
    """Drain backlogs of these sizes, each by one replica and the largest by two."""
    for size, replicas in [*((size, 1) for size in sizes), *((size, 2) for size in sizes[-1:])]:
        with bench(replicas) as one:
            say(line(f"{replicas}: draining {size:,}", one.drained(size)))


def burdens(events: int, backlog: int, say: Callable[[str], object]) -> list[float]:
    """Measure what a backlog on the other route, and an old transaction, add to the cost of an event, as factors."""
    with bench(1) as one:

        def cost() -> Cost:
            return middle([one.delivered(events, load.ndjson, per_request=load.NDJSON_LINES) for _ in range(3)])

        cost()
        before = cost()
        say(line("nothing waits", before))
        one.pause(INBOUND)
        one.fill(backlog, load.sdk_batches)
        waiting = cost()
        say(line(f"{backlog:,} wait on the other route", waiting))
        with old_transaction(one.database):
            for _ in range(2):
                cost()
            held = cost()
        say(line("and an old transaction is open", held))
    return [waiting.cpu_us / before.cpu_us, held.cpu_us / waiting.cpu_us]


@contextmanager
def old_transaction(database: PostgresServer) -> Iterator[None]:
    """Hold a snapshot and a transaction's number for as long."""
    psql = subprocess.Popen(
        [str(PROGRAMS / "psql") if PROGRAMS else "psql", "-XAtq", database.url()], stdin=subprocess.PIPE, text=True
    )
    assert psql.stdin is not None
    psql.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT pg_current_xact_id() > '0';\n")
    psql.stdin.flush()
    try:
        yield
    finally:
        psql.stdin.close()
        psql.wait()


def model(found: dict[tuple[str, int], Cost], say: Callable[[str], object]) -> None:
    """Say what N replicas of one core each and a Postgres of M cores carry, by what was measured."""
    for name in (_DELIVERED, _BULK):
        cost = found[name, max(REPLICAS)]
        say(
            f"model, {name}: a replica carries {1e6 / cost.daemon_us:,.0f}/s a core, "
            f"Postgres {1e6 / cost.database_us:,.0f}/s a core and {cost.wal_bytes:,.0f} bytes of log an event: "
            f"one core of Postgres for {cost.daemon_us / cost.database_us:.1f} replicas\n"
        )


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the row whose processor time is in the middle, with everything lost or twice of all."""
    row = sorted(costs, key=lambda one: one.cpu_us)[len(costs) // 2]
    return _with(row, lost=sum(one.lost for one in costs), twice=sum(one.twice for one in costs))


def line(name: str, cost: Cost) -> str:
    """Return one row."""
    times = f"; p50 {cost.p50_ms:.0f}, p99 {cost.p99_ms:.0f} ms" if cost.p99_ms else ""
    return (
        f"{name:36}{cost.per_s:9,.0f}/s; µs an event: daemon {cost.daemon_us:5.0f}, Postgres {cost.database_us:5.0f}; "
        f"log {cost.wal_bytes:6,.0f} B, {cost.commits:.3f} commits{times}; lost {cost.lost}, twice {cost.twice}\n"
    )


def run(*, events: int, rounds: int, backlogs: Sequence[int], say: Callable[[str], object]) -> None:
    """Measure everything."""
    found = table(events, rounds, say)
    if backlogs:
        drains(backlogs, say)
        for name, factor in zip(("a backlog", "an old transaction"), burdens(events, max(backlogs), say), strict=True):
            say(f"{name} makes an event cost {factor:.2f} times as much (target ≤ 1.10)\n")
    model(found, say)
