"""Erase what is kept of a person: payloads, labels that name him, plans, destinations' answers.

The event stays as a row without content: its key suppresses duplicates, its state is counted. What was pending is dead
and discarded. Deleted bytes are overwritten in the database at once; what lies in the log and in free pages leaves the
files with `scrub`. Not reached: copies of the folder, and what lay in free room of a page before.
"""

import asyncio
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import apsw

from forwarder.model import State
from forwarder.spool.claims import Moves
from forwarder.spool.codes import DEAD, PENDING, ROUTES, STATE_CODES, Account
from forwarder.spool.erasing import ERASED, Emptied, without_ids
from forwarder.spool.limits import event_bytes
from forwarder.spool.sqlite.jobs import AwaitedWork
from forwarder.spool.sqlite.label_index import BLOCK_EVENTS, KIND_MESSAGE, KIND_USER, label_hash
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
from forwarder.spool.sqlite.settlement import tell_head, unlist
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Transaction
from forwarder.spool.sqlite.writer import Writer

PAGES_PER_STEP = 2_000
_INBOUND = 1
_PUT_ASIDE = (DEAD, STATE_CODES[State.UNMAPPED])  # what would be something to do
_NO_LABEL = label_hash("").to_bytes(4, "little")


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


def scrub(transaction: Transaction, users: Collection[str]) -> int:
    """Take a person's ids out of the audit log, and give free pages back; return how many are left."""
    with _overwriting(transaction):
        for number, detail in transaction.execute("SELECT audit_id, detail FROM audit").fetchall() if users else ():
            told = without_ids(detail, users)
            if told != detail:
                transaction.execute("UPDATE audit SET detail = ? WHERE audit_id = ?", (told, number))
        transaction.execute(f"PRAGMA incremental_vacuum({PAGES_PER_STEP})").fetchall()
    return int(transaction.connection.pragma("freelist_count"))


class Scrubber:
    """Have events erased, and let what was leave the files. Lives on the event loop's thread."""

    def __init__(self, work: AwaitedWork, writer: Writer) -> None:
        self._work = work
        self._writer = writer

    async def erase(
        self, sequences: Sequence[int], *, on_commit: Callable[[Emptied], None], on_rollback: Callable[[], None]
    ) -> Emptied:
        """Erase events, none of which is leased; see `erasing.EraseThese`."""
        return await self._work.run(partial(erase, sequences=sequences), on_commit=on_commit, on_rollback=on_rollback)

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Give the room of what was erased back, and empty the log; see `ports.Spool.scrub`."""
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
