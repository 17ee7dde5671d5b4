"""Replicas of the real daemon over one real Postgres, between two faulty vendors.

Each replica reaches the database through gates of its own, one for each place where the primary may be; senders reach
any replica through one. A replica's write key names its life, so that each arrival tells who sent it.
"""

import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import aiohttp

from proof.database import Database, a_disk
from proof.fleet import Fleet, Replica, ended
from proof.replica_faults import ReplicaRun
from proof.run import API_KEY, OWN, RATES, Story, workspace
from stand_ins.chaos import Chaos
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.gate import Gate
from stand_ins.listener import HOST
from stand_ins.process import DaemonProcess

REPLICAS: Final = 3


@asynccontextmanager
async def over_postgres(
    *, seed: int, replicas: int = REPLICAS, program: Sequence[str] | None = None, has_disk: bool = True
) -> AsyncIterator[tuple[ReplicaRun, Database, aiohttp.ClientSession]]:
    """Give a run whose replicas are not started yet; nothing is left of it afterwards, and the logs were searched."""
    async with AsyncExitStack() as stack:
        folder, links = stack.enter_context(workspace())
        folder.chmod(0o755)
        disk = stack.enter_context(a_disk(folder / "disk")) if has_disk else None
        database = Database()
        stack.push_async_callback(database.close)
        await database.do(database.primary.start)
        plane = await stack.enter_async_context(DataPlane(write_keys=[], events_max=100))
        courier = await stack.enter_async_context(
            CourierApi(api_keys=[API_KEY], chaos=Chaos(RATES, seed=seed), effects_max=100)
        )
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # or all would stay with whom they met first
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        fleet = Fleet()
        await stack.enter_async_context(fleet.gate)
        for number in range(replicas):
            gates = [await stack.enter_async_context(Gate(partial(database.port, side))) for side in (0, 1)]
            hosts = ",".join(f"{HOST}:{gate.port}" for gate in gates)
            settings = OWN | {
                "RUDDERSTACK_DATA_PLANE_URL": plane.url,
                "COURIER_API_URL": courier.url,
                "FORWARDER_LINKS": str(links),
                "FORWARDER_SPOOL": "postgres",
                "FORWARDER_POSTGRES_URL": f"postgresql://forwarder@{hosts}/postgres",
            }
            own = folder / f"replica-{number}"
            own.mkdir()
            daemon = DaemonProcess(folder=own, settings=settings)
            if program is not None:
                daemon.program = program
            fleet.replicas.append(Replica(daemon=daemon, gates=gates, number=number))
        run = ReplicaRun(fleet, database, plane, courier, seed=seed, disk=disk)
        try:
            yield run, database, http
            for one in fleet.replicas:
                run.story.scrapes.wrong += await ended(one)
        finally:
            for one in fleet.replicas:
                one.signal(signal.SIGCONT)
                await one.daemon.kill()
        for one in fleet.replicas:
            if "Traceback" in (logs := one.daemon.logs()):
                run.story.scrapes.wrong.append(f"a traceback in a log: {logs[logs.index('Traceback') :][:2_000]}")


async def run(*, rounds: int, minutes: float, seed: int) -> Story:
    """Have so many faults, or for so long; return what was seen."""
    async with over_postgres(seed=seed) as (one, _, http):
        await one.live(http, rounds, until_s=time.monotonic() + 60 * minutes)
    return one.story
