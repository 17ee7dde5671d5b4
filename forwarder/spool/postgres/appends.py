"""Store what arrived: tell duplicates apart, number the rest, place it, count it. All in one transaction.

One statement stores every append of a commit; what has neither id nor time takes the longer way, one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import msgspec

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, Lease, Receipt
from forwarder.spool.codes import ROUTE_CODES, Account, partition_number
from forwarder.spool.limits import event_bytes
from forwarder.spool.postgres.key_spans import Spans, spans_at
from forwarder.spool.postgres.layout import BLOCK_EVENTS, add_blocks, add_span, last_sequence
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.recurrence import Occurrence, is_resend, occurrence_key

PARTITIONS = 256

# Keys in their order: two replicas that store the same ones wait for each other, and never in a circle.
_STORE = """
WITH input AS (
  SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[],
    $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::text[])
    WITH ORDINALITY AS i(route, event_key, sequence, partition_no, order_no, received_at_ms, partition_key, source,
      type, event, message_id, user_id, payload, trace, place)
), learnt AS (
  INSERT INTO forwarder.known_keys
  SELECT s.span, k.known_key FROM
    (SELECT event_key || CASE route WHEN 0 THEN '\\x00'::bytea ELSE '\\x01' END AS known_key
     FROM input WHERE sequence = 0) k,
    unnest($15::integer[]) AS s(span)
  WHERE (SELECT 1 FROM forwarder.known_keys o
    WHERE o.span >= $16 AND o.span <> ALL($15::integer[]) AND o.known_key = k.known_key LIMIT 1) IS NULL
  ORDER BY s.span, k.known_key
  ON CONFLICT DO NOTHING RETURNING span, known_key
), new AS (
  SELECT known_key FROM learnt GROUP BY known_key HAVING count(*) = cardinality($15::integer[])
), stored AS (
  INSERT INTO forwarder.events
  SELECT CASE WHEN n.sequence > 0 THEN n.sequence ELSE nextval('forwarder.event_sequence') END, route, partition_no,
    order_no, received_at_ms, event_key, partition_key, source, type, event, message_id, user_id,
    length(payload), payload, trace
  FROM (SELECT * FROM input i WHERE sequence > 0 OR EXISTS (SELECT FROM new
    WHERE known_key = i.event_key || CASE i.route WHEN 0 THEN '\\x00'::bytea ELSE '\\x01' END) ORDER BY place) n
  RETURNING sequence, route, event_key, partition_no
), told AS (
  INSERT INTO forwarder.arrivals
  SELECT pg_current_xact_id()::text::bigint, route, $17, false, array_agg(DISTINCT partition_no),
    array_agg(sequence ORDER BY sequence) FROM stored GROUP BY route
)
SELECT sequence, route, event_key, partition_no, pg_current_xact_id()::text::bigint AS xid FROM stored ORDER BY sequence
"""
_LOCK_OCCURRENCE = """
INSERT INTO forwarder.occurrences SELECT k, NULL, '', 0, 0, $2 FROM unnest($1::bytea[]) AS k ORDER BY k
ON CONFLICT DO NOTHING
"""
_LOCKED = "SELECT base_key FROM forwarder.occurrences WHERE base_key = ANY($1::bytea[]) ORDER BY base_key FOR UPDATE"


@dataclass(slots=True)
class Append:
    """Envelopes to store, and whom to tell."""

    envelopes: Sequence[Envelope]
    on_commit: Callable[[Receipt], None]
    on_rollback: Callable[[SpoolFull | SpoolClosed], None]


@dataclass(slots=True)
class Intake:
    """What the appends of one commit brought."""

    answers: list[Receipt]  # one per append
    leases: tuple[list[Lease], list[Lease]] = field(default_factory=lambda: ([], []))  # by route, growing
    xid: int = 0


class Appender:
    """Store the appends of one replica."""

    def __init__(self, writer: int, home: Callable[[], int]) -> None:
        self._writer = writer
        self._home = home  # a partition of this replica's own, for what has no order
        self._spans: set[int] = set()
        self._past = 0  # the first sequence that has no block
        self.last_sequence = 0  # that was given here
        self._types: set[tuple[int, str, str]] = set()

    async def make_room(self, transaction: Transaction) -> Spans:
        """Have the tables that the next appends go into; return where keys go. Nearly always they are there."""
        spans = spans_at(transaction.now_ms, retention_s=transaction.limits.retention_s)
        for span in spans.written:
            if span not in self._spans:
                await add_span(transaction.connection, span)
                self._spans.add(span)
        if self.last_sequence > self._past - BLOCK_EVENTS // 4:
            self.last_sequence = max(self.last_sequence, await last_sequence(transaction.connection))
            self._past = await add_blocks(transaction.connection, behind=self.last_sequence)
        return spans

    def forget(self) -> None:
        """Hear that a transaction was rolled back: the tables that it made are gone."""
        self._spans, self._past = set(), 0

    async def store(self, transaction: Transaction, appends: Sequence[Append]) -> Intake:
        """Store the envelopes, which all fit."""
        spans = await self.make_room(transaction)
        chosen: list[tuple[Envelope, int]] = []
        answers: list[Receipt] = []
        asked: dict[tuple[int, bytes], int] = {}  # to the append that brought it first
        accepted = [0] * len(appends)
        await self._lock(transaction, appends)
        for index, append in enumerate(appends):
            for envelope in append.envelopes:
                key = ROUTE_CODES[envelope.route], envelope.event_key
                if envelope.recurrence is not None:
                    occurred = await self._recur(transaction, envelope)
                    if occurred is not None:
                        chosen.append(occurred)
                        accepted[index] += 1
                elif key not in asked:
                    asked[key] = index
                    chosen.append((envelope, 0))
        intake = Intake(answers)
        if chosen:
            await self._insert(transaction, chosen, spans, asked, accepted, intake)
        for append, count in zip(appends, accepted, strict=True):
            answers.append(Receipt(accepted=count, duplicates=len(append.envelopes) - count))
        return intake

    async def _insert(  # noqa: PLR0917 - one step of `store`, apart for its length
        self,
        transaction: Transaction,
        chosen: Sequence[tuple[Envelope, int]],
        spans: Spans,
        asked: dict[tuple[int, bytes], int],
        accepted: list[int],
        intake: Intake,
    ) -> None:
        rows = [self._row(envelope, sequence) for envelope, sequence in chosen]
        columns = [list(column) for column in zip(*rows, strict=True)]
        try:
            found = await transaction.connection.fetch(
                _STORE, *columns, list(spans.written), spans.oldest, self._writer
            )
        except asyncpg.CheckViolationError:  # others were fast: the next try makes room
            self.forget()
            raise
        by_key = {(row[0], row[1]): envelope for row, (envelope, _) in zip(rows, chosen, strict=True)}
        types: dict[tuple[int, str, str], list[int]] = {}
        for sequence, route, event_key, partition_no, xid in found:
            envelope = by_key[route, event_key]
            if (route, event_key) in asked:
                accepted[asked[route, event_key]] += 1
            intake.xid = xid
            lease = Lease(sequence=sequence, attempt=1, envelope=envelope, partition=partition_no)
            intake.leases[route].append(lease)
            self.last_sequence = max(self.last_sequence, sequence)
            transaction.add(route, Account.ACCEPTED, 1)
            transaction.add(route, Account.PENDING, 1)
            transaction.add(route, Account.UNSETTLED_BYTES, event_bytes(len(envelope.payload)))
            name, at_ms = (route, text(envelope.labels.type), text(envelope.labels.event)), envelope.received_at_ms
            seen = types.setdefault(name, [at_ms, at_ms, 0])
            seen[0], seen[1], seen[2] = min(seen[0], at_ms), max(seen[1], at_ms), seen[2] + 1
        await self._count_types(transaction, types)

    async def _count_types(self, transaction: Transaction, types: dict[tuple[int, str, str], list[int]]) -> None:
        new = [name for name in types if name not in self._types]
        if new:
            rows = await transaction.connection.fetch("SELECT DISTINCT route, type, event FROM forwarder.event_types")
            self._types = {tuple(row) for row in rows}
            for name in new:
                # Invented names beyond the limit are stored, and not listed.
                if sum(1 for route, _, _ in self._types if route == name[0]) < transaction.limits.event_types_max:
                    self._types.add(name)
        rows = [(*name, *seen) for name, seen in types.items() if name in self._types]
        if rows:
            await transaction.connection.execute(
                "INSERT INTO forwarder.event_types "
                "SELECT * FROM "
                "unnest($1::smallint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])",
                *[list(column) for column in zip(*rows, strict=True)],
            )

    def _row(self, envelope: Envelope, sequence: int) -> tuple[object, ...]:
        order_no = partition_number(envelope.route.value, envelope.partition_key)
        labels = envelope.labels
        return (
            ROUTE_CODES[envelope.route],
            envelope.event_key,
            sequence,
            order_no % PARTITIONS if order_no else self._home(),
            order_no,
            envelope.received_at_ms,
            text(envelope.partition_key),
            envelope.source,
            text(labels.type),
            text(labels.event),
            text(labels.message_id),
            text(labels.user_id),
            envelope.payload,
            envelope.trace or None,
        )

    async def _lock(self, transaction: Transaction, appends: Sequence[Append]) -> None:
        """Have every base key's row, in order and locked, before any is judged: no deadlock between replicas."""
        bases = sorted({_base(e) for append in appends for e in append.envelopes if e.recurrence is not None})
        if bases:
            await transaction.connection.execute(_LOCK_OCCURRENCE, bases, transaction.now_ms)
            await transaction.connection.fetch(_LOCKED, bases)

    async def _recur(self, transaction: Transaction, envelope: Envelope) -> tuple[Envelope, int] | None:
        """Note another copy of the known occurrence, or begin a new one: its envelope and sequence."""
        recurrence, connection = envelope.recurrence, transaction.connection
        assert recurrence is not None  # noqa: S101 - the caller looked
        row = await connection.fetchrow(
            "SELECT first_sequence, last_copy_ms FROM forwarder.occurrences WHERE base_key = $1", _base(envelope)
        )
        opposite = None
        if recurrence.subject is not None:
            opposite = await connection.fetchval(
                "SELECT max(first_sequence) FROM forwarder.occurrences WHERE subject = $1 AND side <> $2",
                recurrence.subject,
                recurrence.side,
            )
        known = Occurrence(row[0], row[1]) if row[0] else None
        at_ms = envelope.received_at_ms
        is_copy = is_resend(recurrence, known, opposite_sequence=opposite, received_at_ms=at_ms)
        if is_copy and known is not None:
            sequence = known.first_sequence
        else:
            sequence = await connection.fetchval("SELECT nextval('forwarder.event_sequence')")
        await connection.execute(
            "UPDATE forwarder.occurrences SET subject = $2, side = $3, first_sequence = $4, last_copy_ms = $5, "
            "keep_until_ms = $6 WHERE base_key = $1",
            _base(envelope),
            recurrence.subject,
            recurrence.side,
            sequence,
            at_ms,
            at_ms + max(recurrence.resend_s, recurrence.resend_max_s) * 1000,
        )
        if is_copy:
            return None
        true_key = occurrence_key(envelope.event_key, sequence)
        return msgspec.structs.replace(envelope, event_key=true_key, recurrence=None), sequence


def _base(envelope: Envelope) -> bytes:
    return envelope.event_key + bytes((ROUTE_CODES[envelope.route],))


def text(value: str) -> str:
    """Return what Postgres can store: neither lone surrogates, which JSON can carry, nor U+0000."""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
