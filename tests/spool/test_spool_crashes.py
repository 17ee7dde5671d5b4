"""A daemon-like loop that is killed again and again, judged against what it had acknowledged."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BUDGET_S = 4.0
RESTARTS_MIN = 5
CHILD = """
import asyncio, random, sys
from pathlib import Path
import structlog
from stand_ins.spool_acts import stored
from forwarder.clock import SystemClock
from forwarder.model import Envelope, RouteName, State
from forwarder.ports import EventQuery
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.spool_acts import Work, give_back, leased, settle
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.spool_acts import leased, give_back

folder, start, seed, is_forgetful = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "forgetful"
ROUTES = list(RouteName)
LIMITS = SpoolLimits(cache_bytes_max=400, reserve_bytes=4_096, wal_pages_max=60)
dice = random.Random(seed)
clock = SystemClock()

def say(*words):
    print(*words, flush=True)

def number_of(lease):
    return int.from_bytes(lease.envelope.event_key, "big")

async def open_spool():
    reporter = Reporter(Metrics(), structlog.get_logger())
    return await SqliteSpool.open(folder, limits=LIMITS, clock=clock, reporter=reporter)

async def main():
    spool = await open_spool()
    facts = await spool.facts()
    totals = facts.totals.values()
    say("totals", int(all(t.is_balanced() for t in totals)), sum(t.accepted for t in totals),
        sum(t.delivered + t.dead for t in totals), min(facts.unsettled_bytes.values()))
    numbers = iter(range(start, 10**9))

    async def append():
        for number in numbers:
            envelope = Envelope(route=ROUTES[number % 2], event_key=number.to_bytes(16, "big"),
                partition_key=f"p{number % 10}" if number % 3 else "", received_at_ms=clock.wall_ms(),
                payload=b"x" * (number % 90))
            say("try", number)
            if is_forgetful and number % 50 == 0:
                say("took", number)  # the control: acknowledged before it is on disk
                continue
            receipt = await stored(spool, [envelope, envelope])
            assert (receipt.accepted, receipt.duplicates) == (1, 1), receipt
            say("took", number)
            await asyncio.sleep(dice.random() / 200)

    async def again():
        while True:
            await asyncio.sleep(0.02)
            rows = (await spool.events(EventQuery(state=State.DEAD, limit=5))).rows
            if rows:
                row = dice.choice(rows)
                # Said before, because who follows may be leased before the answer.
                say("unbury", (int.from_bytes((await spool.event(row.sequence)).event_key, "big")))
                await spool.requeue([row.sequence])

    async def work_on(route):
        work = Work(spool, route)
        while True:
            await work.wait(within_s=1)
            leases = await leased(spool, route, fresh=8, retry=4, size=500)
            newest = await spool.lease_newest(route) if dice.random() < 0.3 else None
            for lease in [*leases, *([newest] if newest else [])]:
                number, choice = number_of(lease), dice.random()
                say("leased", number)
                if choice < 0.6:
                    say("settling", number)
                    await settle(spool, [lease.sequence], State.DELIVERED)
                    say("done", number)
                elif choice < 0.65:
                    say("settling", number)
                    await settle(spool, [lease.sequence], State.DEAD, reason="refused")
                    say("buried", number)
                elif choice < 0.8:
                    await give_back(spool, [lease.sequence], clock.wall_ms() + 30)
                else:
                    await give_back(spool, [lease.sequence], 0, counts=False)

    await asyncio.gather(*(append() for _ in range(6)), *(work_on(route) for route in ROUTES), again())

async def drain():
    spool = await open_spool()
    for route in ROUTES:
        work, is_empty = Work(spool, route), False
        while not is_empty:
            await work.wait(within_s=0.1)
            leases = await leased(spool, route, fresh=500, retry=500)
            is_empty = not leases and not any(t.pending for r, t in (await spool.facts()).totals.items() if r is route)
            for lease in leases:
                say("leased", number_of(lease))
                say("settling", number_of(lease))
                await settle(spool, [lease.sequence], State.DELIVERED)
                say("done", number_of(lease))
    facts = await spool.facts()
    say("drained", sum(b.pending for b in facts.totals.values()), sum(b.accepted for b in facts.totals.values()),
        sum(facts.unsettled_bytes.values()))
    await spool.close()

asyncio.run(drain() if start < 0 else main())
"""


@dataclass
class Facts:
    """What the killed processes had acknowledged, and what they did against it."""

    tried: set[int] = field(default_factory=set)
    known_before: dict[int, int] = field(default_factory=dict)  # by number: how many were acknowledged then
    taken_at: dict[int, int] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    buried: set[int] = field(default_factory=set)
    settling: set[int] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)
    waiting: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    faults: list[str] = field(default_factory=list)
    drained: list[int] = field(default_factory=list)

    def hear(self, line: str) -> None:
        """Hear of one fact, in the order of their making."""
        word, *rest = line.split()
        numbers = [int(one) for one in rest]
        getattr(self, f"hear_{word}")(*numbers)

    def hear_totals(self, is_balanced: int, accepted: int, settled: int, unsettled_bytes: int) -> None:
        """Hear of the totals at a reopening."""
        if not is_balanced or unsettled_bytes < 0:
            self.faults.append("the totals do not balance")
        if not len(self.taken) <= accepted <= len(self.tried):
            self.faults.append(f"{accepted} accepted, {len(self.taken)} acknowledged, {len(self.tried)} tried")
        if settled < len(self.done - self.replayed):
            self.faults.append(f"{settled} settled, {len(self.done)} acknowledged")

    def hear_try(self, number: int) -> None:
        """Hear that it is about to be appended: all that were acknowledged by now are older."""
        self.tried.add(number)
        self.known_before[number] = len(self.taken_at)

    def hear_took(self, number: int) -> None:
        """Hear that it is on disk."""
        self.taken.add(number)
        self.taken_at[number] = len(self.taken_at)
        if number % 3:
            self.waiting[number % 2, number % 10].add(number)

    def hear_unbury(self, number: int) -> None:
        """Hear that a dead one is wanted again: who follows it may be under way already."""
        self.replayed.add(number)

    def hear_leased(self, number: int) -> None:
        """Hear that it was leased: never one that is done, never before an older one of its partition."""
        if number in self.done or (number in self.buried and number not in self.replayed):
            self.faults.append(f"{number} was settled and is leased")
        older = {one for one in self.waiting[number % 2, number % 10] if self.is_before(one, number)}
        if number % 3 and older:
            self.faults.append(f"{number} is leased before {sorted(older)[:3]}")

    def is_before(self, one: int, number: int) -> bool:
        """Tell whether one is surely older and surely pending: never buried, and no settlement under way."""
        is_older = self.taken_at[one] < self.known_before[number]
        return is_older and not {one} & (self.done | self.buried | self.settling | self.replayed)

    def hear_settling(self, number: int) -> None:
        """Hear that its settlement is under way: after a kill it may be made or not."""
        self.settling.add(number)

    def hear_done(self, number: int) -> None:
        """Hear that it is settled for good."""
        self.done.add(number)
        self.waiting[number % 2, number % 10].discard(number)

    def hear_buried(self, number: int) -> None:
        """Hear that it is dead."""
        self.buried.add(number)

    def hear_drained(self, *numbers: int) -> None:
        """Hear of the end: nothing pending, nothing weighed."""
        self.drained = list(numbers)


async def live_once(folder: Path, facts: Facts, *, start: int, seed: int, manner: str, lives_s: float | None) -> None:
    """Run the loop, and kill it after a while; None lets it end by itself."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        str(folder),
        str(start),
        str(seed),
        manner,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"},
    )
    assert child.stdout is not None
    lines: list[bytes] = [await asyncio.wait_for(child.stdout.readline(), 20)]
    if lives_s is not None:
        asyncio.get_running_loop().call_later(lives_s, child.send_signal, signal.SIGKILL)
    out, errors = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode in (0, -signal.SIGKILL), errors.decode()
    # The last line may have been cut off in the middle.
    for line in (lines[0] + out).decode().split("\n")[:-1]:
        facts.hear(line)


async def crash_on(folder: Path, *, manner: str, budget_s: float, restarts_min: int) -> Facts:
    """Let it live and die until the budget is spent; then drain what is left."""
    facts = Facts()
    seed = random.randrange(10**6)  # noqa: S311 - a seed that is shown when it fails
    dice = random.Random(seed)  # noqa: S311 - no secret
    until_s, restarts = time.monotonic() + budget_s, 0
    while time.monotonic() < until_s or restarts < restarts_min:
        start = max(facts.tried, default=0) + 1
        lives_s = 0.05 + dice.random() * 0.7
        await live_once(folder, facts, start=start, seed=seed + restarts, manner=manner, lives_s=lives_s)
        restarts += 1
    await live_once(folder, facts, start=-1, seed=seed, manner=manner, lives_s=None)
    pending, accepted, unsettled_bytes = facts.drained
    if pending or unsettled_bytes:
        facts.faults.append(f"{pending} pending and {unsettled_bytes} bytes unsettled after the end")
    if not len(facts.taken) <= accepted <= len(facts.tried):
        facts.faults.append(f"{accepted} accepted of {len(facts.taken)} to {len(facts.tried)}")
    lost = facts.taken - facts.done - facts.buried - facts.settling
    if lost:
        facts.faults.append(f"lost: {sorted(lost)[:5]}, {len(lost)} in all")
    facts.faults = [f"seed {seed}: {fault}" for fault in facts.faults]
    return facts


async def test_a_daemon_that_is_killed_again_and_again_keeps_its_word(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, nothing settled is leased again, partitions keep their order, totals balance."""
    facts = await crash_on(tmp_path / "data", manner="honest", budget_s=BUDGET_S, restarts_min=RESTARTS_MIN)
    assert facts.faults == []
    assert len(facts.done) > 100


async def test_a_loop_that_acknowledges_too_early_is_noticed(tmp_path: Path) -> None:
    """Control: where some events are acknowledged before they are on disk, the same check finds them missing."""
    facts = await crash_on(tmp_path / "data", manner="forgetful", budget_s=0.0, restarts_min=2)
    assert any("lost" in fault for fault in facts.faults)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        pytest.param(["try 1", "took 1", "done 1", "leased 1"], "was settled and is leased", id="a settled one"),
        pytest.param(["try 1", "took 1", "try 11", "took 11", "leased 11"], "is leased before", id="one overtakes"),
        pytest.param(["totals 0 0 0 0"], "do not balance", id="the totals are off"),
        pytest.param(["try 1", "took 1", "totals 1 0 0 0"], "acknowledged", id="an event is missing"),
    ],
)
def test_the_judge_finds_faults(lines: list[str], fault: str) -> None:
    """Control: each kind of broken word is a fault."""
    facts = Facts()
    for line in lines:
        facts.hear(line)
    assert any(fault in one for one in facts.faults)
