"""Own every task of the daemon: start them in order, stop them in order, and end when one of them fails.

It knows neither what the workers do nor how they are made. Nothing is lost when a worker is cut off: what it had
not settled is still in the spool.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from forwarder import __version__, startup
from forwarder.errors import WorkerEnded
from forwarder.ports import Clock, Probeable, Startable, Worker
from forwarder.telemetry.notify import Notifier
from forwarder.telemetry.reporter import Reporter

_BEAT_EVERY_S: Final = 5.0  # where no watchdog asks for more


class Daemon:
    """The owner of the tasks.

    `stages` are listed upstream first; the workers of one stage are peers. They start in reverse, so that
    nobody sends to a neighbour that is not there yet, and drain in order, peers side by side, so that a
    worker's last output still has someone to take it.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[Worker]],
        probes: Sequence[Probeable],
        notifier: Notifier,
        reporter: Reporter,
        clock: Clock,
        drain_max_s: float,
        status: Callable[[], str],
        alive_within_s: float = 15.0,
    ) -> None:
        self._stages = stages
        self._probes = probes
        self._notifier = notifier
        self._reporter = reporter
        self._clock = clock
        self._drain_max_s = drain_max_s
        self._status = status
        self._alive_within_s = alive_within_s
        self._is_draining = False

    def __repr__(self) -> str:
        """Show the order of the workers."""
        return f"Daemon({' > '.join(' | '.join(worker.name for worker in stage) for stage in self._stages)})"

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then drain for at most `drain_max_s`, then cancel what is left.

        Raises the error of a worker that cannot start or breaks, and `WorkerEnded` for one that returns unasked.
        """
        tasks: dict[str, asyncio.Task[None]] = {}
        if stop.is_set():  # asked during the start: nothing was opened yet
            return
        try:
            async with asyncio.TaskGroup() as group:
                for stage in reversed(self._stages):
                    for worker in stage:
                        if isinstance(worker, Startable):
                            await worker.start()
                        tasks[worker.name] = group.create_task(self._supervise(worker), name=worker.name)
                await asyncio.sleep(0)  # every worker takes its first step before anyone is told
                self._notifier.ready()
                self._reporter.daemon_ready(version=__version__)
                heart = group.create_task(self._beat(), name="heart")
                await stop.wait()
                await self._drain(tasks)
                heart.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _supervise(self, worker: Worker) -> None:
        await worker.run()
        if not self._is_draining:
            raise WorkerEnded(f"{worker.name} returned though nobody drained it")

    async def _drain(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        self._is_draining = True
        self._notifier.stopping()
        self._reporter.daemon_draining(drain_max_s=self._drain_max_s)
        try:
            async with asyncio.timeout(self._drain_max_s) as deadline:
                for stage in self._stages:
                    await asyncio.gather(*(worker.drain() for worker in stage))
                await asyncio.wait(tasks.values())
        except TimeoutError:
            if not deadline.expired():  # a worker's own
                raise
            left = [name for name, task in tasks.items() if not task.done()]
            self._reporter.drain_cut_off(workers=left)
            for task in tasks.values():
                task.cancel()

    async def _beat(self) -> None:
        every_s = self._notifier.interval_s or _BEAT_EVERY_S
        while True:
            now_s = self._clock.monotonic_s()
            stuck = [p for p in self._probes if not p.is_alive(now_s=now_s, within_s=self._alive_within_s)]
            for probe in stuck:
                self._reporter.worker_stuck(worker=probe.name)
            if not stuck:
                self._notifier.beat()
            self._notifier.status(self._status())
            await asyncio.sleep(every_s)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error within: what follows it is its consequence."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@dataclass(frozen=True, slots=True)
class Signals:
    """What the process was asked by signal: to stop, and to read its secrets again."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hangup: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def signals_heard(
    *, exit_now: Callable[[int], object] = os._exit, exit_within_s: float | None = None
) -> Iterator[Signals]:
    """Yield what SIGTERM, SIGINT and SIGQUIT (stop) and SIGHUP (hangup) set; SIGUSR1 and SIGUSR2 do nothing.

    A second one that stops exits at once, with the shell's code for it. One that came before (see `startup`) counts.
    What hangs on a disk can be neither cancelled nor joined: so `exit_within_s` after the first one, also when this was
    left by then, a thread of its own exits as by a second one.
    """
    loop = asyncio.get_running_loop()
    heard = Signals()
    early = signal.getsignal(signal.SIGTERM)

    def on_stop(number: signal.Signals) -> None:
        if heard.stop.is_set():
            exit_now(128 + number)
        heard.stop.set()
        if exit_within_s is not None:
            timer = threading.Timer(exit_within_s, exit_now, (128 + number,))
            timer.daemon = True
            timer.start()

    handlers: dict[signal.Signals, Callable[[], object]] = {
        number: partial(on_stop, number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    }
    handlers |= {signal.SIGHUP: heard.hangup.set, signal.SIGUSR1: int, signal.SIGUSR2: int}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    if startup.is_asked(early):  # looked at last: one that comes until then is kept by it
        on_stop(signal.SIGTERM)
    try:
        yield heard
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
