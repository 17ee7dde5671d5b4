"""Who starts when, who stops when, and what happens when one of them does not."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest
import structlog

from forwarder import startup
from forwarder.clock import SystemClock
from forwarder.daemon import Daemon, signals_heard
from forwarder.errors import SettingsInvalid, WorkerEnded
from forwarder.ports import Worker
from forwarder.startup import EarlyStop
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.notify import Notifier
from forwarder.telemetry.reporter import Reporter


class Tape:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, message: bytes) -> None:
        """Take a notification."""
        self.lines.append(message.decode())


class Hand:
    """A worker that does as it is told."""

    def __init__(
        self, name: str, tape: Tape, *, ends: bool = False, breaks: Exception | None = None, hangs: bool = False
    ) -> None:
        self.name = name
        self._tape = tape
        self._ends = ends
        self._breaks = breaks
        self._hangs = hangs
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Work."""
        self._tape.lines.append(f"run {self.name}")
        if self._breaks:
            raise self._breaks
        if self._ends:
            return
        try:
            await self._stop.wait()
        except asyncio.CancelledError:
            self._tape.lines.append(f"cancel {self.name}")
            raise

    async def drain(self) -> None:
        """Stop."""
        self._tape.lines.append(f"drain {self.name}")
        if self._hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        self._tape.lines.append(f"drained {self.name}")
        self._stop.set()


class Listener(Hand):
    """A worker that others rely on from its start."""

    async def start(self) -> None:
        """Open."""
        if self._breaks:
            raise self._breaks
        self._tape.lines.append(f"start {self.name}")


class Loop:
    """A loop that turns, or not."""

    def __init__(self, name: str, *, is_alive: bool) -> None:
        self.name = name
        self.turns = is_alive

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell."""
        assert now_s > 0
        assert within_s > 0
        return self.turns


@pytest.fixture
def tape() -> Tape:
    """Return an empty tape."""
    return Tape()


def _daemon(
    tape: Tape,
    *stages: list[Worker],
    probes: tuple[Loop, ...] = (),
    drain_max_s: float = 5.0,
    watchdog_s: float | None = None,
) -> Daemon:
    return Daemon(
        stages=stages,
        probes=probes,
        notifier=Notifier(tape.send, watchdog_s=watchdog_s),
        reporter=Reporter(Metrics(), structlog.wrap_logger(structlog.PrintLogger(), processors=[_drop])),
        clock=SystemClock(),
        drain_max_s=drain_max_s,
        status=lambda: "all well",
    )


def _drop(_logger: object, _name: str, _event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


async def _run_for(daemon: Daemon, tape: Tape, until: Callable[[list[str]], bool]) -> None:
    stop = asyncio.Event()
    async with asyncio.timeout(60):
        task = asyncio.create_task(daemon.run(stop))
        while not until(tape.lines) and not task.done():  # noqa: ASYNC110 - the tape is plain on purpose
            await asyncio.sleep(0.005)
        stop.set()
        await task


async def test_order(tape: Tape) -> None:
    """Workers start downstream first, are told of when all run, and drain upstream first, peers side by side."""
    daemon = _daemon(tape, [Listener("listener", tape)], [Hand("left", tape), Hand("right", tape)])
    await _run_for(daemon, tape, lambda lines: "STATUS=all well" in lines)
    assert tape.lines == [
        "start listener",
        "run left",
        "run right",
        "run listener",
        "READY=1",
        "WATCHDOG=1",
        "STATUS=all well",
        "STOPPING=1",
        "drain listener",
        "drained listener",
        "drain left",
        "drain right",
        "drained left",
        "drained right",
    ]
    assert repr(daemon) == "Daemon(listener > left | right)"


async def test_worker_that_returns_unasked_ends_the_daemon(tape: Tape) -> None:
    """A worker that returns without being drained is an error, and the others are cancelled."""
    daemon = _daemon(tape, [Hand("listener", tape)], [Hand("route", tape, ends=True)])
    with pytest.raises(WorkerEnded, match="route"):
        await _run_for(daemon, tape, lambda _lines: False)
    assert "cancel listener" in tape.lines


async def test_worker_that_breaks_ends_the_daemon_with_its_error(tape: Tape) -> None:
    """The error that comes out is the worker's own."""
    daemon = _daemon(tape, [Hand("listener", tape)], [Hand("route", tape, breaks=ZeroDivisionError("x"))])
    with pytest.raises(ZeroDivisionError):
        await _run_for(daemon, tape, lambda _lines: False)


async def test_door_that_cannot_open_ends_the_start(tape: Tape) -> None:
    """A listener that cannot listen ends the daemon before anybody is told that it is ready."""
    daemon = _daemon(tape, [Listener("listener", tape, breaks=SettingsInvalid("port taken"))], [Hand("route", tape)])
    with pytest.raises(SettingsInvalid, match="port taken"):
        await _run_for(daemon, tape, lambda _lines: False)
    assert "READY=1" not in tape.lines


async def test_deadline(tape: Tape) -> None:
    """At the drain's deadline the rest is cancelled, and the daemon ends without an error."""
    daemon = _daemon(tape, [Hand("listener", tape)], [Hand("route", tape, hangs=True)], drain_max_s=0.1)
    await _run_for(daemon, tape, lambda lines: "READY=1" in lines)
    assert tape.lines[-3:] == ["drained listener", "drain route", "cancel route"]


async def test_a_workers_own_time_out_is_no_deadline(tape: Tape) -> None:
    """An error of a worker that is being drained comes out, of whatever type; nobody is told of a deadline."""

    class Late(Hand):
        async def drain(self) -> None:
            raise TimeoutError("its own")

    daemon = _daemon(tape, [Hand("listener", tape)], [Late("route", tape)])
    with pytest.raises(TimeoutError, match="its own"):
        await _run_for(daemon, tape, lambda lines: "READY=1" in lines)


async def test_watchdog_hears_nothing_while_a_loop_stands(tape: Tape) -> None:
    """The heart beats only while every loop turns: not once while one stands, and again when it turns again."""
    loops = Loop("left", is_alive=True), Loop("right", is_alive=False)
    daemon = _daemon(tape, [Hand("route", tape)], probes=loops, watchdog_s=0.02)
    beats_while_it_stood: list[int] = []

    def until(lines: list[str]) -> bool:
        if not beats_while_it_stood and lines.count("STATUS=all well") >= 3:
            beats_while_it_stood.append(lines.count("WATCHDOG=1"))
            loops[1].turns = True
        return "WATCHDOG=1" in lines and bool(beats_while_it_stood)

    await _run_for(daemon, tape, until)
    assert beats_while_it_stood == [0]
    assert "WATCHDOG=1" in tape.lines


async def test_a_daemon_that_was_asked_to_stop_opens_nothing(tape: Tape) -> None:
    """Who was told to stop during the start never says that it is ready."""
    stop = asyncio.Event()
    stop.set()
    await _daemon(tape, [Listener("listener", tape)]).run(stop)
    assert tape.lines == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_signals_that_stop(number: signal.Signals) -> None:
    """The first signal asks for a drain, the second exits at once."""
    codes: list[int] = []
    with signals_heard(exit_now=codes.append) as heard:
        assert not heard.stop.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(heard.stop.wait(), 1)
        assert codes == []
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.02)  # the second signal has been handled
    assert codes == [128 + number]


async def test_an_exit_is_bounded_whatever_stands_still() -> None:
    """After the drain and some grace the process ends as by a second signal: though the loop, or the disk, hangs."""
    codes: list[int] = []
    is_over = threading.Event()

    def exit_now(code: int) -> None:
        codes.append(code)
        is_over.set()

    with signals_heard(exit_now=exit_now, exit_within_s=0.01) as heard:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(heard.stop.wait(), 60)
        is_over.wait(60)  # nothing turns meanwhile
    assert codes == [128 + signal.SIGTERM]


async def test_signals_that_do_not_stop() -> None:
    """HUP asks for the secrets to be read again, USR1 and USR2 for nothing."""
    with signals_heard() as heard:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(os.getpid(), number)
        await asyncio.wait_for(heard.hangup.wait(), 1)
        assert not heard.stop.is_set()


async def test_a_signal_that_came_early_counts() -> None:
    """What was asked before anybody listened is done."""
    before = signal.getsignal(signal.SIGTERM)
    early = EarlyStop()
    signal.signal(signal.SIGTERM, early)
    try:
        assert not startup.is_asked(early)
        early(signal.SIGTERM, None)
        with signals_heard() as heard:
            assert heard.stop.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_signal_in_the_last_moment_of_the_start_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes right before the daemon listens is as good as any."""
    before = signal.getsignal(signal.SIGTERM)
    early = EarlyStop()
    loop = asyncio.get_running_loop()
    listen = loop.add_signal_handler

    def last_moment(number: int, handler: Callable[[], object]) -> None:
        early(number, None)
        monkeypatch.undo()
        listen(number, handler)

    signal.signal(signal.SIGTERM, early)
    monkeypatch.setattr(loop, "add_signal_handler", last_moment)
    try:
        with signals_heard() as heard:
            assert heard.stop.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
