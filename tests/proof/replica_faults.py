"""What befalls replicas and their database, one fault after the other under load."""

import asyncio
import math
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
import asyncpg

from forwarder.demo.facts import Key
from forwarder.demo.totals import read_totals
from proof.account import ReplicaCopies
from proof.database import CONNECTIONS_MAX, Database, Disk, untrue
from proof.fleet import Fleet, Replica, ended
from proof.run import BACKLOG_MAX, PROGRESS_EVERY, Load
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane, basic_user
from stand_ins.listener import AtHand
from stand_ins.process import DaemonFailed
from stand_ins.served import ServerFailed

PAUSE_S: Final = 28.0  # longer than a lease
_LOOK_AGAIN_S: Final = 0.05
_LAST_WORDS: Final = 4_000  # characters of a log
_BACK_MAX_S: Final = 60.0
_BREATH_S: Final = (0.0, 0.5)  # between faults


class ReplicaRun(Load):
    """The faults, under load."""

    def __init__(
        self, fleet: Fleet, database: Database, plane: DataPlane, courier: CourierApi, *, seed: int, disk: "Disk | None"
    ) -> None:
        super().__init__(fleet, plane, courier, seed=seed)
        self._fleet = fleet
        self._database = database
        self._disk = disk
        self._others: asyncio.TaskGroup | None = None
        self._copies = self.story.copies = ReplicaCopies()
        self.faults: Mapping[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill of a replica": (6, self.kill),
            "kill during a start": (1, self.kill_at_start),
            "replica stopped and started": (1, self.restart),
            "crash of Postgres": (3, self.crash),
            "restart of Postgres": (1, self.restart_database),
            "failover": (2, self.fail_over),
            "connections cut": (4, self.cut),
            "network silent": (2, self.stall),
            "too many connections": (1, self.crowd),
            "replica paused shortly": (2, self.nap),
            "replica paused for longer than its lease": (1, self.pause),
            **({"disk full": (1, self.fill)} if disk is not None else {}),
        }

    async def live(self, http: aiohttp.ClientSession, rounds: int, *, until_s: float = math.inf) -> None:
        """Have one fault after the other under load, so often or until then; then everything is delivered."""
        names = list(self.faults)
        weights = [self.faults[name][0] for name in names]
        await self.suffer(http, lambda: self._random.choices(names, weights)[0], rounds, until_s=until_s)

    async def suffer(
        self, http: aiohttp.ClientSession, choose: Callable[[], str], rounds: int, *, until_s: float = math.inf
    ) -> None:
        """Have the chosen faults."""
        await asyncio.gather(*map(self._begin, self._fleet.replicas))
        self._is_up.set()
        async with self._under_load(http), asyncio.TaskGroup() as self._others:
            for number in range(rounds):
                if time.monotonic() > until_s:
                    break
                name = choose()
                self._misbehave()
                await self.faults[name][1]()
                self.story.faults[name] += 1
                await self._until_taken(name)
                await self._breathe()
                await self._look()
                self._plane.script.heal()
                if (number + 1) % PROGRESS_EVERY == 0:
                    sys.stderr.write(f"{number + 1} faults; {self._progress()}\n")
        await self._look()

    # --- faults ---

    async def kill(self) -> None:
        """Kill one replica; it is started again at once or a little later, beside what follows."""
        await self._kill(one := await self._any())
        self._beside(self._begin(one, after_s=self._random.uniform(0.0, 1.0)))

    async def kill_at_start(self) -> None:
        """Kill one, and once more before it is ready."""
        await self._kill(one := await self._any())
        self._plane.write_keys.add(one.begin_life())
        await one.daemon.spawn()
        await asyncio.sleep(self._random.uniform(0.0, 1.5))
        await self._kill(one)
        self._beside(self._begin(one))

    async def restart(self) -> None:
        """Stop one in order: it hands over what it holds."""
        one = await self._any()
        one.is_out = True

        async def follow() -> None:
            self.story.scrapes.wrong += await ended(one)
            await self._begin(one)

        self._beside(follow())

    async def crash(self) -> None:
        """Stop Postgres as a crash would."""
        await self._database.do(lambda: self._database.primary.stop("immediate"))
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        await self._database.do(self._database.primary.start)

    async def restart_database(self) -> None:
        """Stop Postgres in order."""
        await self._database.do(lambda: self._database.primary.stop("fast"))
        await self._database.do(self._database.primary.start)

    async def fail_over(self) -> None:
        """Lose the primary of a synchronous standby; half of the time both are there for a while."""
        await self._database.add_standby()
        await self._breathe()
        await self._database.fail_over(overlap_s=self._random.choice((0.0, self._random.uniform(0.5, 2.0))))

    async def cut(self) -> None:
        """Break connections to the database, of one replica or of all, a few times."""
        for _ in range(self._random.randint(1, 4)):
            for one in self._some():
                for gate in one.gates:
                    gate.cut()
            await asyncio.sleep(self._random.uniform(0.0, 0.3))

    async def stall(self) -> None:
        """Let nothing through to the database, and nothing back, for less than a lease."""
        gates = [gate for one in self._some() for gate in one.gates]
        for gate in gates:
            gate.stall()
        await asyncio.sleep(self._random.uniform(0.2, 6.0))
        is_cut = self._random.random() < 0.5
        for gate in gates:
            if is_cut:
                gate.cut()
            gate.flow()

    async def crowd(self) -> None:
        """Take every connection that Postgres has, and break those of the replicas."""
        taken: list[asyncpg.Connection] = []
        try:
            for _ in range(2):
                with suppress(asyncpg.PostgresError, OSError, TimeoutError):
                    while len(taken) < CONNECTIONS_MAX:
                        taken.append(await asyncpg.connect(self._database.primary.url(), timeout=5))
                for one in self._fleet.replicas:
                    for gate in one.gates:
                        gate.cut()
            await asyncio.sleep(self._random.uniform(0.5, 2.0))
        finally:
            for connection in taken:
                connection.terminate()

    async def fill(self) -> None:
        """Leave Postgres no room on its disk; it may crash of it, and is started again once there is room."""
        assert self._disk is not None
        self._disk.fill()
        await asyncio.sleep(self._random.uniform(1.0, 4.0))
        self._disk.free()
        primary = self._database.primary
        with suppress(ServerFailed):
            await self._database.ask("SELECT 1")
            return
        await self._database.do(lambda: primary.stop("immediate"))
        await self._database.do(primary.start)

    async def nap(self) -> None:
        """Stop a replica's process for less than a lease."""
        one = await self._any()
        one.is_out = True
        self._beside(self._stop_for(one, self._random.uniform(0.2, 4.0)))

    async def pause(self) -> None:
        """Stop a replica's process for longer than its lease: others take over; it may send and settle nothing then."""
        one = await self._any()
        one.is_out = True
        self._beside(self._stop_for(one, PAUSE_S))

    # --- inside ---

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Have this done while further faults follow."""
        assert self._others is not None
        self._others.create_task(work)

    async def _stop_for(self, one: Replica, seconds: float) -> None:
        from_s = time.monotonic()
        one.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._copies.away(one.life, from_s=from_s, until_s=time.monotonic())
            one.signal(signal.SIGCONT)
        one.is_out = False

    async def _any(self) -> Replica:
        """Return a replica beside which another one takes requests."""
        while len(serving := self._fleet.serving()) < 2:
            self._see_who_ended()
            await asyncio.sleep(_LOOK_AGAIN_S)
        return self._random.choice(serving)

    def _some(self) -> list[Replica]:
        replicas = self._fleet.replicas
        return self._random.choice(([self._random.choice(replicas)], replicas))

    async def _begin(self, one: Replica, *, after_s: float = 0.0) -> None:
        one.is_out = True
        await asyncio.sleep(after_s)
        self._plane.write_keys.add(one.begin_life())
        while True:
            try:
                self.story.starts_s.append(await one.daemon.start())
            except DaemonFailed as error:
                self.story.scrapes.wrong.append(f"{one.life} did not start: {error}")
                self._plane.write_keys.add(one.begin_life())
            else:
                break
        one.is_out = False

    async def _kill(self, one: Replica) -> None:
        self._copies.kill(one.life)
        await one.daemon.kill()
        self.story.kills += 1

    async def _until_taken(self, name: str) -> None:
        """Wait until an event is acknowledged, and keep how long that took."""
        before, since_s = self._acknowledged(), time.monotonic()
        while self._acknowledged() == before and self._waiting() <= BACKLOG_MAX:
            await asyncio.sleep(_LOOK_AGAIN_S)
            self._see_who_ended()
            if time.monotonic() > since_s + _BACK_MAX_S:
                raise DaemonFailed(f"nothing is taken {_BACK_MAX_S:g} s after: {name}")
        self.story.back_s.setdefault(name, []).append(time.monotonic() - since_s)

    def _see_who_ended(self) -> None:
        for one in self._fleet.replicas:
            if not one.is_out and not one.daemon.is_running:
                raise DaemonFailed(f"{one.life} ended by itself: {one.daemon.logs()[-_LAST_WORDS:]}")

    def _acknowledged(self) -> int:
        return self.story.outbound.acknowledged + self.story.inbound.acknowledged

    async def _breathe(self) -> None:
        await asyncio.sleep(self._random.uniform(*_BREATH_S))

    def _arrived(self, key: Key, request: AtHand, *, is_answered: bool) -> None:
        life = basic_user(request.authorization)
        self._copies.see(key, life=life, at_s=time.monotonic(), is_answered=is_answered)

    async def _look(self) -> None:
        """Ask every replica for its account, and the database whether the account is true."""
        for one in self._fleet.serving():
            with suppress(aiohttp.ClientError, TimeoutError):
                totals = await read_totals(one.daemon.operator_url)
                before = len(one.scrapes.wrong)
                one.scrapes.see(totals)
                self.story.scrapes.seen += len(totals)
                self.story.scrapes.wrong += [f"{one.life}: {text}" for text in one.scrapes.wrong[before:]]
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            self.story.scrapes.wrong += await untrue(self._database.primary.url())
