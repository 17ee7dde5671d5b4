"""Erase what is kept of a person: payloads, labels that name him, plans, destinations' answers.

The event stays as a row without content: its key suppresses duplicates, its state is counted. What was pending is dead
and discarded. Deleted bytes are overwritten in the database at once; what lies in the log and in free pages leaves the
files with `scrub`. Not reached: copies of the folder, and what lay in free room of a page before.
"""

import asyncio
import re
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import apsw

from forwarder.archive_port import AuditRow
from forwarder.model import State
from forwarder.ports import Erased
from forwarder.spool.limits import event_bytes
from forwarder.spool.sqlite.jobs import AwaitedWork
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS, KIND_MESSAGE, KIND_USER, label_hash
from forwarder.spool.sqlite.leasing import Leasing
from forwarder.spool.sqlite.runs import (
    Run,
    drop_reason,
    find_number,
    find_runs,
    head_of,
    intern_reason,
    is_corrupt,
    leave_partition,
    search_numbers,
    take_out,
    write_runs,
)
from forwarder.spool.sqlite.settlement import Moves, tell_head, unlist
from forwarder.spool.sqlite.transaction import DEAD, EVENT_TABLES, PENDING, ROUTES, STATE_CODES, Account, Transaction
from forwarder.spool.sqlite.writer import Writer

ERASED = "erased"
PAGES_PER_STEP = 2_000
_CHUNK = 250  # events in one commit
_INBOUND = 1
_WRITE_LINE = (
    "INSERT INTO audit (audit_id, at_ms, who, action, detail, count, outcome) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (audit_id) DO UPDATE SET count = excluded.count, outcome = excluded.outcome RETURNING audit_id"
)
_PUT_ASIDE = (DEAD, STATE_CODES[State.UNMAPPED])  # what would be something to do
_NOBODY = "(erased)"
_NAMES = "route|state|period|event|user_id|user|message_id|message|reason|text|status|attempts|from|to"
_WORDS = re.compile(rf"\b((?:text|reason)[= ])(.*?)(?= (?:{_NAMES})=|, (?:{_NAMES}) |, with what |$)", re.DOTALL)
_NO_LABEL = label_hash("").to_bytes(4, "little")


class Emptied(NamedTuple):
    """What an erasure met: how many events, which of them were pending, per route, and who is leased in their place."""

    events: int
    waited: tuple[set[int], set[int]]
    moves: Moves


def erase(transaction: Transaction, sequences: Sequence[int]) -> Emptied:
    """Erase events, pending or settled; none may be leased."""
    waited: tuple[set[int], set[int]] = (set(), set())
    moves, found = Moves(), 0
    with _overwriting(transaction):
        for route, table in enumerate(EVENT_TABLES):
            rows = transaction.execute(
                f"SELECT sequence, size, partition FROM {table} WHERE sequence IN carray(?)",  # noqa: S608 - our own words
                (apsw.carray(array("q", sequences)),),
            )
            events = {sequence: _Event(size, partition) for sequence, size, partition in rows}
            if events:
                waited[route].update(_put_in_order(transaction, route, events, moves))
                _empty(transaction, route, list(events))
                found += len(events)
    return Emptied(found, waited, moves)


class _Event(NamedTuple):
    size: int
    partition: str


def _put_in_order(transaction: Transaction, route: int, events: dict[int, _Event], moves: Moves) -> set[int]:
    """Move what is pending to the dead, and have no run tell more than that; return what was pending."""
    pending = set(events)
    for run, sequences in list(find_runs(transaction.connection, list(events))):
        if run.route != route:
            continue
        pending.difference_update(sequences)
        if is_corrupt(transaction.connection, run):
            continue  # its size was never counted, and its reason says so
        drop_reason(transaction, run.reason_id, count=0 if run.is_discarded else len(sequences), held=len(sequences))
        _blank_attempts(transaction, route, [] if run.attempt_id is None else [run.attempt_id])
        _write_erased(transaction, run, take_out(transaction, run, sequences))
        if run.state == DEAD:
            transaction.add(route, Account.DEAD_BYTES, -sum(events[one].size for one in sequences))
    if not pending:
        return pending
    numbers = {
        one: find_number(transaction.connection, ROUTES[route].value, events[one].partition, one) for one in pending
    }
    # A row that does not tell the truth is damaged.
    numbers |= search_numbers(transaction, [one for one in pending if events[one].partition and not numbers[one]])
    left: dict[int, int] = {}
    for sequence in sorted(pending):
        unlist(transaction, route, sequence)
        if number := numbers[sequence]:
            leave_partition(transaction, number, sequence)
            left.setdefault(number, sequence)
    for number, oldest in left.items():
        head = head_of(transaction.connection, number)
        if head is not None and head > oldest:  # else it was the head before
            tell_head(transaction, route, head, moves)
    run = Run(route, 0, 0, DEAD, transaction.now_ms, 0, None, None, 0, None)
    _write_erased(transaction, run, [(sequence, 0) for sequence in sorted(pending)])
    transaction.add(route, PENDING, -len(pending))
    transaction.add(route, DEAD, len(pending))
    transaction.add(route, Account.UNSETTLED_BYTES, -sum(event_bytes(events[one].size) for one in pending))
    transaction.add(route, Account.DEAD_BYTES, len(pending) * event_bytes(0))
    return pending


def _write_erased(transaction: Transaction, run: Run, events: Sequence[tuple[int, int]]) -> None:
    reason_id = intern_reason(transaction, run.route, run.state, ERASED, count=len(events))
    is_discarded = int(run.state in _PUT_ASIDE)
    if is_discarded:
        drop_reason(transaction, reason_id, count=len(events), held=0)
    write_runs(transaction, run._replace(reason_id=reason_id, attempt_id=None, is_discarded=is_discarded), events)


def _empty(transaction: Transaction, route: int, sequences: Sequence[int]) -> None:
    these = (apsw.carray(array("q", sequences)),)
    listed = transaction.execute("SELECT attempt_ids FROM attempt_lists WHERE sequence IN carray(?)", these).fetchall()
    attempts: set[int] = set()
    for (ids,) in listed:
        attempts.update(array("q", ids))
    _blank_attempts(transaction, route, attempts)
    for beside in ("progress", "attempt_lists"):
        transaction.execute(f"DELETE FROM {beside} WHERE sequence IN carray(?)", these)  # noqa: S608 - our own words
    transaction.execute(
        f"UPDATE {EVENT_TABLES[route]} SET payload = NULL, user_id = '', message_id = '', partition = '', "  # noqa: S608 - our own words
        "size = 0, checksum = 0, trace = NULL WHERE sequence IN carray(?)",
        these,
    )
    _blank_labels(transaction, sequences)


def _blank_attempts(transaction: Transaction, route: int, attempts: Iterable[int]) -> None:
    """Take out what a destination answered, which may quote a payload; and what a path names, which is a user."""
    if not (ids := array("q", attempts)):
        return
    path = ", operation = substr(operation, 1, instr(operation || ' ', ' ')) || '…'" if route == _INBOUND else ""
    transaction.execute(
        f"UPDATE attempts SET answer = x''{path} WHERE attempt_id IN carray(?)",  # noqa: S608 - our own words
        (apsw.carray(ids),),
    )


def _blank_labels(transaction: Transaction, sequences: Sequence[int]) -> None:
    by_block: defaultdict[int, list[int]] = defaultdict(list)
    for sequence in sequences:
        by_block[sequence // BLOCK_EVENTS].append(4 * (sequence % BLOCK_EVENTS))
    for block, places in by_block.items():
        for kind in (KIND_USER, KIND_MESSAGE):
            row = transaction.execute(
                "SELECT hashes FROM label_index WHERE kind = ? AND block = ?", (kind, block)
            ).fetchone()
            if row is None:
                continue
            hashes = bytearray(row[0])
            for place in places:
                hashes[place : place + 4] = _NO_LABEL
            transaction.execute(
                "UPDATE label_index SET hashes = ? WHERE kind = ? AND block = ?", (bytes(hashes), kind, block)
            )


def write_line(transaction: Transaction, row: AuditRow, number: int | None) -> int:
    """Add a line to the audit log, or rewrite what is known of its outcome; return its number."""
    values = (number, row.at_ms, row.who, row.action, row.detail, row.count, row.outcome)
    return int(transaction.execute(_WRITE_LINE, values).fetchall()[0][0])


def scrub(transaction: Transaction, users: Collection[str]) -> int:
    """Take a person's ids out of the audit log, and give free pages back; return how many are left."""
    with _overwriting(transaction):
        for number, detail in transaction.execute("SELECT audit_id, detail FROM audit").fetchall() if users else ():
            told = without_ids(detail, users)
            if told != detail:
                transaction.execute("UPDATE audit SET detail = ? WHERE audit_id = ?", (told, number))
        transaction.execute(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})").fetchall()
    return int(transaction.connection.pragma("freelist_count"))


def without_ids(detail: str, users: Collection[str]) -> str:
    """Return a line of the audit log without these ids: as the user that was selected, and in text and reason.

    Names are the API's (`user_id=…`); earlier versions' page wrote `user …, text …`.
    """
    for user in users:
        detail = re.sub(rf"\b(user_id=|user ){re.escape(user)}(?= \w+=|,|$)", rf"\1{_NOBODY}", detail)
        word = re.compile(rf"(?<![\w@.+-]){re.escape(user)}(?![\w@+-]|\.\w)", re.IGNORECASE)
        detail = _WORDS.sub(partial(_blanked, word), detail)
    return detail


def _blanked(word: re.Pattern[str], found: re.Match[str]) -> str:
    return found[1] + word.sub(_NOBODY, found[2])


class Eraser:
    """Erase while routes lease and deliver. Lives on the event loop's thread."""

    def __init__(self, work: AwaitedWork, leasing: Leasing, writer: Writer) -> None:
        self._work = work
        self._leasing = leasing
        self._writer = writer

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase these events but for those that are leased; see `ports.Spool.erase`."""
        events = pending = leased = 0
        for start in range(0, len(sequences), _CHUNK):
            chunk = sequences[start : start + _CHUNK]
            taken = set(self._leasing.claims.leased_of(chunk))
            free = [sequence for sequence in chunk if sequence not in taken]
            leased += len(taken)
            if free:
                met = await self._erased(free)
                events, pending = events + met.events, pending + sum(map(len, met.waited))
        return Erased(events=events, pending=pending, leased=leased)

    async def _erased(self, sequences: Sequence[int]) -> Emptied:
        def admit() -> None:
            for queue in self._leasing.queues:
                queue.barred.difference_update(sequences)

        def on_commit(met: Emptied) -> None:
            admit()
            for queue, waited in zip(self._leasing.queues, met.waited, strict=True):
                if waited:
                    queue.erased(waited)
            self._leasing.moved(met.moves)

        def on_rollback() -> None:
            admit()
            self._leasing.reset()  # who was barred may have been passed over

        # Nobody is leased what is being erased: not between the commit and the moment it is heard of here, either.
        for queue in self._leasing.queues:
            queue.barred.update(sequences)
        return await self._work.run(partial(erase, sequences=sequences), on_commit=on_commit, on_rollback=on_rollback)

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Let what was erased leave the files; see `ports.Spool.scrub`."""
        left = await self._work.run(partial(scrub, users=user_ids))
        while left:
            before, left = left, await self._work.run(partial(scrub, users=()))
            if left >= before:
                break
        return await self._truncated() and not left

    async def _truncated(self) -> bool:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def tell(is_done: bool) -> None:  # noqa: FBT001  a callback's one argument
            if not answer.done():
                answer.set_result(is_done)

        self._writer.truncate_log(lambda is_done: loop.call_soon_threadsafe(tell, is_done))
        return await answer


@contextmanager
def _overwriting(transaction: Transaction) -> Iterator[None]:
    """Have deleted bytes overwritten with zeros."""
    transaction.connection.pragma("secure_delete", 1)
    try:
        yield
    finally:
        transaction.connection.pragma("secure_delete", "FAST")
