"""One transaction in the making: the connection, the time, and what it changes beside rows.

The books, the known reasons and the known event types are held in memory and in tables. Changes gather
here and reach memory only when the commit succeeded, so that a rolled-back transaction leaves no trace.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import apsw

from forwarder.model import Lease
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.codes import Account
from forwarder.spool.store.database import Reader

_YIELDING = (Account.DELIVERED, Account.FILTERED, Account.UNMAPPED)
BookChanges = defaultdict[tuple[int, int], int]


@dataclass(slots=True)
class Candidate:
    """A pending event in memory, ready to be lent.

    `lane` is the number of its partition, 0 without; `due` is its row in `waiting`, None when it
    is in `ready`.
    """

    lease: Lease
    lane: int
    due: tuple[int, int] | None = None  # is_retry, not_before_ms
    is_settling: bool = False

    @property
    def sequence(self) -> int:
        """Return the event's sequence."""
        return self.lease.sequence

    def claim(self) -> bool:
        """Take it for the one settlement it may have; tell whether another has it already."""
        was_claimed, self.is_settling = self.is_settling, True
        return was_claimed

    @property
    def size(self) -> int:
        """Return the payload's bytes."""
        return len(self.lease.envelope.payload)


@dataclass(slots=True)
class Memory:
    """What the writer thread knows without asking the database. Changed by commits only."""

    sequence: int = 0  # the last one given
    books: dict[tuple[int, int], int] = field(default_factory=dict)
    event_types: set[tuple[int, str, str]] = field(default_factory=set)
    types_per_route: Counter[int] = field(default_factory=Counter)

    def history(self) -> int:
        """Return how many events ever became history that may yield."""
        return sum(self.books.get((route, account), 0) for route in (0, 1) for account in _YIELDING)


class Transaction:
    """What the jobs of one commit share. Lives on the writer thread, for one commit."""

    def __init__(self, connection: apsw.Connection, memory: Memory, limits: SpoolLimits, *, now_ms: int) -> None:
        self.connection = connection
        # Rows are typed where they are read: SQLite's own types are wider than the schema's.
        self.execute: Callable[..., Any] = connection.execute
        self.executemany: Callable[..., Any] = connection.executemany
        self.limits = limits
        self.now_ms = now_ms
        self.sequence = memory.sequence
        self.new_event_types: set[tuple[int, str, str]] = set()
        self._new_types_per_route: Counter[int] = Counter()
        self.quarantined: list[int] = []
        self._memory = memory
        self._changes: BookChanges = defaultdict(int)

    def knows_event_type(self, key: tuple[int, str, str]) -> bool:
        """Tell whether this type has its row already."""
        return key in self._memory.event_types or key in self.new_event_types

    def event_types_of(self, route: int) -> int:
        """Return how many distinct types the route has."""
        return self._memory.types_per_route[route] + self._new_types_per_route[route]

    def learn_event_type(self, key: tuple[int, str, str]) -> None:
        """Hear of a type that gets its row in this transaction."""
        self.new_event_types.add(key)
        self._new_types_per_route[key[0]] += 1

    def book(self, route: int, account: int, amount: int) -> None:
        """Add to an account of the books."""
        self._changes[route, account] += amount

    def balance(self, route: int, account: Account) -> int:
        """Return an account as it will be after this commit."""
        key = (route, int(account))
        return self._memory.books.get(key, 0) + self._changes.get(key, 0)

    def history(self) -> int:
        """Return how many events ever became history that may yield, before this transaction."""
        return self._memory.history()

    def write_books(self) -> None:
        """Write the changed accounts; the last thing before the commit."""
        for route in (0, 1):
            # The size of a row that could not be read is not known: with nothing pending the rest is its.
            if not self.balance(route, Account.PENDING):
                self.book(route, Account.UNSETTLED_BYTES, -self.balance(route, Account.UNSETTLED_BYTES))
        self.executemany(
            "INSERT INTO books VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            [(route, account, amount) for (route, account), amount in self._changes.items() if amount],
        )

    def is_changed(self) -> bool:
        """Tell whether any account changed."""
        return any(self._changes.values())

    def keep(self) -> None:
        """Take the changes over into memory, once the commit succeeded."""
        memory = self._memory
        books = dict(memory.books)
        for key, amount in self._changes.items():
            books[key] = books.get(key, 0) + amount
        # A new dict each time: readers on other threads hold the old one, one moment's truth.
        memory.books = books
        memory.sequence = self.sequence
        if self.new_event_types:
            memory.event_types |= self.new_event_types
            memory.types_per_route.update(self._new_types_per_route)


def load_memory(connection: Reader) -> Memory:
    """Read what a fresh writer must know."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    books: list[tuple[int, int, int]] = connection.execute("SELECT * FROM books").fetchall()
    types: list[tuple[int, str, str]] = connection.execute("SELECT route, type, event FROM event_types").fetchall()
    return Memory(
        sequence=row[0] if row else 0,
        books={(route, account): amount for route, account, amount in books},
        event_types=set(types),
        types_per_route=Counter(route for route, _, _ in types),
    )
