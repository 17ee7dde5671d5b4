"""Lend events and take them back: the two desks, what feeds them, and who waits for work.

The desks decide, the writer thread reads and writes; this keeps the two in step on the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from forwarder.model import Demand, Lease, Returned, Settlement
from forwarder.ports import Clock
from forwarder.spool.commits import Commits
from forwarder.spool.desk import LendingDesk
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.codes import STATE_CODES
from forwarder.spool.store.feed import Fed, feed, fetch_promoted, newest
from forwarder.spool.store.jobs import Notice
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.settlement import Release, release, settle
from forwarder.spool.store.settlement import Settlement as Final
from forwarder.spool.store.transaction import Candidate, Transaction

_RECHECK_S = 1.0  # wall clocks jump: a due time is looked at again at least this often
_LOOKS_MAX = 8
_FEED_AGAIN_S = 0.5  # after a feed that failed


class Lending:
    """Everything about leases, by the routes' codes. Lives on the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, commits: Commits, *, limits: SpoolLimits, clock: Clock) -> None:
        self._loop = loop
        self._commits = commits
        self._clock = clock
        self._desks = tuple(LendingDesk(route, cache_bytes_max=limits.cache_bytes_max) for route in (0, 1))
        self._feeds: list[asyncio.Future[None] | None] = [None, None]
        self._feeds_again_s = [0.0, 0.0]
        self._listeners: list[Callable[[], None] | None] = [None, None]
        self._timers: list[asyncio.TimerHandle | None] = [None, None]
        self._seen_ms = 0
        self._is_owing = False
        self._is_closed = False

    def __repr__(self) -> str:
        """Show the desks."""
        return f"Lending({self._desks[0]!r}, {self._desks[1]!r})"

    async def start(self) -> None:
        """Read what is there to be lent first."""
        for code in (0, 1):
            await self._feed(code, fresh_max=0, retry_max=0)

    def close(self) -> None:
        """Lend nothing more, and wake who waits."""
        self._is_closed = True
        self.wake()

    def lease(self, code: int, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand; see `ports.Spool.lease`."""
        desk = self._desks[code]
        if not self._may_lend(code):
            return ()
        leases = desk.take(fresh_max=demand.fresh_max, retry_max=demand.retry_max, bytes_max=demand.bytes_max)
        if desk.wants_more() or desk.wants_feed(now_ms=self._now_ms(), retry_max=demand.retry_max):
            self._feed(code, fresh_max=demand.fresh_max, retry_max=demand.retry_max)
        self._watch(code)
        return leases

    async def refill(self, code: int, demand: Demand) -> None:
        """Read what of the demand is on disk only."""
        desk = self._desks[code]
        for _ in range(_LOOKS_MAX):
            if not desk.wants_feed(now_ms=self._now_ms(), retry_max=demand.retry_max) or not self._may_lend(code):
                return
            await asyncio.shield(self._feed(code, fresh_max=demand.fresh_max, retry_max=demand.retry_max))

    async def lease_newest(self, code: int) -> Lease | None:
        """Lend the newest due event; see `ports.Spool.lease_newest`."""
        desk = self._desks[code]
        for _ in range(_LOOKS_MAX):  # one that cannot be lent yet is known as such at the next look
            if not self._may_lend(code):
                return None
            if desk.knows_newest(now_ms=self._now_ms()):
                return desk.take_newest()
            is_found, lease = await self._lend_newest(code, desk)
            if lease is not None or not is_found:
                return lease
        return None

    async def _lend_newest(self, code: int, desk: LendingDesk) -> tuple[bool, Lease | None]:
        """Read the newest and lend it; tell whether there was one, too."""
        known = desk.out_of_reach()
        lent: list[Lease] = []

        def work(transaction: Transaction) -> tuple[Candidate | None, list[Candidate], list[Promoted]]:
            candidate, promoted = newest(transaction, code, known=known)
            return candidate, fetch_promoted(transaction, promoted), promoted

        def heard(result: tuple[Candidate | None, list[Candidate], list[Promoted]]) -> None:
            desk.promoted(*result[1:])
            # Lent as its commit is heard: by the time the caller goes on, another may have settled it.
            if result[0] is not None and self._may_lend(code):
                lent.extend(lease for lease in (desk.lend_newest(result[0]),) if lease is not None)

        future = self._commits.begin(work, heard=heard, is_read=True)
        try:
            candidate, _, _ = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda _: desk.take_back(lent))
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        return candidate is not None, lent[0] if lent else None

    def on_work(self, code: int, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._listeners[code] = wake
        self._watch(code)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle or give back those of these that are lent, in one commit."""
        claims = [
            (one, desk, candidates)
            for one in settlements
            for desk, candidates in self._claim(list(dict.fromkeys(one.sequences)))
        ]
        if not claims:
            return
        await self._commits.run(
            partial(_write, claims=claims),
            heard=self._heard_settlements,
            missed=lambda: _unclaim([c for _, _, candidates in claims for c in candidates]),
            must_succeed=True,
        )
        self.wake()

    def _heard_settlements(self, results: Sequence[Any]) -> None:
        for desk, candidates, result in results:
            if isinstance(result, tuple):
                desk.settled(candidates)
                desk.promoted(*result)
            else:
                desk.released(result)

    def lent_of(self, sequences: Sequence[int]) -> list[int]:
        """Return those of these that are lent."""
        return [s for s in dict.fromkeys(sequences) if any(s in desk.lent for desk in self._desks)]

    def noted(self, sequence: int, progress: bytes) -> None:
        """Hear of an event's progress."""
        for desk in self._desks:
            desk.noted(sequence, progress)

    def reset(self) -> None:
        """Look at everything anew: older events became pending."""
        for desk in self._desks:
            desk.reset()
        self.wake()

    def hear(self, notice: Notice) -> None:
        """Hear of a commit, before those who asked for it do."""
        for code, desk in enumerate(self._desks):
            events = notice.intake.lendable[code]
            desk.appended(events, last_sequence=notice.last_sequence)
            if events:
                self._wake_route(code)
        if notice.is_unsettling:
            self.reset()

    def hear_owing(self, *, is_owing: bool) -> None:
        """Hear whether settlements wait for the disk: nothing is lent meanwhile."""
        self._is_owing = is_owing
        self.wake()

    def wake(self) -> None:
        """Let everybody look again."""
        for code in (0, 1):
            self._wake_route(code)

    def _claim(self, sequences: Sequence[int]) -> list[tuple[LendingDesk, list[Candidate]]]:
        """Take the lent ones of these for one settlement each; others are not ours to settle."""
        claims = []
        for desk in self._desks:
            candidates = [c for s in sequences if (c := desk.lent.get(s)) is not None and not c.claim()]
            if candidates:
                claims.append((desk, candidates))
        return claims

    def _may_lend(self, code: int) -> bool:
        return not self._is_owing and not self._is_closed and self._loop.time() >= self._feeds_again_s[code]

    def _feed(self, code: int, *, fresh_max: int, retry_max: int) -> "asyncio.Future[None]":
        """Have the desk fed; one feed at a time. The future never fails."""
        under_way = self._feeds[code]
        if under_way is not None and not under_way.done():
            return under_way
        desk = self._desks[code]
        wish = desk.wish(now_ms=self._now_ms(), fresh_max=fresh_max, retry_max=retry_max)
        future: asyncio.Future[None] = self._loop.create_future()

        def work(transaction: Transaction) -> tuple[Fed, list[Candidate]]:
            fed = feed(transaction, wish)
            return fed, fetch_promoted(transaction, fed.promoted)

        job = self._commits.begin(work, heard=partial(self._heard_fed, desk, desk.generation), is_read=True)
        job.add_done_callback(partial(self._feed_ended, code, future))
        self._feeds[code] = future
        return future

    def _heard_fed(self, desk: LendingDesk, generation: int, result: tuple[Fed, list[Candidate]]) -> None:
        fed, promoted = result
        desk.fed(fed, generation=generation)
        desk.promoted(promoted, fed.promoted)
        self.wake()

    def _feed_ended(
        self, code: int, future: "asyncio.Future[None]", job: "asyncio.Future[tuple[Fed, list[Candidate]]]"
    ) -> None:
        if job.cancelled() or job.exception() is not None:
            self._feeds_again_s[code] = self._loop.time() + _FEED_AGAIN_S
        if not future.done():
            future.set_result(None)

    def _now_ms(self) -> int:
        now_ms = self._clock.wall_ms()
        if now_ms < self._seen_ms:
            for desk in self._desks:
                desk.clock_went_back()
        self._seen_ms = now_ms
        return now_ms

    def _watch(self, code: int) -> None:
        """Call the listener when the next event is due, and look at the clock again at least each second."""
        timer = self._timers[code]
        if timer is not None:
            timer.cancel()
        due_ms = self._desks[code].next_due_ms()
        until_s = _RECHECK_S if due_ms is None else max(0.001, (due_ms - self._now_ms()) / 1000)
        if not self._is_closed and self._listeners[code] is not None:
            self._timers[code] = self._loop.call_later(min(_RECHECK_S, until_s), self._due, code)

    def _due(self, code: int) -> None:
        if self._may_lend(code) and self._desks[code].has_work(now_ms=self._now_ms()):
            self._wake_route(code)
        self._watch(code)

    def _wake_route(self, code: int) -> None:
        wake = self._listeners[code]
        if wake is not None:
            wake()


def _write(
    transaction: Transaction, claims: Sequence[tuple[Settlement, LendingDesk, Sequence[Candidate]]]
) -> list[tuple[LendingDesk, Sequence[Candidate], Any]]:
    results: list[tuple[LendingDesk, Sequence[Candidate], Any]] = []
    for one, desk, candidates in claims:
        if isinstance(one, Returned):
            wish = Release(
                candidates=candidates,
                not_before_ms=one.not_before_ms,
                reason=one.reason,
                attempt=one.attempt,
                counts=one.counts,
            )
            results.append((desk, candidates, release(transaction, wish)))
        else:
            final = Final(candidates=candidates, state=STATE_CODES[one.state], reason=one.reason, attempt=one.attempt)
            results.append((desk, candidates, _settle(transaction, final)))
    return results


def _settle(transaction: Transaction, wish: Final) -> tuple[list[Candidate], list[Promoted]]:
    promoted = settle(transaction, wish).promoted
    return fetch_promoted(transaction, promoted), promoted


def _unclaim(candidates: Sequence[Candidate]) -> None:
    """Leave them lent, to be settled by another call."""
    for candidate in candidates:
        candidate.is_settling = False
