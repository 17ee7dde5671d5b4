"""Several replicas of the real daemon on one Postgres, in place of one: what a test starts or kills is all of them.

Each connection to either listener goes to the next replica. Absent: what a load balancer would know, such as readiness.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forwarder.demo.totals import Totals
from stand_ins.gate import Gate
from stand_ins.process import DaemonProcess


@dataclass(slots=True, kw_only=True)
class Replicas(DaemonProcess):
    """Use them as one daemon. They have one set of settings, and start and end together; `process` is nobody's."""

    postgres_url: str
    count: int = 2
    _each: list[DaemonProcess] = field(default_factory=list)
    _gates: list[Gate] = field(default_factory=list)
    _turns: int = 0

    def __post_init__(self) -> None:
        """Give each a folder of its own."""
        for number in range(self.count):
            folder = self.folder / f"replica-{number}"
            folder.mkdir()
            self._each.append(
                DaemonProcess(folder=folder, settings={}, program=self.program, has_coverage=self.has_coverage)
            )

    @property
    def replicas(self) -> Sequence[DaemonProcess]:
        """Return each of them."""
        return self._each

    @property
    def is_running(self) -> bool:
        """Tell whether none has ended."""
        return all(one.is_running for one in self._each)

    async def start(self, *, ready_max_s: float = 60.0) -> float:
        """Start all of them; return how many seconds it took until the last one was ready."""
        await self._open()
        try:
            return max(await asyncio.gather(*(one.start(ready_max_s=ready_max_s) for one in self._each)))
        except BaseException:
            await self.kill()
            raise

    async def spawn(self) -> None:
        """Start all of them without waiting for anything."""
        await self._open()
        for one in self._each:
            await one.spawn()

    async def kill(self) -> None:
        """End all of them at once, as the loss of a whole site would."""
        await asyncio.gather(*(one.kill() for one in self._each))
        await self._close()

    async def stop(self, *, timeout_s: float = 40.0) -> int:
        """Ask all to stop; return the first exit code that is not 0, or 0."""
        codes = await asyncio.gather(*(one.stop(timeout_s=timeout_s) for one in self._each))
        await self._close()
        return next((code for code in codes if code), 0)

    async def wait_for_totals(
        self, route: str, is_reached: Callable[[Totals], bool], *, timeout_s: float = 120.0
    ) -> Totals:
        """Wait until the route's account is as wanted at every one."""
        found = [await one.wait_for_totals(route, is_reached, timeout_s=timeout_s) for one in self._each]
        return found[0]

    def logs(self) -> str:
        """Return what all of them wrote, one after the other."""
        return "".join(one.logs() for one in self._each)

    async def _open(self) -> None:
        self.starts += 1
        database = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": self.postgres_url}
        for number, one in enumerate(self._each):
            # What is named after the machine, which is one here.
            own = {"FORWARDER_REDIS_CONSUMER": f"replica-{number}"} if "FORWARDER_REDIS_URL" in self.settings else {}
            one.settings = self.settings | database | own
        for port, upstream in (
            (self.port, lambda: self._next().port),
            (self.operator_port, lambda: self._next().operator_port),
        ):
            gate = Gate(upstream)
            gate.port = port
            self._gates.append(await gate.__aenter__())

    async def _close(self) -> None:
        while self._gates:
            await self._gates.pop().__aexit__(None, None, None)

    def _next(self) -> DaemonProcess:
        self._turns += 1
        return self._each[self._turns % self.count]


def one_or_more(folder: Path, settings: dict[str, str], *, database: str | None, count: int) -> DaemonProcess:
    """Return one daemon, or so many replicas where there is a database for them."""
    if database is None:
        return DaemonProcess(folder=folder, settings=settings)
    return Replicas(folder=folder, settings=settings, postgres_url=database, count=count)
