"""A hold is one for all replicas: told, heard, probed by one at a time, and ended for all."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from forwarder.delivery.pacing import Backoff, CircuitBreaker, TripKind
from forwarder.delivery.shared_hold import SharedHold
from forwarder.model import RouteName
from forwarder.ports import Spool
from stand_ins.clock import HandClock
from stand_ins.kept_in_memory import KeptInMemory

OUT = RouteName.COURIER_TO_RUDDERSTACK


class Replica:
    """A route's breaker at one replica."""

    def __init__(self, kept: KeptInMemory, clock: HandClock) -> None:
        self.clock = clock
        self.breaker = CircuitBreaker(backoff=Backoff(), rng=lambda: 0.5)
        self.hold = SharedHold(OUT, spool=cast("Spool", kept), breaker=self.breaker, clock=clock)
        self.changes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.hold.watch(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def turn(self) -> None:
        """Look as the route's loop does, and let what it told be told."""

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            self._tasks.append(asyncio.create_task(work))

        self.hold.look(spawn)
        await asyncio.gather(*self._tasks)

    def held(self, reason: str = "401", kind: TripKind = TripKind.HELD) -> None:
        """Meet a wrong key."""
        self.breaker.hold(reason, kind=kind, now_s=self.clock.monotonic_s(), now_ms=self.clock.wall_ms())


def pair() -> tuple[Replica, Replica, KeptInMemory]:
    """Return two replicas on one spool."""
    kept, clock = KeptInMemory(), HandClock(1_800_000_000_000)
    return Replica(kept, clock), Replica(KeptInMemory(beside=kept), clock), kept


async def test_a_hold_met_by_one_holds_all() -> None:
    """The other stands still with the same reason and kind, and goes on when either hears another answer."""
    here, there, _ = pair()
    here.held("401: wrong key", TripKind.REFUSALS)
    await here.turn()
    assert there.breaker.trip is not None
    assert (there.breaker.trip.reason, there.breaker.trip.kind) == ("401: wrong key", TripKind.REFUSALS)
    await there.turn()
    there.clock.now_ms += 30_000
    there.breaker.close(started_s=there.clock.monotonic_s())
    await there.turn()
    assert here.breaker.is_closed
    assert (here.changes, there.changes) == (1, 1)
    await here.turn()
    assert there.breaker.is_closed


async def test_one_probes_at_a_time() -> None:
    """Of several that are due the first asks; the others do when it has not for as long as between two probes."""
    here, there, _ = pair()
    for replica in (here, there):
        replica.held()
        await replica.turn()
    assert [await replica.hold.may_probe() for replica in (here, there, here)] == [True, False, True]
    here.clock.now_ms += 26_000
    assert not await there.hold.may_probe()
    here.clock.now_ms += 1_000
    assert [await replica.hold.may_probe() for replica in (there, here)] == [True, False]
    here.clock.now_ms -= 3_600_000  # a clock that is far off keeps nobody from it for long
    assert await here.hold.may_probe()


async def test_a_hold_of_an_earlier_life_is_tried_at_once() -> None:
    """Whoever starts and finds a hold asks at once; one that is heard of later waits its time."""
    kept, clock = KeptInMemory(), HandClock(1_800_000_000_000)
    first = Replica(kept, clock)
    first.held()
    await first.turn()
    late = Replica(KeptInMemory(beside=kept), clock)
    late.hold._hear(await kept.get("route.courier_to_rudderstack.hold") or b"")  # noqa: SLF001 - as the first look does
    assert late.breaker.admits(now_s=clock.monotonic_s(), in_flight=0)
    first.breaker.close(started_s=float("inf"))
    await first.turn()
    first.held()
    await first.turn()
    assert late.breaker.is_held
    assert not late.breaker.admits(now_s=clock.monotonic_s(), in_flight=0)


async def test_a_spool_that_keeps_nothing_holds_nobody_up() -> None:
    """While nothing can be written each stands still and probes by itself, and tells it later."""
    here, there, kept = pair()
    kept.is_full = True
    here.held()
    await here.turn()
    assert await here.hold.may_probe()
    assert there.breaker.is_closed
    kept.is_full = False
    await here.turn()
    assert there.breaker.is_held


async def test_what_another_version_keeps_is_no_hold() -> None:
    """What cannot be read is taken for nothing."""
    here, there, kept = pair()
    await kept.put("route.courier_to_rudderstack.hold", b'["another kind",1,"x"]')
    assert (here.breaker.is_closed, there.breaker.is_closed) == (True, True)
