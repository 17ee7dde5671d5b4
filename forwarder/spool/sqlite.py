"""The spool on SQLite: where events survive kill -9 and power loss until their destination said yes.

This is the asyncio side: it turns calls into jobs for the one writer thread, keeps the lending desks, and
hands reading to the archive. SQL is in `store/` and `reading/`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Attempt, Envelope, Lease, Receipt, RouteName, State
from forwarder.ports import AuditRow, Clock, EventDetail, EventPage, EventQuery, EventTypeRow, ReasonGroup, SpoolFacts
from forwarder.spool.desk import LendingDesk
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.reading.archive import SqliteArchive
from forwarder.spool.store.codes import DEAD, ROUTE_CODES, STATE_CODES
from forwarder.spool.store.database import open_writer, prepare_folder
from forwarder.spool.store.disk import Reserve
from forwarder.spool.store.feed import Fed, FeedWish, feed, fetch_promoted, newest
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.lock import FolderLock
from forwarder.spool.store.replay import discard, exhume
from forwarder.spool.store.settlement import Release, Settlement, release, settle
from forwarder.spool.store.transaction import Candidate, Transaction
from forwarder.spool.store.writer import AppendJob, Condition, Job, Notice, Writer
from forwarder.telemetry.reporter import Reporter

T = TypeVar("T")
_REPLAY_CHUNK = 500
_RECHECK_S = 1.0  # wall clocks jump: a due time is looked at again at least this often
_FEEDS_PER_LEASE_MAX = 8
_FEED_AGAIN_S = 0.5


class SqliteSpool:
    """A spool and its archive in one folder, owned by one process. See `ports.Spool` and `ports.Archive`."""

    name = "spool writer"

    def __init__(self, folder: Path, lock: FolderLock, limits: SpoolLimits, clock: Clock, reporter: Reporter) -> None:
        self._folder = folder
        self._lock = lock
        self._limits = limits
        self._clock = clock
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._desks = tuple(LendingDesk(route, cache_bytes_max=limits.cache_bytes_max) for route in (0, 1))
        self._feeds: list[asyncio.Future[None] | None] = [None, None]
        self._waiters: tuple[set[asyncio.Future[None]], set[asyncio.Future[None]]] = (set(), set())
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        self._closing: asyncio.Task[None] | None = None
        self._is_refusing = False
        self._is_owing = False
        self._is_at_cap = False
        self._feeds_again_s = [0.0, 0.0]  # after a feed that failed: not at once

    def __repr__(self) -> str:
        """Show the folder and the desks."""
        return f"SqliteSpool({self._folder}, {self._desks[0]!r}, {self._desks[1]!r})"

    @classmethod
    async def open(
        cls, data_dir: Path, *, limits: SpoolLimits, clock: Clock, reporter: Reporter, vfs: str | None = None
    ) -> "SqliteSpool":
        """Open the folder's spool, making both where there is none.

        Raises `SpoolLocked` when another process owns it and `SpoolUnusable`, with the remedy, when it
        cannot be opened. `vfs` names an SQLite VFS (tests cut the power with one).
        """
        prepare_folder(data_dir)
        lock = FolderLock(data_dir)
        lock.acquire()
        spool = cls(data_dir, lock, limits, clock, reporter)
        try:
            await spool._start(vfs)
        except BaseException:
            lock.release()
            raise
        return spool

    async def _start(self, vfs: str | None) -> None:
        connection = await asyncio.to_thread(open_writer, self._folder, vfs=vfs)
        self._writer = Writer(
            connection,
            limits=self._limits,
            clock=self._clock,
            reserve=Reserve(self._folder, size_bytes=self._limits.reserve_bytes),
            tell=self._tell,
            condition_changed=self._tell_condition,
        )
        self._archive = await SqliteArchive.open(self._folder, vfs=vfs, live=self._facts_live, clock=self._clock)
        self._writer.start()
        for code in (0, 1):
            await self._feed(code, fresh_max=0, retry_max=0)

    # --- Spool ---

    async def append(self, envelopes: Sequence[Envelope]) -> Receipt:
        """Store the envelopes in one transaction; see `ports.Spool.append`."""
        self._refuse_closed()
        if self._is_refusing:
            raise SpoolFull(self._writer.condition.refusal or "the disk is full", retry_after_s=10)
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self._writer.submit(AppendJob(envelopes, *self._callbacks(future)))
        try:
            receipt = await future
        except SpoolFull as full:
            self._hear_cap(str(full))
            raise
        if self._is_at_cap:
            self._hear_cap("")
        return receipt

    async def lease(self, route: RouteName, *, fresh_max: int, retry_max: int, bytes_max: int) -> Sequence[Lease]:
        """Lend the oldest due events; see `ports.Spool.lease`."""
        self._refuse_closed()
        code = ROUTE_CODES[route]
        desk = self._desks[code]
        leases: Sequence[Lease] = ()
        for _ in range(_FEEDS_PER_LEASE_MAX):
            if not self._may_lend():
                return ()
            if desk.wants_feed(now_ms=self._clock.wall_ms()):
                await asyncio.shield(self._feed(code, fresh_max=fresh_max, retry_max=retry_max))
            # It may have changed while the feed was under way.
            if not self._may_lend() or self._loop.time() < self._feeds_again_s[code]:
                return ()
            leases = desk.take(fresh_max=fresh_max, retry_max=retry_max, bytes_max=bytes_max)
            if leases or not desk.wants_feed(now_ms=self._clock.wall_ms()):
                break
        if desk.wants_more():
            self._feed(code, fresh_max=0, retry_max=0)
        return leases

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lend the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        code = ROUTE_CODES[route]
        desk = self._desks[code]
        if self._is_owing:
            return None
        if desk.knows_newest(now_ms=self._clock.wall_ms()):
            return desk.take_newest()
        known = frozenset(desk.lent)

        def work(transaction: Transaction) -> tuple[Candidate | None, list[Candidate], list[Promoted]]:
            candidate, promoted = newest(transaction, code, known=known)
            return candidate, fetch_promoted(transaction, promoted), promoted

        candidate, fetched, promoted = await self._submit(work, is_read=True)
        desk.promoted(fetched, promoted)
        return None if candidate is None else desk.lend_newest(candidate)

    async def wait_for_work(self, route: RouteName, *, timeout_s: float) -> bool:
        """Return True as soon as a lease might find something; see `ports.Spool.wait_for_work`."""
        code = ROUTE_CODES[route]
        deadline_s = self._loop.time() + timeout_s
        while not self._is_closed:
            if self._has_work(code):
                return True
            left_s = deadline_s - self._loop.time()
            if left_s <= 0:
                return False
            await self._sleep(code, min(left_s, self._until_due_s(code)))
        raise SpoolClosed("the spool is closed")

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a lent event's progress; see `ports.Spool.note`."""
        self._refuse_closed()

        def work(transaction: Transaction) -> None:
            transaction.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (sequence, progress))

        await self._submit(work, must_succeed=True)
        for desk in self._desks:
            desk.noted(sequence, progress)

    async def complete(
        self, sequences: Sequence[int], *, state: State, reason: str = "", attempt: Attempt | None = None
    ) -> None:
        """Settle lent events; see `ports.Spool.complete`."""
        await self._settle(sequences, STATE_CODES[state], reason, attempt)

    async def bury(self, sequences: Sequence[int], *, reason: str, attempt: Attempt | None = None) -> None:
        """Settle lent events as dead; see `ports.Spool.bury`."""
        await self._settle(sequences, DEAD, reason, attempt)

    async def release(
        self,
        sequences: Sequence[int],
        *,
        not_before_ms: int,
        reason: str = "",
        attempt: Attempt | None = None,
        counts: bool = True,
    ) -> None:
        """Give lent events back; see `ports.Spool.release`."""
        self._refuse_closed()
        for desk, candidates in self._claim(sequences):
            wish = Release(
                candidates=candidates, not_before_ms=not_before_ms, reason=reason, attempt=attempt, counts=counts
            )

            def work(transaction: Transaction, wish: Release = wish) -> Any:
                return release(transaction, wish)

            await self._submit(work, heard=desk.released, missed=partial(_unclaim, candidates), must_succeed=True)
        self._wake()

    async def exhume(self, sequences: Sequence[int]) -> int:
        """Make settled events pending again; see `ports.Spool.exhume`."""
        self._refuse_closed()
        count = 0
        for chunk in _chunks(sequences):
            count += await self._submit(partial(exhume, sequences=chunk), heard=self._reset_desks)
        self._wake()
        return count

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        count = 0
        for chunk in _chunks(sequences):
            count += await self._submit(partial(discard, sequences=chunk))
        return count

    async def remember(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.remember`. Raises ValueError above the limit."""
        self._refuse_closed()
        if len(value) > self._limits.remember_bytes_max:
            raise ValueError(f"{key}: {len(value)} bytes are more than {self._limits.remember_bytes_max}")
        await self._submit(lambda t: t.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (key, value)))

    async def recall(self, key: str) -> bytes | None:
        """Return what `remember` kept, or None."""
        self._refuse_closed()
        return await self._archive.recall(key)

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, checkpoint, release the lock. Idempotent."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        self._wake()
        await self._archive.close()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        # The last notices were posted before the thread ended; let them be heard.
        await asyncio.sleep(0)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(SpoolClosed("the spool is closed"))
        self._lock.release()

    # --- Archive ---

    async def facts(self) -> SpoolFacts:
        """Return the spool's state; see `ports.Archive.facts`."""
        return await self._archive.facts()

    async def events(self, query: EventQuery) -> EventPage:
        """List events; see `ports.Archive.events`."""
        return await self._archive.events(query)

    async def event(self, sequence: int) -> EventDetail:
        """Return one event; see `ports.Archive.event`."""
        return await self._archive.event(sequence)

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the event types seen; see `ports.Archive.event_types`."""
        return await self._archive.event_types(route, limit=limit)

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group events by reason; see `ports.Archive.reasons`."""
        return await self._archive.reasons(route, state, limit=limit)

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log; see `ports.Archive.audit`."""
        return await self._archive.audit(limit=limit)

    async def write_audit(self, row: AuditRow) -> None:
        """Add to the audit log; see `ports.Archive.write_audit`."""
        self._refuse_closed()
        values = (row.at_ms, row.who, row.action, row.detail)
        await self._submit(
            lambda t: t.execute("INSERT INTO audit (at_ms, who, action, detail) VALUES (?, ?, ?, ?)", values)
        )

    # --- Probeable ---

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether the writer turned lately; see `ports.Probeable`."""
        return self._is_closed or self._writer.is_alive(now_s=now_s, within_s=within_s)

    # --- inside ---

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise SpoolClosed("the spool is closed")

    def _callbacks(self, future: "asyncio.Future[Any]") -> tuple[Callable[[Any], None], Callable[[Exception], None]]:
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def done(result: Any) -> None:
            if not future.done():
                future.set_result(result)

        def failed(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        return done, failed

    async def _submit(
        self,
        work: Callable[[Transaction], T],
        *,
        heard: Callable[[T], None] | None = None,
        missed: Callable[[], None] | None = None,
        must_succeed: bool = False,
        is_read: bool = False,
    ) -> T:
        """Run work in the next commit; `heard` is told before anything that was committed later.

        `missed` is told when it failed.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        done, failed = self._callbacks(future)

        def told(result: T) -> None:
            if heard is not None:
                heard(result)
            done(result)

        def refused(error: Exception) -> None:
            if missed is not None:
                missed()
            failed(error)

        self._writer.submit(Job(work, told, refused, must_succeed, is_read))
        # A caller that is cancelled stops waiting; the job is done and heard all the same.
        return await future

    async def _settle(self, sequences: Sequence[int], state: int, reason: str, attempt: Attempt | None) -> None:
        self._refuse_closed()
        for desk, candidates in self._claim(sequences):
            wish = Settlement(candidates=candidates, state=state, reason=reason, attempt=attempt)

            def work(transaction: Transaction, wish: Settlement = wish) -> tuple[list[Candidate], list[Promoted]]:
                promoted = settle(transaction, wish).promoted
                return fetch_promoted(transaction, promoted), promoted

            def heard(
                result: tuple[list[Candidate], list[Promoted]],
                desk: LendingDesk = desk,
                candidates: Sequence[Candidate] = candidates,
            ) -> None:
                desk.settled(candidates)
                desk.promoted(*result)
                if result[1]:
                    self._wake()

            await self._submit(work, heard=heard, missed=partial(_unclaim, candidates), must_succeed=True)

    def _claim(self, sequences: Sequence[int]) -> list[tuple[LendingDesk, list[Candidate]]]:
        """Take the lent ones of these for one settlement each; others are not ours to settle."""
        claims = []
        for desk in self._desks:
            candidates = [c for s in sequences if (c := desk.lent.get(s)) is not None and not c.is_settling]
            for candidate in candidates:
                candidate.is_settling = True
            if candidates:
                claims.append((desk, candidates))
        return claims

    def _may_lend(self) -> bool:
        return not self._is_owing and not self._is_closed

    def _reset_desks(self, _count: int) -> None:
        for desk in self._desks:
            desk.reset()

    def _feed(self, code: int, *, fresh_max: int, retry_max: int) -> "asyncio.Future[None]":
        under_way = self._feeds[code]
        if under_way is not None and not under_way.done():
            return under_way
        desk = self._desks[code]
        wish = desk.wish(now_ms=self._clock.wall_ms(), fresh_max=fresh_max, retry_max=retry_max)
        generation = desk.generation
        future: asyncio.Future[None] = self._loop.create_future()
        done, _ = self._callbacks(future)

        def work(transaction: Transaction, wish: FeedWish = wish) -> tuple[Fed, list[Candidate]]:
            fed = feed(transaction, wish)
            return fed, fetch_promoted(transaction, fed.promoted)

        def told(result: tuple[Fed, list[Candidate]]) -> None:
            fed, promoted = result
            desk.fed(fed, generation=generation)
            desk.promoted(promoted, fed.promoted)
            done(None)
            self._wake()

        def missed(_error: Exception) -> None:
            self._feeds_again_s[code] = self._loop.time() + _FEED_AGAIN_S
            done(None)

        self._writer.submit(Job(work, told, missed, is_read=True))
        self._feeds[code] = future
        return future

    def _has_work(self, code: int) -> bool:
        may_lend = not self._is_owing and self._loop.time() >= self._feeds_again_s[code]
        return may_lend and self._desks[code].has_work(now_ms=self._clock.wall_ms())

    def _until_due_s(self, code: int) -> float:
        due_ms = self._desks[code].next_due_ms()
        if due_ms is None or self._is_owing:
            return _RECHECK_S
        return min(_RECHECK_S, max(0.001, (due_ms - self._clock.wall_ms()) / 1000))

    async def _sleep(self, code: int, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[code].add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiter, timeout_s)
        finally:
            self._waiters[code].discard(waiter)

    def _wake(self) -> None:
        for code in (0, 1):
            self._wake_route(code)

    def _wake_route(self, code: int) -> None:
        for waiter in self._waiters[code]:
            if not waiter.done():
                waiter.set_result(None)

    # --- what the writer thread tells ---

    def _tell(self, notice: Notice) -> None:
        # After the loop has closed nobody is left to hear it; what was committed is committed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear, notice)

    def _hear(self, notice: Notice) -> None:
        for code, desk in enumerate(self._desks):
            events = notice.intake.lendable[code]
            desk.appended(events, last_sequence=notice.last_sequence)
            if events:
                self._wake_route(code)
        for sequence in notice.quarantined:
            self._reporter.row_quarantined(sequence=sequence)
        if notice.yielded:
            self._reporter.history_yielded(events=notice.yielded)
        for call, result in notice.calls:
            try:
                call(result)
            except Exception as error:  # noqa: BLE001 - a bug in one must not leave the others waiting for ever
                self._loop.call_exception_handler({"message": "a commit could not be heard", "exception": error})

    def _tell_condition(self, condition: Condition) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hear_condition, condition)

    def _hear_condition(self, condition: Condition) -> None:
        if bool(condition.refusal) != self._is_refusing:
            self._is_refusing = bool(condition.refusal)
            if self._is_refusing:
                self._reporter.spool_refusing(reason=condition.refusal)
            else:
                self._reporter.spool_accepting()
        if bool(condition.owed) != self._is_owing:
            self._is_owing = bool(condition.owed)
            if self._is_owing:
                self._reporter.settlement_waiting(reason=condition.refusal, events=condition.owed)
            self._wake()

    def _hear_cap(self, reason: str) -> None:
        """Report when appends begin to be refused for the cap, and when they are taken again."""
        if self._is_refusing or bool(reason) == self._is_at_cap:
            return
        self._is_at_cap = bool(reason)
        if reason:
            self._reporter.spool_refusing(reason=reason)
        else:
            self._reporter.spool_accepting()

    def _facts_live(self) -> tuple[dict[tuple[int, int], int], str, int]:
        """Return the books of the last commit, why appends are refused, and the cap."""
        return self._writer.memory.books, self._writer.condition.refusal, self._limits.bytes_max


def _unclaim(candidates: Sequence[Candidate]) -> None:
    """Leave them lent, to be settled by another call."""
    for candidate in candidates:
        candidate.is_settling = False


def _chunks(sequences: Sequence[int]) -> list[Sequence[int]]:
    return [sequences[start : start + _REPLAY_CHUNK] for start in range(0, len(sequences), _REPLAY_CHUNK)]
