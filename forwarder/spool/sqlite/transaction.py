"""One transaction in the making: the connection, the time, what it changes beside rows; and the numbers it writes.

The totals and the known event types are held in memory and in tables. Changes gather here and reach memory
only when the commit succeeded, so that a rolled-back transaction leaves no trace.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import apsw

from forwarder.archive_port import AuditRow
from forwarder.spool.codes import Account
from forwarder.spool.limits import SpoolLimits

EVENT_TABLES: Final = ("events_outbound", "events_inbound")  # by the route's code

_EVICTABLE = (Account.DELIVERED, Account.FILTERED, Account.UNMAPPED)
PAGE_BYTES = 4096
Amounts = dict[tuple[int, int], int]  # by route and account
_WRITE_AUDIT_LINE = (
    "INSERT INTO audit (audit_id, at_ms, who, action, detail, count, outcome) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (audit_id) DO UPDATE SET count = excluded.count, outcome = excluded.outcome RETURNING audit_id"
)


class Reader(Protocol):
    """A connection as those see it who read: rows are typed by who knows the schema."""

    def execute(self, statements: str, bindings: Any = None, /) -> Any:
        """Run a statement."""

    def pragma(self, name: str, /) -> Any:
        """Return a setting or a fact of the database."""


@dataclass(slots=True)
class Memory:
    """What the writer thread knows without asking the database. Changed by commits only."""

    totals: Amounts = field(default_factory=dict)
    event_types: set[tuple[int, str, str]] = field(default_factory=set)
    types_per_route: Counter[int] = field(default_factory=Counter)
    last_of_route: list[int] = field(default_factory=lambda: [0, 0])  # since the start
    used_bytes: int = 0  # of the pages that hold something, as of the last commit
    free_pages: int = 0  # likewise

    @property
    def sequence(self) -> int:
        """Return the last one given."""
        return self.totals.get((0, Account.SEQUENCE), 0)

    def history(self) -> int:
        """Return how many events ever became history that may be evicted."""
        return sum(self.totals.get((route, account), 0) for route in (0, 1) for account in _EVICTABLE)


class Transaction:
    """What the jobs of one commit share. Lives on the writer thread, for one commit."""

    def __init__(self, connection: apsw.Connection, memory: Memory, limits: SpoolLimits, *, now_ms: int) -> None:
        self.connection = connection
        # Rows are typed where they are read: SQLite's own types are wider than the schema's.
        self.execute: Callable[..., Any] = connection.execute
        self.executemany: Callable[..., Any] = connection.executemany
        self.limits = limits
        self.now_ms = now_ms
        self.memory = memory
        self.sequence = memory.sequence
        self.last_of_route = list(memory.last_of_route)  # 0: not known
        self.quarantined: list[int] = []
        self._used_bytes, self._free_pages = memory.used_bytes, memory.free_pages
        self._new_event_types: set[tuple[int, str, str]] = set()
        self._changes: defaultdict[tuple[int, int], int] = defaultdict(int)

    def knows_event_type(self, key: tuple[int, str, str]) -> bool:
        """Tell whether this type has its row, or may have one from now on."""
        memory = self.memory
        if key in memory.event_types or key in self._new_event_types:
            return True
        new = sum(1 for route, _, _ in self._new_event_types if route == key[0])
        if memory.types_per_route[key[0]] + new >= self.limits.event_types_max:
            return False
        self._new_event_types.add(key)
        return True

    def add(self, route: int, account: int, amount: int) -> None:
        """Add to an account of the totals."""
        self._changes[route, account] += amount

    def balance(self, route: int, account: Account) -> int:
        """Return an account as it will be after this commit."""
        key = (route, int(account))
        return self.memory.totals.get(key, 0) + self._changes.get(key, 0)

    def write_totals(self) -> None:
        """Write the changed accounts; the last statement before the commit."""
        changes = self._changes
        if self.sequence != self.memory.sequence:
            changes[0, Account.SEQUENCE] = self.sequence - self.memory.sequence
        if not changes:
            return
        for route in (0, 1):
            # The size of a row that could not be read is not known: with nothing pending the rest is its.
            rest = self.balance(route, Account.UNSETTLED_BYTES)
            if rest and not self.balance(route, Account.PENDING):
                changes[route, Account.UNSETTLED_BYTES] -= rest
        self.executemany(
            "INSERT INTO totals VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            [(route, account, amount) for (route, account), amount in changes.items() if amount],
        )

    def weigh(self) -> None:
        """Note what the pages take, behind the last statement: once the commit is made nothing may fail any more."""
        self._used_bytes, self._free_pages = pages_of(self.connection)

    def keep(self) -> None:
        """Take the changes over into memory, once the commit succeeded. Asks the database nothing."""
        memory = self.memory
        totals = dict(memory.totals)
        for (route, account), amount in self._changes.items():
            key = (route, int(account))
            totals[key] = totals.get(key, 0) + amount
        # A new dict each time: readers on other threads hold the old one, one moment's truth.
        memory.totals = totals
        memory.last_of_route = self.last_of_route
        memory.used_bytes, memory.free_pages = self._used_bytes, self._free_pages
        if self._new_event_types:
            memory.event_types |= self._new_event_types
            memory.types_per_route.update(route for route, _, _ in self._new_event_types)


def load_memory(connection: Reader) -> Memory:
    """Read what a fresh writer must know."""
    totals: list[tuple[int, int, int]] = connection.execute("SELECT * FROM totals").fetchall()
    types: list[tuple[int, str, str]] = connection.execute("SELECT route, type, event FROM event_types").fetchall()
    used, free = pages_of(connection)
    return Memory(
        totals={(route, account): amount for route, account, amount in totals},
        event_types=set(types),
        types_per_route=Counter(route for route, _, _ in types),
        used_bytes=used,
        free_pages=free,
    )


def pages_of(connection: Reader) -> tuple[int, int]:
    """Return the bytes of the pages that hold something, and how many pages are free."""
    free = int(connection.pragma("freelist_count"))
    return (int(connection.pragma("page_count")) - free) * PAGE_BYTES, free


def read_mark(connection: Reader, name: str) -> int:
    """Return how far something has come; 0 when it never began."""
    row = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def write_mark(transaction: Transaction, name: str, value: int) -> None:
    """Keep how far something has come."""
    transaction.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))


def floor_mark(route: int) -> str:
    """Return the name of the mark below which no event of a route is pending without a row in `given_back`."""
    return f"floor_{route}"


def text(value: str) -> str:
    """Return what SQLite can store: a lone surrogate, which JSON can carry, is no UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def change_value(
    transaction: Transaction, *, key: str, change: Callable[[bytes | None], bytes], limits: SpoolLimits
) -> bytes:
    """Replace a small value of the daemon's own; see `ports.Spool.change`."""
    row = transaction.execute("SELECT value FROM kept_values WHERE key = ?", (key,)).fetchone()
    value = limits.small(change((row and row[0]) or None), key)
    transaction.execute("INSERT OR REPLACE INTO kept_values VALUES (?, ?)", (key, value))
    return value


def write_audit_line(transaction: Transaction, row: AuditRow, number: int | None) -> int:
    """Add a line to the audit log, or rewrite what is known of its outcome; return its number."""
    values = (number, row.at_ms, row.who, row.action, row.detail, row.count, row.outcome)
    return int(transaction.execute(_WRITE_AUDIT_LINE, values).fetchall()[0][0])
