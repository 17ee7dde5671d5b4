"""Power cuts under the spool: at any write, with what was not synced lost, kept or torn. What was acknowledged stays.

Each cut's disk is the next one's beginning. A control on a disk that lies about its syncs must lose events, or the
check would prove nothing.
"""

import asyncio
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from forwarder.archive_port import EventQuery
from forwarder.model import Envelope, Labels, Lease, RouteName, State, Totals
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.disk import Disk
from stand_ins.spool_acts import give_back, leased, settle, stored

PROGRESS_EVERY = 100
LINEAGE = 20  # cuts until the next disk is a new one
ACTS = (1, 160)  # writes and syncs from the opening to the cut; an opening alone makes some
LIMITS = SpoolLimits(wal_pages_max=40, reserve_bytes=4_096, cache_bytes_max=4_000)


@dataclass(slots=True)
class Kept:
    """What one disk's spools have promised."""

    acknowledged: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)  # wanted again while others of their partition went on
    dead: dict[int, int] = field(default_factory=dict)  # to their sequences
    next_number: int = 1

    def fault_of(self, number: int) -> str:
        """Return what is wrong about leasing this one now, "" for nothing."""
        if number in self.settled:
            return f"event {number} was settled and is leased"
        if number in self.replayed or not partition_of(number):
            return ""
        waiting = self.acknowledged - self.settled - self.replayed
        older = [n for n in waiting if n < number and (n % 2, partition_of(n)) == (number % 2, partition_of(number))]
        return f"event {number} is leased before {older}" if older else ""


@dataclass(slots=True)
class Cuts:
    """What came of a series of cuts."""

    cuts: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)  # settled before the cut, and not after it
    wrong: list[str] = field(default_factory=list)


async def run(*, cuts: int, seed: int, is_lying: bool = False) -> Cuts:
    """Cut the power so often; return what was seen."""
    found, dice = Cuts(), random.Random(seed)  # noqa: S311 - a repeatable run, not a secret
    while found.cuts < cuts:
        with tempfile.TemporaryDirectory(prefix="power-cuts-") as name:
            kept, folder = Kept(), Path(name) / "0"
            # A disk that lied is broken: nothing is built on it.
            for number in range(1 if is_lying else min(LINEAGE, cuts - found.cuts)):
                after = Path(name) / str(number + 1)
                sure = await _live_until_cut(folder, after, kept, dice, found, is_lying=is_lying)
                found.cuts += 1
                found.acknowledged += len(sure.acknowledged)
                if not await _judge(after, sure, kept, found):
                    break
                folder = after
        if found.cuts % PROGRESS_EVERY == 0:
            sys.stderr.write(f"{found.cuts} power cuts\n")
    return found


async def _live_until_cut(
    folder: Path, after: Path, kept: Kept, dice: random.Random, found: Cuts, *, is_lying: bool
) -> Kept:
    """Work on the folder's spool until the power is gone; return what was promised by then."""
    disk = Disk(f"power-{dice.randrange(10**12)}")
    disk.is_lying = is_lying
    sure = Kept()
    is_cut = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        disk.adopt(folder)

        def lose_power() -> None:
            sure.acknowledged, sure.settled = set(kept.acknowledged), set(kept.settled)
            disk.cut_power(after, dice)
            # Where it is not the writer's thread that hears of the cut, a replay may have been written meanwhile.
            sure.settled -= kept.replayed
            loop.call_soon_threadsafe(is_cut.set)

        disk.on_power_lost = lose_power
        disk.lose_power_after(dice.randint(*ACTS))
        clock = HandClock()
        spool = await _open(folder, clock, vfs=disk.vfs_name)
        try:
            while not is_cut.is_set():
                found.wrong += await _work(spool, kept, dice, clock)
        finally:
            await spool.close()
        if not disk.is_out_of_power:
            lose_power()
    finally:
        disk.unregister()
    return sure


async def _work(spool: SqliteSpool, kept: Kept, dice: random.Random, clock: HandClock) -> list[str]:
    """Append a few side by side, settle some of what is leased, give the rest back, replay; return what was wrong."""

    async def append(number: int) -> None:
        await stored(spool, [envelope(number, clock)])
        kept.acknowledged.add(number)

    first, kept.next_number = kept.next_number, kept.next_number + dice.randint(1, 8)
    await asyncio.gather(*(append(number) for number in range(first, kept.next_number)))
    route = dice.choice(list(RouteName))
    leases = list(await leased(spool, route, fresh=6, retry=6))
    newest = await spool.lease_newest(route) if dice.random() < 0.3 else None
    leases += [newest] if newest is not None else []
    wrong = [fault for one in leases if (fault := kept.fault_of(number_of(one)))]
    done = [one for one in leases if dice.random() < 0.6]
    for state in (State.DELIVERED, State.DEAD):
        part = done[::2] if state is State.DELIVERED else done[1::2]
        if part:
            await settle(spool, [one.sequence for one in part], state, reason="" if state is State.DELIVERED else "no")
            kept.settled.update(map(number_of, part))
            kept.dead.update((number_of(one), one.sequence) for one in part if state is State.DEAD)
    back = [one.sequence for one in leases if one not in done]
    if back:
        await give_back(spool, back, clock.now_ms + dice.choice((0, 0, 50)))
    if kept.dead and dice.random() < 0.3:
        number = dice.choice(list(kept.dead))
        kept.settled.discard(number)
        kept.replayed.add(number)
        await spool.requeue([kept.dead.pop(number)])
    clock.now_ms += dice.randrange(100)
    return wrong


async def _judge(after: Path, sure: Kept, kept: Kept, found: Cuts) -> bool:
    """Open what the cut has left and compare; what it holds is what is kept from now. False when it does not open."""
    try:
        states, totals = await _read(after)
    except Exception as error:  # noqa: BLE001 - in what way it cannot be read is told
        found.lost.append(f"cut {found.cuts}: it cannot be read: {error!r}")
        return False
    settled = {number for number, state in states.items() if state is not State.PENDING}
    found.lost += [f"cut {found.cuts}: event {number}" for number in sorted(sure.acknowledged - states.keys())]
    found.unsettled += [f"cut {found.cuts}: event {number}" for number in sorted(sure.settled - settled)]
    if not all(one.is_balanced() for one in totals.values()):
        found.wrong.append(f"cut {found.cuts}: the totals do not balance: {totals}")
    if sum(one.accepted for one in totals.values()) != len(states):
        found.wrong.append(f"cut {found.cuts}: {totals} with {len(states)} events")
    kept.acknowledged, kept.settled = set(states), settled
    kept.dead = {number: sequence for number, sequence in kept.dead.items() if states.get(number) is State.DEAD}
    return True


async def _read(folder: Path) -> tuple[dict[int, State], Mapping[RouteName, Totals]]:
    """Return the state of each event that is there, by number, and the totals."""
    spool = await _open(folder, HandClock())
    try:
        rows = (await spool.events(EventQuery(limit=100_000))).rows
        return {int(row.labels.message_id[1:]): row.state for row in rows}, (await spool.facts()).totals
    finally:
        await spool.close()


def partition_of(number: int) -> str:
    """Return the partition of an event; "" where there is no order."""
    return f"p{number % 5}" if number % 3 else ""


def number_of(lease: Lease) -> int:
    """Return the number of an event."""
    return int.from_bytes(lease.envelope.event_key, "big")


def envelope(number: int, clock: HandClock) -> Envelope:
    """Return the event of a number."""
    return Envelope(
        route=list(RouteName)[number % 2],
        event_key=number.to_bytes(16, "big"),
        partition_key=partition_of(number),
        received_at_ms=clock.now_ms,
        payload=b'{"n":%d,"x":"%b"}' % (number, b"x" * (number * 37 % 900)),
        source="webhook",
        labels=Labels(type="t", event="e", message_id=f"m{number}", user_id=f"u{number % 5}"),
    )


async def _open(folder: Path, clock: HandClock, vfs: str | None = None) -> SqliteSpool:
    reporter = Reporter(Metrics(), structlog.wrap_logger(structlog.ReturnLogger()))  # it prints nothing
    return await SqliteSpool.open(folder, limits=LIMITS, clock=clock, reporter=reporter, vfs=vfs)
