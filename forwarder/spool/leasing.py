"""The two lease queues on the event loop: what reads for them, what tells them, and who listens.

The queues decide; who writes and who reads, beside the event loop, is the engine's. This keeps them in step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from forwarder.model import Demand, Lease, Returned
from forwarder.ports import Clock
from forwarder.spool.claims import Claim, Claims, Heads, Moves, is_unchanged
from forwarder.spool.lease_queue import LeaseQueue
from forwarder.spool.lease_window import Arrival, Reads, Refill, Wanted
from forwarder.spool.limits import SpoolLimits

_RECHECK_S = 1.0  # wall clocks jump: a due time is looked at again at least this often
_LOOKS_MAX = 8
_READ_AGAIN_S = 0.5  # after a read that failed
_NOTHING = Demand(fresh_max=0, retry_max=0, bytes_max=0)


class Leasing:
    """Everything about leases, by the routes' codes. Lives on the event loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reads: Reads,
        *,
        limits: SpoolLimits,
        clock: Clock,
        last_sequence: int,
        damaged: Callable[[int, Sequence[int]], Awaitable[None]],
        read_failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._reads = reads
        self._clock = clock
        self._damaged = damaged
        self._read_failed = read_failed
        self.queues = tuple(
            LeaseQueue(last_sequence=last_sequence, cache_bytes_max=limits.cache_bytes_max) for _ in (0, 1)
        )
        self._under_way: list[asyncio.Future[None] | None] = [None, None]
        self._read_again_s = [0.0, 0.0]
        self._listeners: list[Callable[[], None] | None] = [None, None]
        self._timers: list[asyncio.TimerHandle | None] = [None, None]
        self._seen_ms = 0
        self.claims = Claims(self.queues, self._wake_route)
        self.is_deferring = False
        self._is_damage_left = False
        self._is_closed = False

    def __repr__(self) -> str:
        """Show the queues."""
        return f"Leasing({self.queues[0]!r}, {self.queues[1]!r})"

    async def start(self) -> None:
        """Read what is there to be leased first."""
        for route in (0, 1):
            await self._refill(route, _NOTHING)

    def close(self) -> None:
        """Lease nothing more, and wake who listens."""
        self._is_closed = True
        for timer in self._timers:
            if timer is not None:
                timer.cancel()
        self.wake()

    async def end(self) -> None:
        """Wait for the reads that are under way, and close the connection."""
        await self._reads.close()

    # --- leasing ---

    def lease(self, route: int, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand; see `ports.Spool.lease`."""
        if not self._may_lease(route):
            return ()
        queue = self.queues[route]
        leases = queue.take(demand)
        now_ms = self._now_ms()
        if queue.window.runs_low() or queue.lacks(demand, now_ms=now_ms):
            self._refill(route, demand)
        if not leases:
            self._watch(route)
        return leases

    async def refill(self, route: int, demand: Demand) -> None:
        """Read what of the demand is on disk only."""
        for _ in range(_LOOKS_MAX):
            queue = self.queues[route]
            is_short = queue.window.runs_short(demand.fresh_max) or queue.lacks(demand, now_ms=self._now_ms())
            if not is_short or not self._may_lease(route):
                return
            await asyncio.shield(self._refill(route, demand))

    async def look(self, route: int) -> None:
        """Read what arrived since the last read; one that is under way may have begun before it did."""
        under_way = self._under_way[route]
        if under_way is not None and not under_way.done():
            await under_way
        await asyncio.shield(self._refill(route, _NOTHING))

    async def lease_newest(self, route: int) -> Lease | None:
        """Lease the newest due event; see `ports.Spool.lease_newest`."""
        queue = self.queues[route]
        for _ in range(_LOOKS_MAX):  # one that cannot be leased yet is known as such at the next look
            if not self._may_lease(route):
                return None
            if queue.newest_is_known(now_ms=self._now_ms()):
                return queue.take_newest()
            is_found, lease = await self._lease_newest(route, queue)
            if lease is not None or not is_found:
                return lease
        return None

    async def _lease_newest(self, route: int, queue: LeaseQueue) -> tuple[bool, Lease | None]:
        """Read the newest and lease it; tell whether there was one, too."""
        known, now_ms, generation = queue.out_of_reach(), self._now_ms(), queue.generation
        queue.meanwhile.begin()
        try:
            lease, is_listed, damaged = await self._reads.newest(route, known=known, now_ms=now_ms)
            await self._hear_damaged(route, damaged)
            if lease is None or not self._may_lease(route) or generation != queue.generation:
                return lease is not None, None
            return True, queue.lease_read(lease, is_listed=is_listed)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next read may do
            self._hear_failure(route, error)
            return False, None
        finally:
            queue.meanwhile.end()

    # --- settling ---

    def settled(self, claims: Sequence[Claim], moves: Moves) -> None:
        """Hear that the claims are on disk."""
        self.claims.drop(claims)
        for claim in claims:
            queue = self.queues[claim.route]
            if not isinstance(claim.settlement, Returned):
                queue.settled(claim.leases)
            elif is_unchanged(claim.settlement):
                queue.give_back_unchanged([queue.leased.get(one.sequence, one) for one in claim.leases])
        self.moved(moves)
        for route in {claim.route for claim in claims}:
            self._wake_route(route)

    def moved(self, moves: Moves) -> None:
        """Hear who can be leased now, or later."""
        for route, back in moves.given_back:
            self.queues[route].given_back(
                back.lease, is_head=back.is_head, kind=back.kind, not_before_ms=back.not_before_ms
            )
        for route, kind, not_before_ms in moves.waits:
            self.queues[route].due.tell(kind, not_before_ms)
        for route, sequence in moves.promoted:
            self.queues[route].promoted(sequence)
        routes = {entry[0] for entry in moves.given_back} | {entry[0] for entry in moves.waits}
        for route in routes | {entry[0] for entry in moves.promoted}:
            self._wake_route(route)
            self._watch(route)

    # --- what happened, in the order of the commits ---

    def arrived(self, arrivals: Sequence[Arrival], *, last_sequence: int) -> None:
        """Hear of a commit's new events, by the routes' codes."""
        for route, arrival in enumerate(arrivals):
            self.queues[route].arrived(arrival, last_sequence=last_sequence)
            if arrival.leases:
                self._wake_route(route)

    def requeued(self, counts: Sequence[int], heads: Heads) -> None:
        """Hear that older events became pending."""
        for route, count in enumerate(counts):
            if count:
                self.queues[route].requeued(heads[route])
                self._wake_route(route)

    def noted(self, sequence: int, progress: bytes) -> None:
        """Hear of an event's progress."""
        self.claims.note_ended(sequence)
        for queue in self.queues:
            queue.noted(sequence, progress)

    def damage_stays(self) -> None:
        """Hear that damaged events could not be set aside: nothing can be written just now."""
        self._is_damage_left = True

    def disk_recovered(self) -> None:
        """Hear that everything can be written again: what is damaged is met again, and set aside."""
        if self._is_damage_left:
            self._is_damage_left = False
            self.reset()

    def reset(self) -> None:
        """Look at everything anew."""
        for queue in self.queues:
            queue.reset()
        self.wake()

    def on_work(self, route: int, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._listeners[route] = wake
        if self.queues[route].has_work(now_ms=self._now_ms()):
            self._wake_route(route)
        self._watch(route)

    def wake(self) -> None:
        """Let every listener look again."""
        for route in (0, 1):
            self._wake_route(route)

    # --- inside ---

    def _may_lease(self, route: int) -> bool:
        return not self.is_deferring and not self._is_closed and self._loop.time() >= self._read_again_s[route]

    def _refill(self, route: int, demand: Demand) -> "asyncio.Future[None]":
        """Have the queue filled; one read at a time. The future never fails."""
        under_way = self._under_way[route]
        if under_way is not None and not under_way.done():
            return under_way
        now_ms = self._now_ms()
        wanted = self.queues[route].wants(demand, now_ms=now_ms)
        task = self._loop.create_task(self._read_wanted(route, wanted, now_ms))
        self._under_way[route] = task
        return task

    async def _read_wanted(self, route: int, wanted: Wanted, now_ms: int) -> None:
        queue = self.queues[route]
        generation = queue.generation
        try:
            result: Refill = await self._reads.refill(route, wanted, now_ms=now_ms)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next read may do
            queue.end_read(wanted)
            self._hear_failure(route, error)
            return
        try:
            queue.refilled(result, wanted, generation=generation)
        except Exception as error:  # noqa: BLE001 - what the queue may have missed is on disk
            queue.reset()
            self._hear_failure(route, error)
        await self._hear_damaged(route, result.damaged)
        self._wake_route(route)
        self._watch(route)

    async def _hear_damaged(self, route: int, sequences: Sequence[int]) -> None:
        # What is in hand is whole there, and its settlement is to come.
        damaged = [s for s in sequences if s not in self.queues[route].leased]
        if damaged:
            await self._damaged(route, damaged)

    def _hear_failure(self, route: int, error: Exception) -> None:
        if self._is_closed:
            return
        self._read_again_s[route] = self._loop.time() + _READ_AGAIN_S
        self._loop.call_later(_READ_AGAIN_S, self._wake_route, route)
        self._read_failed(error)

    def _now_ms(self) -> int:
        now_ms = self._clock.wall_ms()
        if now_ms < self._seen_ms:
            for queue in self.queues:
                queue.due.ask_again()
        self._seen_ms = now_ms
        return now_ms

    def _watch(self, route: int) -> None:
        """Call the listener when the next event is due, and look at the clock again at least each second."""
        timer = self._timers[route]
        if timer is not None:
            timer.cancel()
        if self._is_closed or self._listeners[route] is None:
            return
        due_ms = self.queues[route].due.earliest_ms()
        until_s = _RECHECK_S if due_ms is None else max(0.001, (due_ms - self._now_ms()) / 1000)
        self._timers[route] = self._loop.call_later(min(_RECHECK_S, until_s), self._due, route)

    def _due(self, route: int) -> None:
        self._timers[route] = None
        if self._may_lease(route) and self.queues[route].has_work(now_ms=self._now_ms()):
            self._wake_route(route)
        if self._timers[route] is None:
            self._timers[route] = self._loop.call_later(_RECHECK_S, self._due, route)

    def _wake_route(self, route: int) -> None:
        wake = self._listeners[route]
        if wake is None:
            return
        try:
            wake()
        except Exception as error:  # noqa: BLE001 - a bug of the listener's must not keep the news from others
            self._loop.call_exception_handler({"message": "a route could not be woken", "exception": error})
