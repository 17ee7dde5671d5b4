"""Lend events and take them back: the two desks, what feeds them, and who waits for work.

The desks decide, the writer thread reads and writes; this keeps the two in step on the event loop.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from forwarder.errors import SpoolClosed
from forwarder.model import Attempt, Lease
from forwarder.ports import Clock
from forwarder.spool.commits import Commits
from forwarder.spool.desk import LendingDesk
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.feed import Fed, feed, fetch_promoted, newest
from forwarder.spool.store.jobs import Notice
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.settlement import Release, Settlement, release, settle
from forwarder.spool.store.transaction import Candidate, Transaction

_RECHECK_S = 1.0  # wall clocks jump: a due time is looked at again at least this often
_FEEDS_PER_LEASE_MAX = 8
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
        self._waiters: tuple[set[asyncio.Future[None]], set[asyncio.Future[None]]] = (set(), set())
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

    async def lease(self, code: int, *, fresh_max: int, retry_max: int, bytes_max: int) -> Sequence[Lease]:
        """Lend the oldest due events; see `ports.Spool.lease`."""
        desk = self._desks[code]
        leases: Sequence[Lease] = ()
        for _ in range(_FEEDS_PER_LEASE_MAX):
            if desk.wants_feed(now_ms=self._now_ms()) and self._may_lend(code):
                await asyncio.shield(self._feed(code, fresh_max=fresh_max, retry_max=retry_max))
            # Asked after the feed: things may have changed while it was under way.
            if not self._may_lend(code):
                return ()
            leases = desk.take(fresh_max=fresh_max, retry_max=retry_max, bytes_max=bytes_max)
            if leases or not desk.wants_feed(now_ms=self._now_ms()):
                break
        if desk.wants_more():
            self._feed(code, fresh_max=0, retry_max=0)
        return leases

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

    async def wait_for_work(self, code: int, *, timeout_s: float) -> bool:
        """Return True as soon as a lease might find something; see `ports.Spool.wait_for_work`."""
        deadline_s = self._loop.time() + timeout_s
        while not self._is_closed:
            if self._may_lend(code) and self._desks[code].has_work(now_ms=self._now_ms()):
                return True
            left_s = deadline_s - self._loop.time()
            if left_s <= 0:
                return False
            await self._sleep(code, min(left_s, self._until_due_s(code)))
        raise SpoolClosed("the spool is closed")

    async def settle(self, sequences: Sequence[int], *, state: int, reason: str, attempt: Attempt | None) -> None:
        """Settle those of these that are lent."""
        for desk, candidates in self._claim(sequences):
            wish = Settlement(candidates=candidates, state=state, reason=reason, attempt=attempt)
            await self._commits.run(
                partial(_settle, wish=wish),
                heard=partial(self._heard_settled, desk, candidates),
                missed=partial(_unclaim, candidates),
                must_succeed=True,
            )

    async def release(
        self, sequences: Sequence[int], *, not_before_ms: int, reason: str, attempt: Attempt | None, counts: bool
    ) -> None:
        """Give those of these back that are lent."""
        for desk, candidates in self._claim(sequences):
            wish = Release(
                candidates=candidates, not_before_ms=not_before_ms, reason=reason, attempt=attempt, counts=counts
            )
            await self._commits.run(
                partial(release, wish=wish),
                heard=desk.released,
                missed=partial(_unclaim, candidates),
                must_succeed=True,
            )
        self.wake()

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

    def _heard_settled(
        self, desk: LendingDesk, candidates: Sequence[Candidate], result: tuple[list[Candidate], list[Promoted]]
    ) -> None:
        desk.settled(candidates)
        desk.promoted(*result)
        if result[1]:
            self.wake()

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

    def _until_due_s(self, code: int) -> float:
        due_ms = self._desks[code].next_due_ms()
        if due_ms is None or not self._may_lend(code):
            return _RECHECK_S
        return min(_RECHECK_S, max(0.001, (due_ms - self._now_ms()) / 1000))

    async def _sleep(self, code: int, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[code].add(waiter)
        try:
            # Not `wait_for`: that of Python 3.11 swallows a cancellation that meets a result.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter
        finally:
            self._waiters[code].discard(waiter)

    def _wake_route(self, code: int) -> None:
        for waiter in self._waiters[code]:
            if not waiter.done():
                waiter.set_result(None)


def _settle(transaction: Transaction, wish: Settlement) -> tuple[list[Candidate], list[Promoted]]:
    promoted = settle(transaction, wish).promoted
    return fetch_promoted(transaction, promoted), promoted


def _unclaim(candidates: Sequence[Candidate]) -> None:
    """Leave them lent, to be settled by another call."""
    for candidate in candidates:
        candidate.is_settling = False
