"""Make settled events pending again, or mark dead ones as discarded."""

from collections.abc import Sequence

from forwarder.model import Replay
from forwarder.spool.capacity import event_bytes
from forwarder.spool.recurrence import partition_number
from forwarder.spool.sqlite import partitions
from forwarder.spool.sqlite.attempts import drop_reason
from forwarder.spool.sqlite.codes import (
    CORRUPT_ROW,
    DEAD,
    EVENT_TABLES,
    PENDING,
    REPLAY_CODES,
    ROUTES,
    Account,
)
from forwarder.spool.sqlite.runs import Run, find_runs, take_out, write_runs
from forwarder.spool.sqlite.transaction import Transaction

_CHUNK = 500  # events in one commit, so that a long replay delays nobody
Heads = tuple[dict[str, int], dict[str, int]]  # per route: partition key, its oldest event now


def chunks(sequences: Sequence[int]) -> list[Sequence[int]]:
    """Return them in parts that fit a commit each."""
    return [sequences[start : start + _CHUNK] for start in range(0, len(sequences), _CHUNK)]


def requeue(transaction: Transaction, sequences: Sequence[int], *, everything: bool) -> tuple[list[int], Heads]:
    """Move settled events that still have their payload back to pending; return how many, per route, and who leads."""
    replay = REPLAY_CODES[Replay.EVERYTHING if everything else Replay.REST]
    counts = [0, 0]
    heads: Heads = ({}, {})
    for run, found in list(find_runs(transaction.connection, sequences)):
        if _is_corrupt(transaction, run):
            continue
        events = _payloads_of(transaction, run, found)
        if events:
            _requeue(transaction, run, events, replay, heads[run.route])
            counts[run.route] += len(events)
    return counts, heads


def discard(transaction: Transaction, sequences: Sequence[int]) -> int:
    """Mark dead events as discarded; return how many were not so before."""
    count = 0
    for run, found in list(find_runs(transaction.connection, sequences)):
        if run.state == DEAD and not run.is_discarded:
            write_runs(transaction, run._replace(is_discarded=1), take_out(transaction, run, found))
            drop_reason(transaction, run.reason_id, count=len(found), held=0)
            count += len(found)
    return count


def _requeue(
    transaction: Transaction, run: Run, events: Sequence[tuple[int, str, int]], replay: int, heads: dict[str, int]
) -> None:
    route, sequences = run.route, [sequence for sequence, _, _ in events]
    take_out(transaction, run, sequences)
    drop_reason(transaction, run.reason_id, count=0 if run.is_discarded else len(events), held=len(events))
    weight = 0
    for sequence, partition, size in events:
        number = partition_number(ROUTES[route].value, partition)
        head = partitions.join(transaction, number, sequence) if number else sequence
        if number:
            heads[partition] = head
        transaction.execute(
            "INSERT INTO given_back VALUES (?, ?, ?, 0, 0, 0, NULL, NULL)", (sequence, route, int(head == sequence))
        )
        transaction.execute("DELETE FROM attempt_lists WHERE sequence = ?", (sequence,))
        transaction.execute("UPDATE progress SET replay = ? WHERE sequence = ?", (replay, sequence))
        weight += event_bytes(size)
    transaction.add(route, run.state, -len(events))
    transaction.add(route, PENDING, len(events))
    transaction.add(route, Account.UNSETTLED_BYTES, weight)
    if run.state == DEAD:
        transaction.add(route, Account.DEAD_BYTES, -weight)


def _is_corrupt(transaction: Transaction, run: Run) -> bool:
    if run.state != DEAD or run.reason_id is None:
        return False
    row = transaction.execute("SELECT reason FROM reasons WHERE reason_id = ?", (run.reason_id,)).fetchone()
    return row is not None and row[0] == CORRUPT_ROW


def _payloads_of(transaction: Transaction, run: Run, sequences: Sequence[int]) -> list[tuple[int, str, int]]:
    """Return sequence, partition and size of those that still have their payload."""
    sql = f"SELECT sequence, partition, size FROM {EVENT_TABLES[run.route]} WHERE sequence = ? AND payload IS NOT NULL"  # noqa: S608 - our own words
    rows = (transaction.execute(sql, (sequence,)).fetchone() for sequence in sequences)
    return [(row[0], row[1], row[2]) for row in rows if row is not None]
