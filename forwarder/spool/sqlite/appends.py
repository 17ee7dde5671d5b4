"""Store what arrived: tell duplicates apart, number the rest, place it, count it. All in one transaction.

The appends of one commit are worked off together, because the cost of a row is in the statement, not in
the row. Nothing here waits, retries or touches memory that outlives the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from forwarder.errors import SpoolFull
from forwarder.model import Envelope, Lease, Receipt
from forwarder.spool.codes import ROUTE_CODES, Account, partition_number
from forwarder.spool.lease_window import Arrival
from forwarder.spool.limits import CAP_RETRY_AFTER_S, EVENT_OVERHEAD_BYTES, incoming_bytes, refusal
from forwarder.spool.recurrence import Occurrence, is_resend, occurrence_key
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Transaction, text

_EVENT = tuple(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" for table in EVENT_TABLES)  # noqa: S608 - our own words
_ROUTE_BYTES = {route: bytes((code,)) for route, code in ROUTE_CODES.items()}
_ONE_ACCEPTED = Receipt(accepted=1, duplicates=0)
_ONE_DUPLICATE = Receipt(accepted=0, duplicates=1)


@dataclass(slots=True)
class Intake:
    """What the appends of one commit brought."""

    answers: list[Receipt | SpoolFull] = field(default_factory=list)  # one per append
    refusals: list[tuple[Sequence[Envelope], SpoolFull]] = field(default_factory=list)  # for the cap
    arrivals: tuple[Arrival, Arrival] = field(default_factory=lambda: (Arrival(), Arrival()))  # per route


def take_in(transaction: Transaction, keys: KnownKeys, appends: Sequence[Sequence[Envelope]]) -> Intake:
    """Store the envelopes of several appends; each is all or none."""
    return _Taking(transaction, keys, appends).run()


class _Taking:
    def __init__(self, transaction: Transaction, keys: KnownKeys, appends: Sequence[Sequence[Envelope]]) -> None:
        self._transaction = transaction
        self._keys = keys
        self._appends = appends
        self._rows: tuple[list[tuple[object, ...]], list[tuple[object, ...]]] = ([], [])
        self._partitions: list[tuple[int, int]] = []
        self._seen_partitions: set[int] = set()
        self._new_keys: list[bytes] = []
        self._types: dict[tuple[int, str, str], list[int]] = {}
        self._intake = Intake()
        self._stored = [[0, 0], [0, 0]]  # per route: events, bytes

    def run(self) -> Intake:
        asked = [
            envelope.event_key + _ROUTE_BYTES[envelope.route]
            for batch in self._appends
            for envelope in batch
            if envelope.recurrence is None
        ]
        known = self._keys.find(asked, now_ms=self._transaction.now_ms)
        fits = not self._refusal([envelope for batch in self._appends for envelope in batch])
        for batch in self._appends:
            # Where all of them fit together, which is nearly always, none is judged alone.
            reason = "" if fits else self._refusal(batch)
            if reason:
                full = SpoolFull(reason, retry_after_s=CAP_RETRY_AFTER_S)
                self._intake.answers.append(full)
                self._intake.refusals.append((batch, full))
                continue
            self._intake.answers.append(self._append(batch, known))
            if not fits:
                self._count()
        self._count()
        self._write()
        return self._intake

    def _append(self, batch: Sequence[Envelope], known: set[bytes]) -> Receipt:
        accepted = 0
        for envelope in batch:
            if envelope.recurrence is None:
                key = envelope.event_key + _ROUTE_BYTES[envelope.route]
                if key in known:
                    continue
                known.add(key)
                self._new_keys.append(key)
                self._store(envelope)
            elif not self._recur(envelope):
                continue
            accepted += 1
        if len(batch) == 1:
            return _ONE_ACCEPTED if accepted else _ONE_DUPLICATE
        return Receipt(accepted=accepted, duplicates=len(batch) - accepted)

    def _refusal(self, batch: Sequence[Envelope]) -> str:
        transaction = self._transaction
        if not batch:
            return ""
        unsettled = {name: transaction.balance(code, Account.UNSETTLED_BYTES) for name, code in ROUTE_CODES.items()}
        dead = sum(transaction.balance(route, Account.DEAD_BYTES) for route in (0, 1))
        used, incoming = transaction.memory.used_bytes, incoming_bytes(batch)
        return refusal(transaction.limits, used=used, unsettled=unsettled, dead=dead, incoming=incoming)

    def _count(self) -> None:
        """Add what was stored since the last call to the totals."""
        for route in (0, 1):
            count, size = self._stored[route]
            if count:
                self._transaction.add(route, Account.ACCEPTED, count)
                self._transaction.add(route, Account.PENDING, count)
                self._transaction.add(route, Account.UNSETTLED_BYTES, size)
                self._stored[route] = [0, 0]

    def _recur(self, envelope: Envelope) -> bool:
        """Store a new occurrence, or note another copy of the known one; tell whether it was new."""
        transaction, recurrence = self._transaction, envelope.recurrence
        assert recurrence is not None  # noqa: S101 - the caller looked
        base_key = envelope.event_key + _ROUTE_BYTES[envelope.route]
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
        labels, payload, at_ms = envelope.labels, envelope.payload, envelope.received_at_ms
        partition, kind, event = envelope.partition_key, labels.type, labels.event
        message_id, user_id = labels.message_id, labels.user_id
        if not (partition + kind + event + message_id + user_id).isascii():
            partition, kind, event = text(partition), text(kind), text(event)
            message_id, user_id = text(message_id), text(user_id)
        size = len(payload)
        self._rows[route].append(
            (
                sequence,
                envelope.event_key,
                partition,
                at_ms,
                envelope.source,
                kind,
                event,
                message_id,
                user_id,
                size,
                crc32(payload),
                payload,
                envelope.trace or None,
            )
        )
        seen = self._types.get((route, kind, event))
        if seen is None:
            self._types[route, kind, event] = [1, at_ms]
        else:
            seen[0] += 1
            seen[1] = at_ms
        stored = self._stored[route]
        stored[0] += 1
        stored[1] += size + EVENT_OVERHEAD_BYTES
        arrival = self._intake.arrivals[route]
        lease = Lease(sequence=sequence, attempt=1, envelope=envelope, follows=transaction.last_of_route[route])
        transaction.last_of_route[route] = sequence
        if envelope.partition_key and self._is_behind(sequence, envelope):
            arrival.behind.append(lease)
        else:
            arrival.leases.append(lease)

    def _is_behind(self, sequence: int, envelope: Envelope) -> bool:
        """Place an event in its partition; tell whether an older one of it is pending."""
        number = partition_number(envelope.route.value, envelope.partition_key)
        self._partitions.append((number, sequence))
        if number in self._seen_partitions:
            return True
        self._seen_partitions.add(number)
        found = self._transaction.execute("SELECT 1 FROM partitions WHERE number = ? LIMIT 1", (number,)).fetchone()
        return found is not None

    def _write(self) -> None:
        transaction = self._transaction
        for route in (0, 1):
            if self._rows[route]:
                transaction.executemany(_EVENT[route], self._rows[route])
        if self._partitions:
            transaction.executemany("INSERT INTO partitions VALUES (?, ?)", self._partitions)
        self._keys.add(self._new_keys, now_ms=transaction.now_ms)
        for key, (count, at_ms) in self._types.items():
            if transaction.knows_event_type(key):
                transaction.execute(
                    "INSERT INTO event_types VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE "
                    "SET count = count + excluded.count, last_at_ms = max(last_at_ms, excluded.last_at_ms)",
                    (*key, count, at_ms),
                )
