"""A data folder with a few events in it, a daemon's operator listener on it, and a shell to type in.

With replicas it is a database instead, and each connection to the listener meets the next of them.
"""

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from forwarder.cli.command import cli
from forwarder.clock import SystemClock
from forwarder.mapping.link_store import LinkStore
from forwarder.model import Envelope, Labels, RouteName, State
from forwarder.operator.assembly import api_alone
from forwarder.operator.parts import Parts
from forwarder.operator.people import People
from forwarder.operator.serving import OperatorListener
from forwarder.settings.sources import PREFIXES
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.totals_by_time import TotalsByTime
from stand_ins.gate import Gate
from stand_ins.spool_acts import leased, settle, stored

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
_NOBODY_LISTENS = "127.0.0.1:1"


def _reporter() -> Reporter:
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(50)
    )
    return Reporter(Metrics(), log)


class HurriedClock(SystemClock):
    """A clock on a machine so slow that a second passes between any two looks at it."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic_s(self) -> float:
        """Return a second more than the last time."""
        self._looks += 1
        return super().monotonic_s() + self._looks


async def _open(place: Path | str, clock: SystemClock | None = None) -> SqliteSpool | PostgresSpool:
    """Open the spool in a folder, or in the database of a URL."""
    limits, clock, reporter = SpoolLimits(), clock or SystemClock(), _reporter()
    if isinstance(place, str):
        return await PostgresSpool.open(lambda: place, limits=limits, clock=clock, reporter=reporter)
    return await SqliteSpool.open(place, limits=limits, clock=clock, reporter=reporter)


async def _filled(place: Path | str) -> None:
    """Put six events in: two dead of one reason, one dead of another, one delivered, two waiting."""
    spool = await _open(place)
    for number in range(1, 7):
        labels = Labels(
            type="message:updated",
            event="Message \x1b[31mSent \N{MUSICAL SYMBOL G CLEF}",
            message_id=f"m{number}",
            user_id="u1",
        )
        await stored(
            spool,
            [
                Envelope(
                    route=ROUTE,
                    event_key=number.to_bytes(16),
                    partition_key="",
                    received_at_ms=1_800_000_000_000 + number,
                    payload=b'{"number":%d}' % number,
                    source="webhook",
                    labels=labels,
                )
            ],
        )
    leases = await leased(spool, ROUTE, fresh=4, retry=0, size=1_000_000)
    await settle(spool, [lease.sequence for lease in leases[:2]], State.DEAD, reason="no id")
    await settle(spool, [leases[2].sequence], State.DEAD, reason="too deep")
    await settle(spool, [leases[3].sequence], State.DELIVERED)
    await spool.close()


@dataclass
class Shell:
    """Types commands in a folder with an environment of its own."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    database: str | None = None

    @property
    def place(self) -> Path | str:
        """Return where the spool is: in the folder, or the database's URL."""
        return self.database or self.folder / "data"

    @property
    def own(self) -> dict[str, str]:
        """Return its own variables."""
        own = {"FORWARDER_DATA_DIR": str(self.folder / "data"), "FORWARDER_OPERATOR_LISTEN": _NOBODY_LISTENS}
        return own | (
            {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": self.database}
            if self.database is not None
            else {}
        )

    def __call__(
        self, *words: str, typed: str | None = None, heard: Callable[[str], None] | None = None, **environ: str
    ) -> Result:
        """Run a command to its end; `typed` is what the person answers, `environ` what is exported.

        `heard` is called with every line of an event as it is printed.
        """
        if heard is not None:
            self.monkeypatch.setattr(click, "echo", lambda text, **_: heard(text))
        return CliRunner().invoke(cli, words, input=typed, env=self.own | environ)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Give a shell in an empty folder, without any of our variables."""
    for variable in os.environ:
        if variable.startswith(PREFIXES):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch)


@pytest.fixture
def filled(shell: Shell, daemon_database: Callable[[], str] | None) -> Shell:
    """Give a shell whose spool holds six events."""
    shell.database = None if daemon_database is None else daemon_database()
    asyncio.run(_filled(shell.place))
    return shell


@pytest.fixture
def turning_away(filled: Shell) -> Shell:
    """Give a shell whose spool says, too, that three requests were turned away just now."""

    async def keep() -> None:
        spool, metrics = await _open(filled.place), Metrics()
        metrics.rejected.labels("/inbound/rudderstack", "key_unknown").inc(3)
        totals = TotalsByTime(metrics, SystemClock())
        totals.read()
        await totals.save(spool, is_last=True)
        await spool.close()

    asyncio.run(keep())
    return filled


class DaemonThread:
    """The operator's listener of a daemon, or of each of its replicas, in a thread with a loop of its own."""

    def __init__(self, place: Path | str, token: str | None, clock: SystemClock, *, replicas: int) -> None:
        self._place = place
        self._clock = clock
        self._token = token
        self._replicas = replicas
        self._listening = threading.Event()
        self._listeners: list[OperatorListener] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self.address = ""
        self._spools: list[SqliteSpool | PostgresSpool] = []

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            running = [await self._serve_one(stack) for _ in range(self._replicas)]
            ports = [listener.address[1] for listener in self._listeners]
            if len(ports) > 1:
                turns = itertools.cycle(ports)
                ports = [(await stack.enter_async_context(Gate(lambda: next(turns)))).port]
            self.address = f"127.0.0.1:{ports[0]}"
            self._listening.set()
            await asyncio.gather(*running)

    async def _serve_one(self, stack: AsyncExitStack) -> asyncio.Task[None]:
        spool = await _open(self._place, self._clock)
        stack.push_async_callback(spool.close)
        self._spools.append(spool)
        reporter, clock = _reporter(), SystemClock()
        parts = Parts(
            archive=spool,
            spool=spool,
            links=await LinkStore.load(spool),
            metrics=reporter.metrics,
            reporter=reporter,
            clock=clock,
        )
        app = api_alone(parts, people=People(clock=parts.clock, shared=self._token))
        listener = OperatorListener(app, host="127.0.0.1", port=0)
        self._listeners.append(listener)
        running = asyncio.create_task(listener.run())
        await listener.started.wait()
        return running

    def append(self, number: int) -> None:
        """Receive one more event."""
        envelope = Envelope(
            route=ROUTE,
            event_key=number.to_bytes(16),
            partition_key="",
            received_at_ms=1_800_000_000_000,
            payload=b"{}",
            labels=Labels(event="Message Opened"),
        )
        asyncio.run_coroutine_threadsafe(stored(self._spools[0], [envelope]), self._loop).result(5)

    def replay_and_bury(self, sequences: list[int]) -> None:
        """Replay some events, then bury everything that waits."""

        async def bury() -> None:
            await self._spools[0].requeue(sequences)
            for spool in self._spools:
                leases = await leased(spool, ROUTE, fresh=100, retry=100, size=1_000_000)
                await settle(spool, [lease.sequence for lease in leases], State.DEAD, reason="no id")

        asyncio.run_coroutine_threadsafe(bury(), self._loop).result(5)

    def start(self) -> None:
        """Start and wait until it listens."""
        self._thread.start()
        assert self._listening.wait(10)

    def stop(self) -> None:
        """Drain and wait until the folder is free."""
        for listener in self._listeners:
            asyncio.run_coroutine_threadsafe(listener.drain(), self._loop).result(5)
        self._thread.join(10)
        self._loop.close()


Daemon = Callable[..., DaemonThread]


@pytest.fixture
def daemon(filled: Shell, replicas: int) -> Iterator[Daemon]:
    """Start a daemon's listener on the filled spool; it is stopped at the end."""
    started: list[DaemonThread] = []

    def start(*, token: str | None = None, clock: SystemClock | None = None) -> DaemonThread:
        made = DaemonThread(filled.place, token, clock or SystemClock(), replicas=replicas)
        made.start()
        started.append(made)
        return made

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def hurried() -> HurriedClock:
    """Give a clock of a machine that is far too slow."""
    return HurriedClock()
