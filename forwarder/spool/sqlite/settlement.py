"""Move events on: settle leased ones, give them back, set damaged ones aside, requeue and discard. SQL only.

An event that was never given back and has no partition, which is nearly every one, costs its share of a run: one row
for all that were settled together. What was given back or stands in a partition takes the longer way, one by one.
"""

from collections import defaultdict
from collections.abc import Sequence

from forwarder.model import Attempt, Lease, Replay, Returned, Settled
from forwarder.spool.claims import Claim, GivenBack, Heads, Moves, is_unchanged
from forwarder.spool.codes import (
    CORRUPT_ROW,
    DEAD,
    PENDING,
    REPLAY_CODES,
    ROUTES,
    STATE_CODES,
    Account,
    partition_number,
)
from forwarder.spool.held_leases import BESIDE, FRESH, RETRY
from forwarder.spool.limits import event_bytes
from forwarder.spool.sqlite.runs import (
    Run,
    drop_reason,
    find_runs,
    head_of,
    intern_reason,
    is_corrupt,
    join_partition,
    leave_partition,
    list_attempt,
    run_at,
    search_numbers,
    take_out,
    write_attempt,
    write_run,
    write_runs,
)
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Transaction

_LIST = (
    "INSERT INTO given_back (sequence, route, is_head, kind, not_before_ms, attempts, first_failed_ms, reason_id, "
    "status, replayed_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLAYS = "SELECT 1 FROM given_back WHERE route = ? AND replayed_ms IS NOT NULL LIMIT ?"


def settle(transaction: Transaction, claims: Sequence[Claim]) -> Moves:
    """Write what became of leased events."""
    moves = Moves()
    attempts: dict[int, int | None] = {}  # one row for an exchange, also when several settlements share it
    for claim in claims:
        attempt = claim.settlement.attempt
        if id(attempt) not in attempts:
            attempts[id(attempt)] = write_attempt(transaction, attempt)
        if isinstance(claim.settlement, Settled):
            _settle(transaction, claim, claim.settlement, attempts[id(attempt)], moves)
        elif not is_unchanged(claim.settlement):
            _give_back(transaction, claim, claim.settlement, attempts[id(attempt)], moves)
    return moves


def _settle(transaction: Transaction, claim: Claim, settled: Settled, attempt_id: int | None, moves: Moves) -> None:
    route, state, leases = claim.route, STATE_CODES[settled.state], claim.leases
    reason_id = intern_reason(transaction, route, state, settled.reason, count=len(leases))
    size = sum([event_bytes(len(lease.envelope.payload)) for lease in leases])
    for sequence in claim.listed:
        unlist(transaction, route, sequence)
    status, by_attempts = _status(settled.attempt), defaultdict[int, list[Lease]](list)
    for lease in leases:
        by_attempts[lease.attempt - (attempt_id is None)].append(lease)
        if lease.envelope.partition_key:
            leave(transaction, route, lease.sequence, _partition(lease), moves)
    for attempts, alike in by_attempts.items():
        sequences = [lease.sequence for lease in alike]
        first, last = min(sequences), max(sequences)
        run = Run(route, last, first, state, transaction.now_ms, attempts, reason_id, attempt_id, 0, status)
        if last - first < len(alike):  # nothing lies between them, as nearly always
            write_run(transaction, run)
        else:
            write_runs(transaction, run, sorted([(lease.sequence, lease.follows) for lease in alike]))
    transaction.add(route, Account.PENDING, -len(leases))
    transaction.add(route, state, len(leases))
    transaction.add(route, Account.UNSETTLED_BYTES, -size)
    if state == DEAD:
        transaction.add(route, Account.DEAD_BYTES, size)


def _give_back(
    transaction: Transaction, claim: Claim, returned: Returned, attempt_id: int | None, moves: Moves
) -> None:
    route, leases = claim.route, claim.leases
    list_attempt(transaction, [lease.sequence for lease in leases], attempt_id)
    status, before = _status(returned.attempt), {one: unlist(transaction, route, one) for one in claim.listed}
    reason_id = intern_reason(transaction, route, PENDING, returned.reason, count=len(leases))
    rows = []
    retrying = 0
    for lease in leases:
        attempts, first_failed_ms = lease.attempt - 1 + int(returned.counts), lease.first_failed_at_ms
        if returned.counts and first_failed_ms is None:
            first_failed_ms = transaction.now_ms
        number = _partition(lease)
        kind = RETRY if attempts > 0 or returned.not_before_ms > 0 else FRESH
        if lease.replayed_at_ms is not None:  # it steps aside: nothing waits for a replay that did not succeed
            if number and not lease.is_beside:
                leave(transaction, route, lease.sequence, number, moves)
                join_partition(transaction, -number, lease.sequence)
                number = -number
            kind = BESIDE
        is_head = not number or head_of(transaction.connection, number) == lease.sequence
        retrying += int(attempts > 0)
        answered = before.get(lease.sequence) if attempt_id is None else status
        where = (lease.sequence, route, int(is_head), kind, returned.not_before_ms)
        rows.append((*where, attempts, first_failed_ms, reason_id, answered, lease.replayed_at_ms))
        back = GivenBack(lease, is_head=is_head, kind=kind, not_before_ms=returned.not_before_ms)
        moves.given_back.append((route, back))
    transaction.executemany(_LIST, rows)
    transaction.add(route, Account.RETRYING, retrying)


def quarantine(transaction: Transaction, route: int, sequences: Sequence[int]) -> Moves:
    """Settle damaged rows as dead, without reading them. Who followed them may be leased then."""
    moves = Moves()
    waiting = [one for one in dict.fromkeys(sequences) if run_at(transaction.connection, route, one) is None]
    # Their rows cannot be trusted to name their partitions, and one read from a damaged page would roll all this back.
    numbers = search_numbers(transaction, waiting)
    for sequence in waiting:
        unlist(transaction, route, sequence)
        reason_id = intern_reason(transaction, route, DEAD, CORRUPT_ROW, count=1)
        write_run(transaction, Run(route, sequence, sequence, DEAD, transaction.now_ms, 0, reason_id, None, 0, None))
        if sequence in numbers:
            leave(transaction, route, sequence, numbers[sequence], moves)
        transaction.add(route, Account.PENDING, -1)
        transaction.add(route, Account.DEAD, 1)
        transaction.add(route, Account.CORRUPT, 1)
        transaction.add(route, Account.UNSETTLED_BYTES, -event_bytes(0))
        transaction.quarantined.append(sequence)
    return moves


def unlist(transaction: Transaction, route: int, sequence: int) -> int | None:
    """Take an event off the list; return the status of its last answer."""
    row = transaction.execute(
        "DELETE FROM given_back WHERE sequence = ? RETURNING attempts, reason_id, status", (sequence,)
    ).fetchone()
    status: int | None = None
    if row is not None:
        drop_reason(transaction, row[1], count=1, held=1)
        transaction.add(route, Account.RETRYING, -int(row[0] > 0))
        status = row[2]
    return status


def _status(attempt: Attempt | None) -> int | None:
    """Return the HTTP status of an exchange; 0 where no answer came."""
    return None if attempt is None else attempt.status or 0


def leave(transaction: Transaction, route: int, sequence: int, number: int, moves: Moves) -> None:
    """Take a settled event out of its partition, and note who is its oldest now."""
    head = leave_partition(transaction, number, sequence)
    if head is not None:
        tell_head(transaction, route, head, moves)


def tell_head(transaction: Transaction, route: int, head: int, moves: Moves) -> None:
    """Note that an event is the oldest of its partition now."""
    row = transaction.execute("SELECT kind, not_before_ms FROM given_back WHERE sequence = ?", (head,)).fetchone()
    if row is None:
        moves.promoted.append((route, head))
    else:
        moves.waits.append((route, row[0], row[1]))


def _partition(lease: Lease) -> int:
    """Return the number of a lease's partition; replays that go beside have one of their own; 0 for none."""
    number = partition_number(lease.envelope.route.value, lease.envelope.partition_key)
    return -number if lease.is_beside else number


def requeue(
    transaction: Transaction, sequences: Sequence[int], *, everything: bool, is_replay: bool
) -> tuple[list[int], Heads]:
    """Move settled events that still have their payload back to pending; return how many, per route, and who leads."""
    replay = REPLAY_CODES[Replay.EVERYTHING if everything else Replay.REST]
    replayed_ms = transaction.now_ms if is_replay else None
    counts = [0, 0]
    heads: Heads = ({}, {})
    most = transaction.limits.replays_in_line_max
    waiting = [transaction.execute(_REPLAYS, (route, most)).fetchall() for route in (0, 1)]
    are_few = [len(sequences) + len(replays) <= most for replays in waiting]
    for run, found in list(find_runs(transaction.connection, sequences)):
        if is_corrupt(transaction.connection, run):
            continue
        events = _payloads_of(transaction, run, found)
        if events:
            few = are_few[run.route]
            _requeue(transaction, run, events, replay, heads[run.route], replayed_ms=replayed_ms, are_few=few)
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
    transaction: Transaction,
    run: Run,
    events: Sequence[tuple[int, str, int]],
    replay: int,
    heads: dict[str, int],
    *,
    replayed_ms: int | None,
    are_few: bool,
) -> None:
    route, sequences = run.route, [sequence for sequence, _, _ in events]
    take_out(transaction, run, sequences)
    drop_reason(transaction, run.reason_id, count=0 if run.is_discarded else len(events), held=len(events))
    weight = 0
    for sequence, partition, size in events:
        number = partition_number(ROUTES[route].value, partition)
        has_line = are_few and number and head_of(transaction.connection, number) is not None
        is_beside = replayed_ms is not None and not has_line
        number = -number if is_beside else number
        head = join_partition(transaction, number, sequence) if number else sequence
        if number > 0:
            heads[partition] = head
        kind = BESIDE if is_beside else FRESH
        row = (sequence, route, int(head == sequence), kind, 0, 0, None, None, None, replayed_ms)
        transaction.execute(_LIST, row)
        transaction.execute("DELETE FROM attempt_lists WHERE sequence = ?", (sequence,))
        transaction.execute("UPDATE progress SET replay = ? WHERE sequence = ?", (replay, sequence))
        weight += event_bytes(size)
    transaction.add(route, run.state, -len(events))
    transaction.add(route, PENDING, len(events))
    transaction.add(route, Account.UNSETTLED_BYTES, weight)
    if run.state == DEAD:
        transaction.add(route, Account.DEAD_BYTES, -weight)


def _payloads_of(transaction: Transaction, run: Run, sequences: Sequence[int]) -> list[tuple[int, str, int]]:
    """Return sequence, partition and size of those that still have their payload."""
    sql = f"SELECT sequence, partition, size FROM {EVENT_TABLES[run.route]} WHERE sequence = ? AND payload IS NOT NULL"  # noqa: S608 - our own words
    rows = (transaction.execute(sql, (sequence,)).fetchone() for sequence in sequences)
    return [(row[0], row[1], row[2]) for row in rows if row is not None]
