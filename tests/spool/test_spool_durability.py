"""An acknowledged event is on disk: through kill -9 and through a power cut."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from forwarder.errors import ForwarderError
from forwarder.model import Envelope, Lease, RouteName, State
from forwarder.ports import EventQuery
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.spool_acts import give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER


async def lease(spool: SqliteSpool, route: RouteName = OUT, *, fresh: int = 100) -> Sequence[Lease]:
    """Lease what there is."""
    return await leased(spool, route, fresh=fresh, retry=100, size=10**7)


async def work_until_cut(
    spool: SqliteSpool, disk: Any, make_envelope: Callable[..., Envelope], folder: Path, *, rounds: int = 40
) -> tuple[set[int], set[int]]:
    """Append, settle and give back; cut the power in the middle of it; return what was acknowledged."""
    acknowledged: set[int] = set()
    settled: set[int] = set()

    async def append(number: int) -> None:
        await stored(spool, [make_envelope(number, partition="p" if number % 5 == 0 else "")])
        acknowledged.add(number)

    number = 0
    for turn in range(rounds):
        await asyncio.gather(*(append(number + i) for i in range(1, 8)))
        number += 7
        leases = await lease(spool, fresh=5)
        keys = [int.from_bytes(one.envelope.event_key, "big") for one in leases]
        await settle(spool, [one.sequence for one in leases[:3]], State.DELIVERED)
        settled.update(keys[:3])
        await give_back(spool, [one.sequence for one in leases[3:]], 0)
        if turn == rounds - 1:
            # In the middle of a commit: what is under way may or may not be there.
            under_way = [asyncio.create_task(append(10_000 + i)) for i in range(50)]
            await asyncio.sleep(0)
            sure = set(acknowledged)
            disk.cut_power(folder)
            await asyncio.gather(*under_way)
            return sure, settled
    raise AssertionError


async def survivors(spool: SqliteSpool) -> tuple[set[int], set[int]]:
    """Return the numbers of all events and of the delivered ones."""
    rows = (await spool.events(EventQuery(limit=100_000))).rows
    numbers = {int(row.labels.message_id[1:]): row.state for row in rows}
    return set(numbers), {n for n, state in numbers.items() if state is State.DELIVERED}


async def test_a_power_cut_loses_nothing_acknowledged(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """What was answered is there after the cut, settled events stay settled, and the totals balance."""
    spool = await open_sqlite(limits=SpoolLimits(wal_pages_max=50), vfs=disk.vfs_name)
    after = tmp_path / "after"
    acknowledged, settled = await work_until_cut(spool, disk, make_envelope, after)
    again = await open_sqlite(after)
    found, delivered = await survivors(again)
    assert acknowledged <= found
    assert settled <= delivered
    assert (await again.facts()).totals[OUT].is_balanced()


async def test_the_power_cut_would_be_noticed(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]],
    disk: Any,
    make_envelope: Callable[..., Envelope],
    tmp_path: Path,
) -> None:
    """Control: on a disk that does not sync, the same check finds events missing."""
    spool = await open_sqlite(limits=SpoolLimits(wal_pages_max=50), vfs=disk.vfs_name)
    disk.is_lying = True
    after = tmp_path / "after"
    acknowledged, _ = await work_until_cut(spool, disk, make_envelope, after)
    try:
        found, _ = await survivors(await open_sqlite(after))
    except ForwarderError:
        found = set()
    assert not acknowledged <= found


CHILD = """
import asyncio, sys
from pathlib import Path
import structlog
from forwarder.clock import SystemClock
from forwarder.model import Envelope, RouteName, State
from forwarder.spool.limits import SpoolLimits
from stand_ins.spool_acts import stored
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.spool_acts import Work, give_back, leased, settle
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

ROUTES = list(RouteName)

async def main():
    clock = SystemClock()
    reporter = Reporter(Metrics(), structlog.get_logger())
    spool = await SqliteSpool.open(Path(sys.argv[1]), limits=SpoolLimits(), clock=clock, reporter=reporter)
    numbers = iter(range(1, 10**9))

    async def append() -> None:
        for number in numbers:
            await stored(spool, [Envelope(
                route=ROUTES[number % 2], event_key=number.to_bytes(16, "big"), partition_key=str(number % 7),
                received_at_ms=clock.wall_ms(), payload=b"{}",
            )])
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()

    async def work_on(route: RouteName):
        work = Work(spool, route)
        while True:
            await work.wait(within_s=1)
            leases = await leased(spool, route, fresh=10, retry=10, size=10**6)
            for index, lease in enumerate(leases):
                if index % 3:
                    await settle(spool, [lease.sequence], State.DELIVERED)
                else:
                    await give_back(spool, [lease.sequence], 0)

    await asyncio.gather(*(append() for _ in range(16)), *(work_on(route) for route in ROUTES))

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_acknowledged(
    open_sqlite: Callable[..., Awaitable[SqliteSpool]], tmp_path: Path
) -> None:
    """A process that is killed in full flight leaves every acknowledged event, and totals that balance."""
    folder = tmp_path / "killed"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"},
    )
    assert child.stdout is not None
    acknowledged: set[int] = set()
    while len(acknowledged) < 600:
        acknowledged.add(int(await asyncio.wait_for(child.stdout.readline(), 20)))
    child.send_signal(signal.SIGKILL)
    rest = (await child.communicate())[0].split(b"\n")
    acknowledged.update(int(line) for line in rest[:-1])
    spool = await open_sqlite(folder)
    facts = await spool.facts()
    accepted = sum(totals.accepted for totals in facts.totals.values())
    assert all(totals.is_balanced() for totals in facts.totals.values())
    details = [await spool.event(sequence) for sequence in range(1, accepted + 1)]
    assert acknowledged <= {int.from_bytes(detail.event_key, "big") for detail in details}
    pending = sum(1 for detail in details if detail.row.state is State.PENDING)
    assert pending == sum(totals.pending for totals in facts.totals.values())
    count = 0
    for route in RouteName:
        while leases := await lease(spool, route):
            count += len(leases)
            await settle(spool, [one.sequence for one in leases], State.DELIVERED)
    assert count == pending
