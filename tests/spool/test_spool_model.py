"""The spool on SQLite behaves as the one in memory, whatever is done to them, and across restarts."""

import asyncio
import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.archive_port import EventQuery
from forwarder.errors import NoSuchEvent
from forwarder.model import (
    Attempt,
    Envelope,
    Labels,
    Recurrence,
    Returned,
    RouteName,
    Settled,
    Settlement,
    State,
)
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import leased, stored

# A small cache and few events per key, so that cursors, partitions and duplicates all meet.
LIMITS = SpoolLimits(cache_bytes_max=60, reserve_bytes=4_096, replays_in_line_max=2)
ROUTES = list(RouteName)
SETTLED = (State.DELIVERED, State.FILTERED, State.UNMAPPED, State.DEAD)


numbers = st.integers(0, 30)
few = st.integers(0, 4)
picks = st.lists(st.integers(0, 9), min_size=1, max_size=3)
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=5)),
    st.tuples(st.just("recur"), st.integers(0, 2), st.sampled_from(["in", "out"])),
    st.tuples(st.just("lease"), st.sampled_from(ROUTES), few, few, st.sampled_from([1, 20, 10_000])),
    st.tuples(st.just("newest"), st.sampled_from(ROUTES)),
    st.tuples(st.just("settle"), picks, st.sampled_from(SETTLED), st.sampled_from(["", "refused"]), st.booleans()),
    st.tuples(st.just("give_back"), picks, st.sampled_from([-1, 0, 500, 5_000]), st.booleans(), st.booleans()),
    st.tuples(st.just("both"), picks, picks, st.sampled_from([0, 500])),
    st.tuples(st.just("note"), picks),
    st.tuples(st.just("record"), picks),
    st.tuples(st.just("requeue"), st.lists(st.integers(1, 30), min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("discard"), st.lists(st.integers(1, 30), min_size=1, max_size=3)),
    st.tuples(st.just("wait"), st.sampled_from([100, 1_000, 10_000, -700, -3_600_000])),
    st.tuples(st.just("far")),
    st.tuples(st.just("restart")),
)


class Pair:
    """Both spools, driven alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.model = MemorySpool(limits=LIMITS, clock=self.clock)
        self.leased: list[int] = []

    async def open(self) -> None:
        """Open the real one."""
        reporter = Reporter(Metrics(), structlog.get_logger())
        self.real = await SqliteSpool.open(self.folder, limits=LIMITS, clock=self.clock, reporter=reporter)

    async def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Do the same to both and compare what they say."""
        expected = await getattr(self.model, name)(*args, **kwargs)
        got = await getattr(self.real, name)(*args, **kwargs)
        assert got == expected, (name, args, kwargs)
        return got

    async def append(self, envelopes: list[Envelope]) -> None:
        """Append to both."""
        assert await stored(self.real, envelopes) == await stored(self.model, envelopes)

    async def settle(self, *settlements: Settlement) -> None:
        """Settle in both."""
        await self.both("settle", settlements)
        self.leased = [s for s in self.leased if not any(s in one.sequences for one in settlements)]

    def chosen(self, picks: list[int]) -> list[int]:
        """Return some of the leased ones."""
        return list(dict.fromkeys(self.leased[pick % len(self.leased)] for pick in picks)) if self.leased else []

    async def step(self, name: str, *args: Any) -> None:
        """Do one step."""
        await getattr(self, f"do_{name}")(*args)
        await self.compare()

    async def do_append(self, items: list[tuple[int, bool]]) -> None:
        """Append."""
        await self.append([self.envelope(number, has_order=has_order) for number, has_order in items])

    async def do_recur(self, subject: int, side: str) -> None:
        """Append an event without an id."""
        recurrence = Recurrence(resend_s=1, resend_max_s=8, subject=bytes([subject]), side=side)
        key = bytes([subject]) + side.encode()
        await self.append([self.envelope(1, key=key, recurrence=recurrence)])

    def envelope(
        self, number: int, *, has_order: bool = False, key: bytes | None = None, recurrence: Recurrence | None = None
    ) -> Envelope:
        """Return an envelope."""
        return Envelope(
            route=ROUTES[number % 2],
            event_key=number.to_bytes(16, "big") if key is None else key.ljust(16, b"."),
            partition_key=f"p{number % 3}" if has_order else "",
            received_at_ms=self.clock.now_ms,
            payload=b"%d" % number * 5,
            labels=Labels(type="t", event=f"e{number % 2}", message_id=f"m{number}", user_id=f"u{number % 4}"),
            recurrence=recurrence,
        )

    async def do_lease(self, route: RouteName, fresh: int, retry: int, size: int) -> None:
        """Lease."""
        expected = await leased(self.model, route, fresh=fresh, retry=retry, size=size)
        got = await leased(self.real, route, fresh=fresh, retry=retry, size=size)
        assert [msgspec.structs.replace(lease, follows=0) for lease in got] == expected
        self.leased += [lease.sequence for lease in got]

    async def do_newest(self, route: RouteName) -> None:
        """Lease from the other end."""
        lease, expected = await self.real.lease_newest(route), await self.model.lease_newest(route)
        assert (lease and msgspec.structs.replace(lease, follows=0)) == expected
        if lease is not None:
            self.leased.append(lease.sequence)

    async def do_settle(self, picks: list[int], state: State, reason: str, has_attempt: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Settle."""
        await self.settle(Settled(self.chosen(picks), state, reason, self.attempt(has_attempt)))

    async def do_give_back(self, picks: list[int], delay: int, counts: bool, has_attempt: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Give back."""
        due_ms = self.clock.now_ms + delay if delay >= 0 else 0
        await self.settle(Returned(self.chosen(picks), due_ms, "busy", self.attempt(has_attempt), counts))

    async def do_both(self, picks: list[int], others: list[int], delay: int) -> None:
        """Settle some and give others back in one commit."""
        first, second = self.chosen(picks), self.chosen(others)
        await self.settle(Settled(first, State.DELIVERED), Returned(second, self.clock.now_ms + delay))

    def attempt(self, has_one: bool) -> Attempt | None:  # noqa: FBT001 - drawn by hypothesis
        """Return an attempt, or none."""
        if not has_one:
            return None
        return Attempt(
            at_ms=self.clock.now_ms, duration_ms=1, operation="POST", status=503, outcome="o", reason="r", answer=b"a"
        )

    async def do_note(self, picks: list[int]) -> None:
        """Note progress."""
        for sequence in self.chosen(picks):
            await self.both("note", sequence, b"at %d" % self.clock.now_ms)

    async def do_record(self, picks: list[int]) -> None:
        """Record an attempt."""
        await self.both("record", self.chosen(picks), self.attempt(has_one=True))

    async def do_requeue(self, sequences: list[int], everything: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        """Replay."""
        await self.both("requeue", sequences, everything=everything)

    async def do_discard(self, sequences: list[int]) -> None:
        """Discard."""
        await self.both("discard", sequences)

    async def do_wait(self, ms: int) -> None:
        """Let time pass."""
        self.clock.now_ms += ms

    async def do_far(self) -> None:
        """Let sixty days pass, and the real one tidy."""
        self.clock.now_ms += 60 * 86_400_000
        self.model.forget_old()
        expected = await self.seen(self.model)
        async with asyncio.timeout(60):
            await self.real.put("turn", b"")  # the writer tidies behind each commit
            while await self.seen(self.real) != expected:  # noqa: ASYNC110 - a thread's doing
                await asyncio.sleep(0.002)

    @staticmethod
    async def seen(spool: MemorySpool | SqliteSpool) -> list[Any]:
        """Return every event whole."""
        rows = (await spool.events(EventQuery(limit=100))).rows
        with contextlib.suppress(NoSuchEvent):  # it was purged meanwhile
            return [await spool.event(row.sequence) for row in rows]
        return [None]

    async def do_restart(self) -> None:
        """Close the real one with everything leased, and open it again: as if nothing had been leased."""
        await self.model.settle([Returned(self.leased, 0, counts=False)])
        self.leased.clear()
        await self.real.close()
        await self.open()

    async def compare(self) -> None:
        """Compare what people see."""
        expected, got = await self.model.facts(), await self.real.facts()
        assert got.totals == expected.totals
        assert all(totals.is_balanced() for totals in got.totals.values())
        for name in ("unsettled_bytes", "retrying", "oldest_pending_ms"):
            assert getattr(got, name) == getattr(expected, name), name
        await self.both("events", EventQuery(limit=100))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=40))
def test_both_spools_do_the_same(history: list[tuple[Any, ...]]) -> None:
    """Any history gives the same leases, totals and listings in both, and the totals always balance."""

    async def run() -> None:
        with TemporaryDirectory() as folder:
            pair = Pair(Path(folder) / "data")
            await pair.open()
            try:
                for step in history:
                    await pair.step(*step)
                for state in State:
                    await pair.both("reasons", None, state, limit=10)
                    await pair.both("events", EventQuery(state=state, event="e1"))
                for row in (await pair.real.events(EventQuery(limit=100))).rows:
                    await pair.both("event", row.sequence)
                await pair.both("event_types", None, limit=10)
            finally:
                await pair.real.close()

    asyncio.run(run())
