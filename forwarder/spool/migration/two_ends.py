"""What a spool holds, in a form that neither engine has for itself, and the two ends of a move."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from forwarder.errors import ForwarderError
from forwarder.spool.codes import ROUTES, STATES, Account

PARTS = ("attempts", "events", "keys", "occurrences", "values", "audit", "types", "totals")
# A move's own notes among the values of the database that it makes, which is no spool yet.
KEPT = ("migration:shape", "migration:mark")
OWN = f"key NOT IN ('{KEPT[0]}', '{KEPT[1]}')"  # SQL: not one of them
ROWS = 5_000  # of a step
EVENTS = 2_000
BYTES = 8_388_608  # of payloads
Cursor = Any  # how far a part was read: what JSON can say, None at its beginning
Counts = dict[str, int]


class Table(NamedTuple):
    """A table that both engines have alike. Its rows go in the order of its first column, which is unique."""

    name: str
    columns: tuple[str, ...]
    start: int | str | bytes  # below every value of the first column
    where: str = "true"  # SQL: which rows belong to the spool
    rows: int | None = None  # of a step, where they are large

    def select(self, schema: str, place: str) -> str:
        """Return the statement that reads the next rows behind a value that is bound at this place."""
        behind, key = f"{self.columns[0]} > {place} AND {self.where}", self.columns[0]
        columns = ", ".join(self.columns)
        return f"SELECT {columns} FROM {schema}{self.name} WHERE {behind} ORDER BY {key} LIMIT {self.rows or ROWS}"  # noqa: S608 - our own words

    def after(self, cursor: Cursor) -> int | str | bytes:
        """Return the value to bind."""
        if cursor is None:
            return self.start
        return bytes.fromhex(cursor) if isinstance(self.start, bytes) else cursor

    def cursor(self, rows: Sequence[Any]) -> Cursor:
        """Return where to go on behind these rows."""
        if len(rows) < (self.rows or ROWS):
            return None
        return rows[-1][0].hex() if isinstance(self.start, bytes) else rows[-1][0]


TYPES = Table("event_types", ("route", "type", "event", "count", "first_at_ms", "last_at_ms"), 0)
TABLES = {
    "attempts": Table(
        "attempts",
        ("attempt_id", "at_ms", "duration_ms", "operation", "status", "outcome", "reason", "answer", "mapping"),
        0,
    ),
    "occurrences": Table(
        "occurrences",
        ("base_key", "subject", "side", "first_sequence", "last_copy_ms", "keep_until_ms"),
        b"",
        "first_sequence > 0",
    ),
    "values": Table("kept_values", ("key", "value"), "", OWN, 1),
    "audit": Table("audit", ("audit_id", "at_ms", "who", "action", "detail", "count", "outcome"), 0),
}


def table_counts(schema: str) -> dict[str, str]:
    """Return the statements that count the rows of these tables, each with the name of what it counts."""
    return {
        table.name.replace("_", " "): f"SELECT count(*) FROM {schema}{table.name} WHERE {table.where}"  # noqa: S608 - our own words
        for table in TABLES.values()
    }


def route_counts(route: int, kept: Mapping[int, int], payload_bytes: int, amounts: Mapping[int, int]) -> Counts:
    """Name what was counted of a route: its events by the code of their state, its payloads, its accounts."""
    name = ROUTES[route].value
    return {
        f"{name}: payload bytes": payload_bytes,
        **{f"{name}: {state.value}, kept": kept.get(code, 0) for code, state in enumerate(STATES)},
        **{
            f"{name}: {account.name.lower()}, in the totals": amounts.get(account, 0)
            for account in Account
            if account < Account.SEQUENCE
        },
    }


class MigrationFailed(ForwarderError):
    """The move cannot begin or go on; the text says why, and what to do."""


class Outcome(NamedTuple):
    """How an event was settled."""

    state: int
    settled_at_ms: int
    attempts: int
    reason: str
    attempt_id: int | None
    is_discarded: bool
    status: int | None


class Wait(NamedTuple):
    """How an event waits that was given back or requeued."""

    kind: int
    not_before_ms: int
    attempts: int
    first_failed_ms: int | None
    reason: str
    status: int | None
    replayed_ms: int | None


class Event(NamedTuple):
    """An event with all that is kept of it. Neither `outcome` nor `wait`: pending, and never left the queue."""

    sequence: int
    route: int
    event_key: bytes
    partition_key: str
    received_at_ms: int
    source: str
    type: str
    event: str
    message_id: str
    user_id: str
    size: int
    payload: bytes | None
    trace: str | None
    outcome: Outcome | None
    wait: Wait | None
    progress: tuple[bytes, int] | None  # and how its replay was asked for
    attempt_ids: Sequence[int]


class Shape(NamedTuple):
    """What tells one spool from another, and from itself after a daemon ran on it; and how far its numbers go."""

    first_sequence: int  # of an event that is kept; 0 for none
    last_sequence: int  # ever given
    last_attempt: int
    last_audit: int
    accepted: int
    values: str  # digest of the daemon's own values


def digest_of(values: Iterable[tuple[str, bytes]]) -> str:
    """Return the digest of kept values, whatever their order."""
    digest = sha256()
    for key, value in sorted(values):
        digest.update(b"%d %d " % (len(key), len(value)) + key.encode() + value)
    return digest.hexdigest()


class Mark(NamedTuple):
    """How far a move has come: the part, and how far into it; behind all of them: copied, and then counted as well."""

    part: int
    cursor: Cursor


class Source(Protocol):
    """Where the spool is."""

    async def shape(self) -> Shape:
        """Say what it is; raises `MigrationFailed` when a daemon runs on it."""

    async def read(self, part: str, cursor: Cursor) -> tuple[Sequence[Any], Cursor]:
        """Return the next rows of a part, and where to go on; None at its end. Some MiB at most."""

    async def counts(self) -> Counts:
        """Count what it holds."""

    async def close(self) -> None:
        """Let go of it."""

    async def retire(self) -> str:
        """Keep a daemon from starting on it again, delete nothing; return what it is called now. Idempotent."""


class Target(Protocol):
    """Where it goes: no daemon starts on it before `publish`."""

    async def is_counted(self) -> bool:
        """Tell whether all is here and was counted: then only the ends of the move are missing."""

    async def begin(self, shape: Shape) -> Mark:
        """Make an empty spool, or go on with one that was begun from the same source; return how far it is."""

    async def write(self, part: str, rows: Sequence[Any], mark: Mark) -> None:
        """Store rows and the mark, in one transaction."""

    async def counts(self) -> Counts:
        """Count what it holds."""

    async def close(self) -> None:
        """Let go of it."""

    async def note_counted(self) -> None:
        """Note that all is here and was counted."""

    async def publish(self) -> None:
        """Let daemons start on it."""


ANOTHER = "a move was begun there from another spool, or from this one before a daemon ran on it again"
COUNTED = Mark(len(PARTS) + 1, None)


def differences(source: Mapping[str, int], target: Mapping[str, int]) -> list[str]:
    """Say what does not agree."""
    return [
        f"{name}: {source.get(name, 0)} there, {target.get(name, 0)} here"
        for name in sorted({*source, *target})
        if source.get(name, 0) != target.get(name, 0)
    ]
