"""The real daemon as a process of its own, watched from outside: by journeys and benchmarks, not by the demo.

It runs in a folder of its own, with nothing of the caller's environment that concerns it, and is ended by
its own process id. Absent: any knowledge of what it should do.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp

from forwarder.demo.totals import Totals, read_totals
from stand_ins.listener import HOST, free_port

_OURS = ("FORWARDER_", "COURIER_", "RUDDERSTACK_", "OTEL_")
_LOOK_AGAIN_S = 0.01
_LAST_WORDS = 4_000  # characters of the log that an error quotes


class DaemonFailed(Exception):
    """The daemon did not do in time what it was waited for; the text ends with its log."""


def without_coverage(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those by which a process knows that its coverage is measured."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}


@dataclass(slots=True, kw_only=True)
class DaemonProcess:
    """Start it, kill it, start it again: in the same folder and on the same ports, as a restart would be."""

    folder: Path  # exists; holds the data folder and one log a start
    settings: dict[str, str]  # variables over the listeners and the data folder
    port: int = field(default_factory=free_port)
    operator_port: int = field(default_factory=free_port)
    program: Sequence[str] = ("-m", "forwarder", "run")  # what Python runs
    has_coverage: bool = True  # where the tests are run with it; where time is measured, it would be most of it
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    @property
    def url(self) -> str:
        """Return the public listener's base URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def operator_url(self) -> str:
        """Return the operator listener's base URL."""
        return f"http://{HOST}:{self.operator_port}"

    @property
    def replicas(self) -> Sequence["DaemonProcess"]:
        """Return the processes that are this daemon: itself, where it is not several."""
        return (self,)

    @property
    def is_running(self) -> bool:
        """Tell whether there is a process that has not ended."""
        return self.process is not None and self.process.returncode is None

    async def start(self, *, ready_max_s: float = 60.0) -> float:
        """Start it and wait until it is ready; return how many seconds that took. A start that fails leaves none."""
        started_s = time.monotonic()
        await self.spawn()
        async with aiohttp.ClientSession() as http:
            while time.monotonic() - started_s < ready_max_s:
                if not self.is_running:
                    raise DaemonFailed(f"it ended at its start:\n{self._last_words()}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{self.url}/readyz") as response:
                        if response.status == HTTPStatus.OK:
                            return time.monotonic() - started_s
                await asyncio.sleep(_LOOK_AGAIN_S)
        await self.kill()
        raise DaemonFailed(f"it was not ready within {ready_max_s} s:\n{self._last_words()}")

    async def spawn(self) -> None:
        """Start the process without waiting for anything."""
        self.starts += 1
        with (self.folder / f"log-{self.starts}.txt").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.program),
                cwd=self.folder,
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """End it as a power cut would: no chance to say anything. Does nothing when it is not running."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self, *, timeout_s: float = 40.0) -> int:
        """Ask it to stop and return its exit code; `DaemonFailed` when it has not ended in time."""
        if self.process is None:
            raise DaemonFailed("it was never started")
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), timeout_s)
        except TimeoutError:
            raise DaemonFailed(f"it did not stop within {timeout_s} s:\n{self._last_words()}") from None

    async def totals(self, route: str) -> Totals:
        """Return the account of one route, as `/metrics` shows it."""
        return (await read_totals(self.operator_url)).get(route, {})

    async def wait_for_totals(
        self, route: str, is_reached: Callable[[Totals], bool], *, timeout_s: float = 120.0
    ) -> Totals:
        """Wait until the route's account is as wanted and return it; `DaemonFailed` at the time-out."""
        ends_s, totals = time.monotonic() + timeout_s, Totals()
        while time.monotonic() < ends_s:
            with contextlib.suppress(aiohttp.ClientError):
                totals = await self.totals(route)
                if totals and is_reached(totals):
                    return totals
            await asyncio.sleep(_LOOK_AGAIN_S)
        raise DaemonFailed(f"{route} stayed at {totals} for {timeout_s} s; the log:\n{self._last_words()}")

    def logs(self) -> str:
        """Return what all its starts wrote, oldest first."""
        return "".join((self.folder / f"log-{n + 1}.txt").read_text(errors="replace") for n in range(self.starts))

    def marks_in_logs(self, marks: Collection[str]) -> list[str]:
        """Return those of the marks that a log holds, the settings' own values among them when given."""
        logs = self.logs()
        return [mark for mark in marks if mark in logs]

    def _last_words(self) -> str:
        return self.logs()[-_LAST_WORDS:]

    def _environment(self) -> dict[str, str]:
        environment = os.environ if self.has_coverage else without_coverage(os.environ)
        inherited = {name: value for name, value in environment.items() if not name.startswith(_OURS)}
        own = {
            "FORWARDER_LISTEN": f"{HOST}:{self.port}",
            "FORWARDER_OPERATOR_LISTEN": f"{HOST}:{self.operator_port}",
            "FORWARDER_DATA_DIR": str(self.folder / "data"),
        }
        return inherited | own | self.settings
