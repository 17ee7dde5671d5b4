"""Read from the database what can be lent next: the ready ones after a cursor, and those whose time has come.

Runs on the writer thread between commits, so that what it saw and what was committed have one order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import apsw

from forwarder.spool.due import AHEAD_MS_MAX
from forwarder.spool.store.lanes import Promoted
from forwarder.spool.store.rows import UnreadableRows, read_candidates
from forwarder.spool.store.settlement import RowsDamaged, quarantine
from forwarder.spool.store.transaction import Candidate, Transaction

_READY = (
    "SELECT r.sequence, e.size FROM ready r JOIN events e ON e.sequence = r.sequence "
    "WHERE r.route = ? AND r.sequence > ? ORDER BY r.sequence LIMIT ?"
)
_WAITING = (
    "SELECT {}, sequence FROM waiting WHERE route = ? AND is_retry = ? AND not_before_ms {} ? "
    "ORDER BY not_before_ms, sequence LIMIT ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedWish:
    """What the desk of a route wants. A count of 0 asks for none of that kind."""

    route: int
    after: int
    ready_max: int
    bytes_max: int
    due_max: tuple[int, int]  # by is_retry, beyond those known already
    known: frozenset[int]  # lent, or in the desk's hands: not wanted again


@dataclass(slots=True)
class Fed:
    """What a feed brought."""

    ready: list[Candidate] = field(default_factory=list)
    ready_to: int = 0  # every ready event up to here was brought or is known
    is_caught_up: bool = False
    due: tuple[list[Candidate], list[Candidate]] = field(default_factory=lambda: ([], []))
    next_due_ms: list[int | None] = field(default_factory=lambda: [None, None])
    promoted: list[Promoted] = field(default_factory=list)


def feed(transaction: Transaction, wish: FeedWish) -> Fed:
    """Bring what the desk asks for; damaged payloads are quarantined on the way.

    Raises `RowsDamaged` for rows that cannot be read at all.
    """
    fed = Fed(ready_to=wish.after)
    try:
        if wish.ready_max:
            _feed_ready(transaction, wish, fed)
        for is_retry in (0, 1):
            _feed_due(transaction, wish, fed, is_retry)
    except UnreadableRows as unreadable:
        raise RowsDamaged(wish.route, unreadable.sequences) from unreadable
    return fed


def _feed_ready(transaction: Transaction, wish: FeedWish, fed: Fed) -> None:
    limit = wish.ready_max
    sequences, is_all = _ready_sequences(transaction, wish, limit)
    # Those that are lent are read too: they may be given back before the desk hears of this.
    fed.ready, damaged = read_candidates(transaction, sequences)
    # What is in hand is whole there, and its settlement is to come: it is not quarantined.
    fed.promoted += quarantine(transaction, wish.route, [s for s in damaged if s not in wish.known])
    fed.ready_to = transaction.sequence if is_all else sequences[-1]
    fed.is_caught_up = is_all


def _ready_sequences(transaction: Transaction, wish: FeedWish, limit: int) -> tuple[list[int], bool]:
    """Return the next sequences within the bytes, and whether these are all there are."""
    try:
        rows: Sequence[tuple[int, int]] = transaction.execute(_READY, (wish.route, wish.after, limit)).fetchall()
    except apsw.CorruptError:
        rows = [
            (sequence, 0)
            for (sequence,) in transaction.execute(
                "SELECT sequence FROM ready WHERE route = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (wish.route, wish.after, limit),
            )
        ]
    total = 0
    for index, (_, size) in enumerate(rows):
        total += size
        if total > wish.bytes_max and index:
            return [sequence for sequence, _ in rows[:index]], False
    return [sequence for sequence, _ in rows], len(rows) < limit


def _feed_due(transaction: Transaction, wish: FeedWish, fed: Fed, is_retry: int) -> None:
    wanted = wish.due_max[is_retry]
    limit = wanted + len(wish.known)
    far_ms = transaction.now_ms + AHEAD_MS_MAX
    # What is too far ahead is due as well, see `due.py`: as if its time had come long ago.
    late = transaction.execute(_WAITING.format("0", ">"), (wish.route, is_retry, far_ms, limit + 1)).fetchall()
    rows = transaction.execute(
        _WAITING.format("not_before_ms", "<="), (wish.route, is_retry, far_ms, limit + 1)
    ).fetchall()
    fresh = [(at_ms, sequence) for at_ms, sequence in late + rows if sequence not in wish.known]
    due = [sequence for at_ms, sequence in fresh[:wanted] if at_ms <= transaction.now_ms]
    candidates, damaged = read_candidates(transaction, due)
    fed.promoted += quarantine(transaction, wish.route, damaged)
    order = {sequence: index for index, sequence in enumerate(due)}
    fed.due[is_retry].extend(sorted(candidates, key=lambda c: order[c.sequence]))
    rest = fresh[len(due) :]
    fed.next_due_ms[is_retry] = rest[0][0] if rest else None


def newest(transaction: Transaction, route: int, *, known: frozenset[int]) -> tuple[Candidate | None, list[Promoted]]:
    """Return the newest event that could be lent now."""
    rows = transaction.execute(
        "SELECT sequence FROM ready WHERE route = ? ORDER BY sequence DESC LIMIT ?", (route, len(known) + 1)
    ).fetchall()
    rows += transaction.execute(
        "SELECT sequence FROM waiting WHERE route = ? AND (not_before_ms <= ? OR not_before_ms > ?) "
        "ORDER BY sequence DESC LIMIT ?",
        (route, transaction.now_ms, transaction.now_ms + AHEAD_MS_MAX, len(known) + 1),
    ).fetchall()
    promoted: list[Promoted] = []
    for sequence in sorted((row[0] for row in rows if row[0] not in known), reverse=True):
        try:
            candidates, damaged = read_candidates(transaction, [sequence])
        except UnreadableRows as unreadable:
            raise RowsDamaged(route, unreadable.sequences) from unreadable
        if candidates:
            return candidates[0], promoted
        promoted += quarantine(transaction, route, damaged)
    return None, promoted


def fetch_promoted(transaction: Transaction, promoted: Sequence[Promoted]) -> list[Candidate]:
    """Read those that can be lent at once; damaged ones are quarantined, and their followers read in turn."""
    candidates: list[Candidate] = []
    waiting = [p for p in promoted if p.due is None]
    while waiting:
        routes = {p.sequence: p.route for p in waiting}
        try:
            read, damaged = read_candidates(transaction, sorted(routes))
        except UnreadableRows as unreadable:
            raise RowsDamaged(waiting[0].route, unreadable.sequences) from unreadable
        candidates += read
        followers = [f for s in damaged for f in quarantine(transaction, routes[s], [s])]
        waiting = [p for p in followers if p.due is None]
    return candidates
