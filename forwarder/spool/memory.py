"""The spool without a disk: the same promises but durability, for tests and for trying things out.

One dict of records, looked through in order of sequence: clear rather than fast. It passes the contract
suite of the spool on SQLite, and is the model that its property tests compare it with.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Attempt, Envelope, Lease, Receipt, Replay, RouteName, State
from forwarder.ports import AuditRow, Clock
from forwarder.spool.capacity import RETRY_AFTER_S, YIELD_FRACTION, incoming_bytes
from forwarder.spool.front import ArchiveFront
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.memory_archive import MemoryArchive
from forwarder.spool.memory_records import MemoryRecords, Record
from forwarder.spool.recurrence import Occurrence, is_resend, occurrence_key

_RECHECK_S = 1.0


class MemorySpool(ArchiveFront):
    """A spool and its archive in memory. See `ports.Spool` and `ports.Archive`."""

    name = "spool writer"

    def __init__(self, *, limits: SpoolLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._records = MemoryRecords()
        self._archive: MemoryArchive = MemoryArchive(self._records, limits)
        self._keys: dict[tuple[RouteName, bytes], int] = {}  # to when it was learnt
        self._occurrences: dict[tuple[RouteName, bytes], tuple[Occurrence, bytes | None, str]] = {}
        self._remembered: dict[str, bytes] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        """Show how many events are held."""
        return f"MemorySpool({len(self._records.by_sequence)} events)"

    # --- Spool ---

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes, all or none; see `ports.Spool.append`."""
        try:
            self._refuse_closed()
            self._forget_old()
            self._refuse_full(envelopes)
        except (SpoolFull, SpoolClosed) as error:
            on_rollback(error)
            return
        accepted = sum(self._append_one(envelope) for envelope in envelopes)
        self._records.yield_history(int(self._limits.bytes_max * YIELD_FRACTION))
        if accepted:
            self._wake()
        on_commit(Receipt(accepted=accepted, duplicates=len(envelopes) - accepted))

    async def lease(self, route: RouteName, *, fresh_max: int, retry_max: int, bytes_max: int) -> Sequence[Lease]:
        """Lend the oldest due events; see `ports.Spool.lease`."""
        self._refuse_closed()
        due = list(self._records.due(route, now_ms=self._clock.wall_ms()))
        retries = sorted((r for r in due if r.attempts), key=lambda r: (r.not_before_ms, r.sequence))
        fresh = [r for r in due if not r.attempts]
        leases: list[Lease] = []
        room = bytes_max
        for record in [*retries[:retry_max], *fresh[:fresh_max]]:
            size = len(record.envelope.payload)
            if leases and size > room:
                break
            room -= size
            leases.append(self._lend(record))
        return sorted(leases, key=lambda lease: lease.sequence)

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lend the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        due = list(self._records.due(route, now_ms=self._clock.wall_ms()))
        return self._lend(due[-1]) if due else None

    async def wait_for_work(self, route: RouteName, *, timeout_s: float) -> bool:
        """Return True as soon as a lease might find something; see `ports.Spool.wait_for_work`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not self._is_closed:
            now_ms = self._clock.wall_ms()
            if next(iter(self._records.due(route, now_ms=now_ms)), None) is not None:
                return True
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                return False
            next_ms = self._records.next_due_ms(route)
            until_s = _RECHECK_S if next_ms is None else max(0.001, (next_ms - now_ms) / 1000)
            await self._sleep(min(left_s, until_s, _RECHECK_S))
        raise SpoolClosed("the spool is closed")

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a lent event's progress; see `ports.Spool.note`."""
        self._refuse_closed()
        record = self._records.by_sequence.get(sequence)
        if record is not None:
            record.progress, record.replay = progress, Replay.NOT

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of lent events; see `ports.Spool.record`."""
        self._refuse_closed()
        for record in self._lent(sequences):
            self._try(record, attempt)

    async def complete(
        self, sequences: Sequence[int], *, state: State, reason: str = "", attempt: Attempt | None = None
    ) -> None:
        """Settle lent events; see `ports.Spool.complete`."""
        self._refuse_closed()
        for record in self._lent(sequences):
            self._try(record, attempt)
            record.settle(state, reason, now_ms=self._clock.wall_ms(), was_tried=attempt is not None)
            self._records.settled(record)
        self._wake()

    async def bury(self, sequences: Sequence[int], *, reason: str, attempt: Attempt | None = None) -> None:
        """Settle lent events as dead; see `ports.Spool.bury`."""
        await self.complete(sequences, state=State.DEAD, reason=reason, attempt=attempt)

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
        for record in self._lent(sequences):
            self._try(record, attempt)
            record.came_back_tried = record.came_back_tried or attempt is not None
            record.is_lent = False
            record.not_before_ms = not_before_ms
            if counts:
                record.attempts += 1
                if record.first_failed_ms is None:
                    record.first_failed_ms = self._clock.wall_ms()
            is_as_never_lent = not record.attempts and not not_before_ms and not record.came_back_tried
            record.reason = "" if is_as_never_lent else reason
        self._wake()

    async def exhume(self, sequences: Sequence[int], *, everything: bool = False) -> int:
        """Make settled events pending again; see `ports.Spool.exhume`."""
        self._refuse_closed()
        records = [
            r
            for s in sequences
            if (r := self._records.by_sequence.get(s)) is not None and r.is_settled and not r.is_bare
        ]
        for record in dict.fromkeys(records):
            record.stand_up()
            record.replay = Replay.EVERYTHING if everything else Replay.REST
            self._records.stood_up(record)
        self._wake()
        return len(dict.fromkeys(records))

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        count = 0
        for sequence in sequences:
            record = self._records.by_sequence.get(sequence)
            if record is not None and record.state is State.DEAD and not record.is_discarded:
                record.is_discarded = True
                count += 1
        return count

    async def remember(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.remember`. Raises ValueError above the limit."""
        self._refuse_closed()
        if len(value) > self._limits.remember_bytes_max:
            raise ValueError(f"{key}: {len(value)} bytes are more than {self._limits.remember_bytes_max}")
        self._remembered[key] = value

    async def recall(self, key: str) -> bytes | None:
        """Return what `remember` kept, or None."""
        self._refuse_closed()
        return self._remembered.get(key)

    async def close(self) -> None:
        """Refuse what comes. Idempotent."""
        self._is_closed = True
        self._wake()

    # --- Archive: what `ArchiveFront` does not do ---

    async def write_audit(self, row: AuditRow) -> None:
        """Add to the audit log; see `ports.Archive.write_audit`."""
        self._refuse_closed()
        await self._archive.write_audit(row)

    # --- Probeable ---

    def is_alive(self, *, now_s: float, within_s: float) -> bool:  # noqa: ARG002 - the port's signature
        """Say that nothing can hang here; see `ports.Probeable`."""
        return True

    # --- inside ---

    def _refuse_full(self, envelopes: Sequence[Envelope]) -> None:
        incoming = incoming_bytes(envelopes)
        reason = self._archive.refusal(incoming)
        self._archive.refused = incoming if reason else {}
        if reason:
            raise SpoolFull(reason, retry_after_s=RETRY_AFTER_S)

    def _append_one(self, envelope: Envelope) -> bool:
        if envelope.recurrence is not None:
            return self._recur(envelope)
        key = (envelope.route, envelope.event_key)
        if key in self._keys:
            return False
        self._keys[key] = self._clock.wall_ms()
        self._records.add(envelope, types_max=self._limits.event_types_max)
        return True

    def _recur(self, envelope: Envelope) -> bool:
        recurrence = envelope.recurrence
        if recurrence is None:
            return False
        base = (envelope.route, envelope.event_key)
        known = self._occurrences.get(base)
        opposite = max(
            (
                other.first_sequence
                for other, subject, side in self._occurrences.values()
                if subject is not None and subject == recurrence.subject and side != recurrence.side
            ),
            default=None,
        )
        at_ms = envelope.received_at_ms
        occurrence = known[0] if known else None
        if is_resend(recurrence, occurrence, opposite_sequence=opposite, received_at_ms=at_ms):
            if occurrence is not None:
                occurrence.last_copy_ms = at_ms
            return False
        sequence = self._records.sequence + 1
        self._occurrences[base] = (Occurrence(sequence, at_ms), recurrence.subject, recurrence.side)
        true_key = occurrence_key(envelope.event_key, sequence)
        self._records.add(
            replace(envelope, event_key=true_key, recurrence=None), types_max=self._limits.event_types_max
        )
        return True

    def _lend(self, record: Record) -> Lease:
        record.is_lent = True
        return Lease(
            sequence=record.sequence,
            attempt=record.attempts + 1,
            first_failed_at_ms=record.first_failed_ms,
            progress=record.progress,
            envelope=record.envelope,
            replay=record.replay if record.progress else Replay.NOT,
        )

    def _lent(self, sequences: Iterable[int]) -> list[Record]:
        records = (self._records.pending.get(s) for s in dict.fromkeys(sequences))
        return [r for r in records if r is not None and r.is_lent]

    def _try(self, record: Record, attempt: Attempt | None) -> None:
        if attempt is not None:
            kept = replace(attempt, answer=attempt.answer[: self._limits.answer_bytes_max])
            record.tries = [*record.tries, kept][-self._limits.attempts_max :]

    def _forget_old(self) -> None:
        """Drop settled events and keys that are past the retention."""
        before_ms = self._clock.wall_ms() - self._limits.retention_s * 1000
        while self._keys:
            key, learnt_ms = next(iter(self._keys.items()))
            if learnt_ms >= before_ms:
                break
            del self._keys[key]
        self._records.forget_settled(before_ms=before_ms)

    async def _sleep(self, timeout_s: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
