"""The spool without a disk: the same promises but durability, for tests. The only fake of a spool.

One dict of records, looked through in order of sequence: clear rather than fast. It passes the contract
suite of the spool on SQLite, and is the model that its property tests compare it with.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import (
    Attempt,
    Demand,
    Envelope,
    Lease,
    Receipt,
    Replay,
    Returned,
    RouteName,
    Settled,
    Settlement,
    State,
)
from forwarder.ports import Clock, Erased
from forwarder.spool.alone import Alone
from forwarder.spool.erasing import without_ids
from forwarder.spool.held_leases import BESIDE, FRESH, RETRY
from forwarder.spool.limits import (
    CAP_RETRY_AFTER_S,
    EVICTION_FRACTION,
    SpoolLimits,
    incoming_bytes,
)
from forwarder.spool.recurrence import Occurrence, is_resend, occurrence_key
from stand_ins.memory_archive import MemoryArchive
from stand_ins.memory_records import MemoryRecords, Record

_RECHECK_S = 1.0


def _due_order(record: Record) -> tuple[int, int]:
    return (record.not_before_ms if record.kind != FRESH else 0), record.sequence


class MemorySpool(MemoryArchive, Alone):
    """A spool and its archive in memory. See `ports.Spool` and `archive_port.Archive`."""

    name = "spool writer"

    def __init__(self, *, limits: SpoolLimits, clock: Clock) -> None:
        super().__init__(MemoryRecords(), limits)
        self._clock = clock
        self._keys: dict[tuple[RouteName, bytes], int] = {}  # to when it was learnt
        self._occurrences: dict[tuple[RouteName, bytes], tuple[Occurrence, bytes | None, str]] = {}
        self._values: dict[str, bytes] = {}
        self._listeners: dict[RouteName, Callable[[], None]] = {}
        self._timers: dict[RouteName, asyncio.TimerHandle] = {}

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
            self.forget_old()
            self._refuse_full(envelopes)
        except (SpoolFull, SpoolClosed) as error:
            on_rollback(error)
            return
        accepted = sum(self._append_one(envelope) for envelope in envelopes)
        self._records.evict(int(self._limits.bytes_max * EVICTION_FRACTION))
        if accepted:
            self._wake()
        receipt = Receipt(accepted=accepted, duplicates=len(envelopes) - accepted)
        if not _call(partial(on_commit, receipt)):
            on_rollback(SpoolClosed("what was stored could not be answered"))

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events; see `ports.Spool.lease`."""
        self._refuse_closed()
        due = sorted(self._records.due(route, now_ms=self._clock.wall_ms()), key=_due_order)
        leases: list[Lease] = []
        room = demand.bytes_max
        for kind, most in ((RETRY, demand.retry_max), (BESIDE, demand.replay_max), (FRESH, demand.fresh_max)):
            end = len(leases) + most
            for record in due:
                if record.kind != kind or self._records.is_busy(record):
                    continue
                size = len(record.envelope.payload)
                if len(leases) >= end or (leases and size > room):
                    break
                room -= size
                leases.append(self._lease(record))
            else:
                continue
            if len(leases) < end:
                break
        return sorted(leases, key=lambda lease: lease.sequence)

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lease the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        due = [r for r in self._records.due(route, now_ms=self._clock.wall_ms()) if r.kind != BESIDE]
        return self._lease(due[-1]) if due else None

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._listeners[route] = wake
        self._watch(route)

    async def refill(self, route: RouteName, demand: Demand) -> None:
        """Return at once: everything is at hand; see `SqliteSpool.refill`."""

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress; see `ports.Spool.note`."""
        self._refuse_closed()
        record = self._records.by_sequence.get(sequence)
        if record is not None:
            record.progress, record.replay = progress, Replay.NOT

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events; see `ports.Spool.record`."""
        self._refuse_closed()
        for record in self._leased(sequences):
            self._try(record, attempt)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back; see `ports.Spool.settle`."""
        self._refuse_closed()
        for settlement in settlements:
            for record in self._leased(settlement.sequences):
                self._try(record, settlement.attempt)
                if settlement.attempt is not None:
                    record.status = settlement.attempt.status or 0
                elif isinstance(settlement, Settled):
                    record.status = None
                if isinstance(settlement, Settled):
                    record.settle(
                        settlement.state,
                        settlement.reason,
                        now_ms=self._clock.wall_ms(),
                        was_tried=settlement.attempt is not None,
                    )
                    self._records.settled(record)
                else:
                    self._give_back(record, settlement)
        self._wake()

    def _give_back(self, record: Record, returned: Returned) -> None:
        record.is_leased = False
        if not returned.counts and not returned.not_before_ms and returned.attempt is None:
            return
        record.not_before_ms = returned.not_before_ms
        record.reason = returned.reason
        is_retry = returned.counts or record.attempts > 0 or returned.not_before_ms > 0
        record.kind = BESIDE if record.replayed_ms is not None else RETRY if is_retry else FRESH
        if returned.counts:
            record.attempts += 1
            if record.first_failed_ms is None:
                record.first_failed_ms = self._clock.wall_ms()

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False, is_replay: bool = True) -> int:
        """Make settled events pending again; see `ports.Spool.requeue`."""
        self._refuse_closed()
        records = [
            r
            for s in sequences
            if (r := self._records.by_sequence.get(s)) is not None and r.is_settled and not r.is_bare
        ]
        waiting = self._records.replays()
        for record in dict.fromkeys(records):
            has_line = bool(record.envelope.partition_key) and self._records.is_in_line(record)
            are_few = len(sequences) + waiting[record.envelope.route] <= self._limits.replays_in_line_max
            record.stand_up()
            record.replayed_ms = self._clock.wall_ms() if is_replay else None
            record.kind = BESIDE if is_replay and not (are_few and has_line) else FRESH
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

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase what these events hold; see `ports.Spool.erase`."""
        self._refuse_closed()
        records = [r for s in dict.fromkeys(sequences) if (r := self._records.by_sequence.get(s)) is not None]
        free = [record for record in records if not record.is_leased]
        pending = [record for record in free if not record.is_settled]
        for record in pending:
            record.settle(State.DEAD, "", now_ms=self._clock.wall_ms(), was_tried=False)
            self._records.settled(record)
        for record in free:
            record.erase()
        self._records.weigh_dead()
        self._wake()
        return Erased(events=len(free), pending=len(pending), leased=len(records) - len(free))

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Take these ids out of the audit log; see `ports.Spool.scrub`."""
        self._refuse_closed()
        for number, line in enumerate(self._records.audit):
            self._records.audit[number] = replace(line, detail=without_ids(line.detail, user_ids))
        return True

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a small value; see `ports.Spool.change`. Raises ValueError above the limit."""
        self._refuse_closed()
        self._values[key] = self._limits.small(change(self._values.get(key) or None), key)
        return self._values[key]

    async def get(self, key: str) -> bytes | None:
        """Return what `remember` kept, or None."""
        self._refuse_closed()
        return self._values.get(key)

    async def close(self) -> None:
        """Refuse what comes. Idempotent."""
        self._is_closed = True
        self._wake()

    # --- Probeable ---

    def is_alive(self, *, now_s: float, within_s: float) -> bool:  # noqa: ARG002 - the port's signature
        """Say that nothing can hang here; see `ports.Probeable`."""
        return True

    # --- inside ---

    def _refuse_full(self, envelopes: Sequence[Envelope]) -> None:
        incoming = incoming_bytes(envelopes)
        reason = self.refusal_of(incoming)
        self.refused = incoming if reason else {}
        if reason:
            raise SpoolFull(reason, retry_after_s=CAP_RETRY_AFTER_S)

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
            msgspec.structs.replace(envelope, event_key=true_key, recurrence=None),
            types_max=self._limits.event_types_max,
        )
        return True

    def _lease(self, record: Record) -> Lease:
        record.is_leased = True
        return Lease(
            sequence=record.sequence,
            attempt=record.attempts + 1,
            first_failed_at_ms=record.first_failed_ms,
            progress=record.progress,
            envelope=record.envelope,
            replay=record.replay if record.progress else Replay.NOT,
            is_retry=record.kind == RETRY,
            is_beside=record.kind == BESIDE,
            replayed_at_ms=record.replayed_ms,
        )

    def _leased(self, sequences: Iterable[int]) -> list[Record]:
        records = (self._records.pending.get(s) for s in dict.fromkeys(sequences))
        return [r for r in records if r is not None and r.is_leased]

    def _try(self, record: Record, attempt: Attempt | None) -> None:
        if attempt is not None:
            kept = replace(attempt, answer=attempt.answer[: self._limits.answer_bytes_max])
            record.tries = [*record.tries, kept][-self._limits.attempts_max :]

    def forget_old(self) -> None:
        """Drop settled events and keys that are past the retention."""
        before_ms = self._clock.wall_ms() - self._limits.retention_s * 1000
        while self._keys:
            key, learnt_ms = next(iter(self._keys.items()))
            if learnt_ms >= before_ms:
                break
            del self._keys[key]
        self._records.forget_settled(before_ms=before_ms)

    def _wake(self) -> None:
        for route, wake in self._listeners.items():
            _call(wake)
            self._watch(route)

    def _watch(self, route: RouteName) -> None:
        """Wake the listener when the next event is due, and look at the clock again at least each second."""
        if (timer := self._timers.pop(route, None)) is not None:
            timer.cancel()
        if self._is_closed:
            return
        next_ms = self._records.next_due_ms(route)
        until_s = _RECHECK_S if next_ms is None else max(0.001, (next_ms - self._clock.wall_ms()) / 1000)
        loop = asyncio.get_running_loop()
        self._timers[route] = loop.call_later(min(until_s, _RECHECK_S), self._due, route)

    def _due(self, route: RouteName) -> None:
        if next(iter(self._records.due(route, now_ms=self._clock.wall_ms())), None) is not None:
            _call(self._listeners[route])
        self._watch(route)


def _call(call: Callable[[], None]) -> bool:
    """Call somebody whose bugs are reported and stop nothing; tell whether that went well."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        asyncio.get_running_loop().call_exception_handler({"message": "a spool's callback", "exception": error})
        return False
    return True
