"""Store what arrived: tell duplicates apart, number the rest, place it, count it. All in one transaction.

The appends of one commit are worked off together, because the cost of a row is in the statement, not in
the row. Nothing here waits, retries or touches memory that outlives the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from forwarder.errors import SpoolFull
from forwarder.model import Envelope, Receipt
from forwarder.spool.capacity import RETRY_AFTER_S, Load, event_bytes, refusal
from forwarder.spool.recurrence import Occurrence, is_resend, lane_of, occurrence_key
from forwarder.spool.store.codes import ROUTE_CODES, Account
from forwarder.spool.store.keys import KnownKeys
from forwarder.spool.store.space import used_bytes
from forwarder.spool.store.transaction import Transaction

_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROUTE_BYTES = {route: bytes((code,)) for route, code in ROUTE_CODES.items()}
Appended = tuple[int, Envelope, int]  # sequence, envelope with its true key, lane


@dataclass(slots=True)
class Intake:
    """What the appends of one commit brought."""

    answers: list[Receipt | SpoolFull] = field(default_factory=list)  # one per append
    lendable: tuple[list[Appended], list[Appended]] = field(default_factory=lambda: ([], []))  # per route, in order


def take_in(transaction: Transaction, keys: KnownKeys, appends: Sequence[Sequence[Envelope]]) -> Intake:
    """Store the envelopes of several appends; each is all or none."""
    return _Taking(transaction, keys, appends).run()


class _Taking:
    def __init__(self, transaction: Transaction, keys: KnownKeys, appends: Sequence[Sequence[Envelope]]) -> None:
        self._transaction = transaction
        self._keys = keys
        self._appends = appends
        self._rows: list[tuple[object, ...]] = []
        self._ready: list[tuple[int, int]] = []
        self._blocked: list[tuple[int, int]] = []
        self._lanes: list[tuple[int, int]] = []
        self._open_lanes: set[int] = set()
        self._new_keys: list[bytes] = []
        self._types: dict[tuple[int, str, str], list[int]] = {}
        self._intake = Intake()
        self._stored = [[0, 0], [0, 0]]  # per route: events, bytes
        self._used_bytes = used_bytes(transaction.connection)

    def run(self) -> Intake:
        known = self._keys.find({_stored_key(e) for batch in self._appends for e in batch if e.recurrence is None})
        fits = not self._refusal([envelope for batch in self._appends for envelope in batch])
        for batch in self._appends:
            # Where all of them fit together, which is nearly always, none is judged alone.
            reason = "" if fits else self._refusal(batch)
            if reason:
                self._intake.answers.append(SpoolFull(reason, retry_after_s=RETRY_AFTER_S))
                continue
            self._intake.answers.append(self._append(batch, known))
            if not fits:
                self._book()
        self._book()
        self._write()
        return self._intake

    def _append(self, batch: Sequence[Envelope], known: set[bytes]) -> Receipt:
        accepted = 0
        for envelope in batch:
            if envelope.recurrence is None:
                key = _stored_key(envelope)
                if key in known:
                    continue
                known.add(key)
                self._new_keys.append(key)
                self._store(envelope)
            elif not self._recur(envelope):
                continue
            accepted += 1
        return Receipt(accepted=accepted, duplicates=len(batch) - accepted)

    def _refusal(self, batch: Sequence[Envelope]) -> str:
        balance = self._transaction.balance
        if batch and self._used_bytes > self._transaction.limits.bytes_max:
            return "the spool has reached its cap: history is yielding"
        unsettled = [balance(route, Account.UNSETTLED_BYTES) for route in (0, 1)]
        dead = balance(0, Account.DEAD_BYTES) + balance(1, Account.DEAD_BYTES)
        incoming = [0, 0]
        for envelope in batch:
            incoming[ROUTE_CODES[envelope.route]] += event_bytes(len(envelope.payload))
        for route in (0, 1):
            load = Load(unsettled_route=unsettled[route], unsettled=sum(unsettled), dead=dead)
            reason = refusal(self._transaction.limits, load, incoming=incoming[route]) if incoming[route] else ""
            if reason:
                return reason
        return ""

    def _book(self) -> None:
        """Enter what was stored since the last call."""
        for route in (0, 1):
            count, size = self._stored[route]
            if count:
                self._transaction.book(route, Account.ACCEPTED, count)
                self._transaction.book(route, Account.PENDING, count)
                self._transaction.book(route, Account.UNSETTLED_BYTES, size)
                self._stored[route] = [0, 0]

    def _recur(self, envelope: Envelope) -> bool:
        """Store a new occurrence, or note another copy of the known one; tell whether it was new."""
        transaction, recurrence = self._transaction, envelope.recurrence
        assert recurrence is not None  # noqa: S101 - the caller looked
        base_key = _stored_key(envelope)
        row = transaction.execute(
            "SELECT first_sequence, last_copy_ms FROM occurrences WHERE base_key = ?", (base_key,)
        ).fetchone()
        opposite = None
        if recurrence.subject is not None:
            opposite = transaction.execute(
                "SELECT max(first_sequence) FROM occurrences WHERE subject = ? AND side <> ?",
                (recurrence.subject, recurrence.side),
            ).fetchone()[0]
        known = Occurrence(*row) if row else None
        at_ms = envelope.received_at_ms
        is_copy = is_resend(recurrence, known, opposite_sequence=opposite, received_at_ms=at_ms)
        sequence = known.first_sequence if is_copy and known else transaction.sequence + 1
        keep_ms = at_ms + max(recurrence.resend_s, recurrence.resend_max_s) * 1000
        transaction.execute(
            "INSERT OR REPLACE INTO occurrences VALUES (?, ?, ?, ?, ?, ?)",
            (base_key, recurrence.subject, recurrence.side, sequence, at_ms, keep_ms),
        )
        if not is_copy:
            true_key = occurrence_key(envelope.event_key, sequence)
            self._store(msgspec.structs.replace(envelope, event_key=true_key, recurrence=None))
        return not is_copy

    def _store(self, envelope: Envelope) -> None:
        transaction = self._transaction
        transaction.sequence = sequence = transaction.sequence + 1
        route = ROUTE_CODES[envelope.route]
        labels, payload = envelope.labels, envelope.payload
        kind, event = _text(labels.type), _text(labels.event)
        self._rows.append(
            (
                sequence,
                route,
                envelope.event_key,
                _text(envelope.partition_key),
                envelope.received_at_ms,
                envelope.source,
                kind,
                event,
                _text(labels.message_id),
                _text(labels.user_id),
                len(payload),
                crc32(payload),
                payload,
            )
        )
        self._place(sequence, route, envelope)
        seen = self._types.setdefault((route, kind, event), [0, 0])
        seen[0] += 1
        seen[1] = envelope.received_at_ms
        stored = self._stored[route]
        stored[0] += 1
        stored[1] += event_bytes(len(payload))

    def _place(self, sequence: int, route: int, envelope: Envelope) -> None:
        lane = 0
        if envelope.partition_key:
            lane = lane_of(envelope.route.value, envelope.partition_key)
            self._lanes.append((lane, sequence))
            if self._is_lane_taken(lane):
                self._blocked.append((route, sequence))
                return
        self._ready.append((route, sequence))
        self._intake.lendable[route].append((sequence, envelope, lane))

    def _is_lane_taken(self, lane: int) -> bool:
        if lane in self._open_lanes:
            return True
        self._open_lanes.add(lane)
        found = self._transaction.execute("SELECT 1 FROM lanes WHERE lane = ? LIMIT 1", (lane,)).fetchone()
        return found is not None

    def _write(self) -> None:
        transaction = self._transaction
        if not self._rows:
            return
        transaction.executemany(_EVENT, self._rows)
        transaction.executemany("INSERT INTO ready VALUES (?, ?)", self._ready)
        if self._lanes:
            transaction.executemany("INSERT INTO lanes VALUES (?, ?)", self._lanes)
            transaction.executemany("INSERT INTO blocked VALUES (?, ?)", self._blocked)
        self._keys.add(self._new_keys)
        self._count_types()

    def _count_types(self) -> None:
        transaction = self._transaction
        for key, (count, at_ms) in self._types.items():
            if not transaction.knows_event_type(key):
                if transaction.event_types_of(key[0]) >= transaction.limits.event_types_max:
                    continue
                transaction.learn_event_type(key)
            transaction.execute(
                "INSERT INTO event_types VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE "
                "SET count = count + excluded.count, last_at_ms = max(last_at_ms, excluded.last_at_ms)",
                (*key, count, at_ms),
            )


def _stored_key(envelope: Envelope) -> bytes:
    return envelope.event_key + _ROUTE_BYTES[envelope.route]


def _text(text: str) -> str:
    """Return what SQLite can store: a lone surrogate, which JSON can carry, is no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
