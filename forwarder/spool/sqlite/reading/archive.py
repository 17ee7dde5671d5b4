"""The reading half of the spool: what people and programs ask of what it holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import apsw

from forwarder.archive_port import (
    AuditRow,
    EventDetail,
    EventPage,
    EventQuery,
    EventTypeRow,
    ReasonGroup,
    SpoolFacts,
)
from forwarder.errors import NoSuchEvent, SpoolClosed
from forwarder.model import RouteName, State
from forwarder.ports import Clock
from forwarder.spool.codes import PENDING, ROUTE_CODES, ROUTES, STATE_CODES, Account, route_code, totals_of
from forwarder.spool.held_leases import earlier
from forwarder.spool.limits import SpoolLimits, refusal
from forwarder.spool.sqlite.database import ReadThread
from forwarder.spool.sqlite.files import DAMAGE_ERRORS
from forwarder.spool.sqlite.reading.search import search
from forwarder.spool.sqlite.reading.standing import read_detail, states_of
from forwarder.spool.sqlite.refill import oldest_fresh
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Amounts, Reader, pages_of

T = TypeVar("T")
_DEAD = "SELECT route, sum(count), sum(held - count) FROM reasons WHERE state = ? GROUP BY route"
_GROUPS = (
    "SELECT reason, sum(count), group_concat(reason_id) FROM reasons "
    "WHERE state = ?1 AND count > 0 AND (?2 IS NULL OR route = ?2) "
    "GROUP BY reason ORDER BY 2 DESC, reason LIMIT ?3"
)
_OLDEST_BACK = (
    "SELECT (SELECT min(sequence) FROM given_back WHERE route = ?1 AND replayed_ms IS NULL), "
    "(SELECT min(replayed_ms) FROM given_back WHERE route = ?1 AND replayed_ms IS NOT NULL)"
)
_SAMPLE = (
    "SELECT last, settled_at_ms FROM settled INDEXED BY settled_by_reason "
    "WHERE reason_id = ? AND is_discarded = 0 ORDER BY last DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Live:
    """What a running spool knows of itself."""

    totals: Amounts
    refusal: str  # the disk's
    limits: SpoolLimits
    refused: dict[RouteName, int]  # what the last append would have added, if the cap refused it


class SqliteArchive:
    """`archive_port.Archive` of a spool that runs, on a thread of its own, which `SqliteSpool` opens and closes."""

    _reads: ReadThread

    def __init__(self, *, live: Callable[[], Live], clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._is_closed = False

    async def facts(self) -> SpoolFacts:
        """Return the spool's state; see `archive_port.Archive.facts`."""
        return await self._read(self._facts)

    async def events(self, query: EventQuery) -> EventPage:
        """List events; see `archive_port.Archive.events`."""
        return await self._read(lambda connection: search(connection, query, now_s=self._clock.monotonic_s))

    async def event(self, sequence: int) -> EventDetail:
        """Return one event; raises `NoSuchEvent`."""
        detail = await self._read(lambda connection: read_detail(connection, sequence))
        if detail is None:
            raise NoSuchEvent(f"no event {sequence} in this spool: it never was, or its history was purged")
        return detail

    async def states(self, sequences: Sequence[int]) -> Mapping[int, State]:
        """Return the state of each of these events."""
        return await self._read(lambda connection: states_of(connection, sequences))

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the event types seen, last seen first."""
        rows = await self._read(
            lambda connection: connection.execute(
                "SELECT route, type, event, count, first_at_ms, last_at_ms FROM event_types "
                "WHERE ?1 IS NULL OR route = ?1 ORDER BY last_at_ms DESC, route, type, event LIMIT ?2",
                (route_code(route), limit),
            ).fetchall()
        )
        return [
            EventTypeRow(
                route=ROUTES[row[0]], type=row[1], event=row[2], count=row[3], first_at_ms=row[4], last_at_ms=row[5]
            )
            for row in rows
        ]

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group settled, not discarded events by reason, largest first."""
        return await self._read(
            lambda connection: _group_by_reason(connection, STATE_CODES[state], route_code(route), limit=limit)
        )

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log, newest first."""
        rows = await self._read(
            lambda connection: connection.execute(
                "SELECT at_ms, who, action, detail, count, outcome FROM audit ORDER BY audit_id DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        names = ("at_ms", "who", "action", "detail", "count", "outcome")
        return [AuditRow(**dict(zip(names, row, strict=True))) for row in rows]

    async def get(self, key: str) -> bytes | None:
        """Return a kept value, or None; see `ports.Spool.get`."""
        return await self._read(lambda connection: kept_value(connection, key))

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise SpoolClosed("the spool is closed")

    async def _read(self, work: Callable[[Reader], T]) -> T:
        self._refuse_closed()
        return await self._reads.read(work)

    def _facts(self, connection: Reader) -> SpoolFacts:
        live = self._live()
        amounts = live.totals
        used, _ = pages_of(connection)
        reason = live.refusal or _cap_refusal(live, used)
        dead = {
            route: (kept, put_aside) for route, kept, put_aside in connection.execute(_DEAD, (STATE_CODES[State.DEAD],))
        }
        return SpoolFacts(
            size_bytes=used,
            cap_bytes=live.limits.bytes_max,
            unsettled_bytes={name: amounts.get((code, Account.UNSETTLED_BYTES), 0) for name, code in _codes()},
            totals={
                name: totals_of({account: count for (of, account), count in amounts.items() if of == code})
                for name, code in _codes()
            },
            oldest_pending_ms={name: _oldest_ms(connection, code) for name, code in _codes()},
            retrying={name: amounts.get((code, Account.RETRYING), 0) for name, code in _codes()},
            open_dead={name: dead.get(code, (0, 0))[0] for name, code in _codes()},
            discarded={name: dead.get(code, (0, 0))[1] for name, code in _codes()},
            corrupt_rows=sum(amounts.get((code, Account.CORRUPT), 0) for _, code in _codes()),
            is_accepting=not reason,
            refusal=reason,
            engine=f"SQLite {apsw.sqlite_lib_version()}",
        )


def _cap_refusal(live: Live, used: int) -> str:
    unsettled = {name: live.totals.get((code, Account.UNSETTLED_BYTES), 0) for name, code in _codes()}
    dead = sum(live.totals.get((code, Account.DEAD_BYTES), 0) for _, code in _codes())
    return refusal(live.limits, used=used, unsettled=unsettled, dead=dead, incoming=live.refused)


def _codes() -> list[tuple[RouteName, int]]:
    return list(ROUTE_CODES.items())


def _oldest_ms(connection: Reader, route: int) -> int | None:
    try:
        back, replayed_ms = connection.execute(_OLDEST_BACK, (route,)).fetchone()
        oldest = [s for s in (oldest_fresh(connection, route), back) if s is not None]
        received = connection.execute(
            f"SELECT received_at_ms FROM {EVENT_TABLES[route]} WHERE sequence = ?",  # noqa: S608 - our own words
            (min(oldest, default=None),),
        ).fetchone()
    except DAMAGE_ERRORS:
        return None  # the totals, which the same call brings, are known all the same
    return earlier(received[0] if received else None, replayed_ms)


def kept_value(connection: Reader, key: str) -> bytes | None:
    """Return what the daemon keeps of its own under this key; None for nothing."""
    row = connection.execute("SELECT value FROM kept_values WHERE key = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def _group_by_reason(connection: Reader, state: int, route: int | None, *, limit: int) -> Sequence[ReasonGroup]:
    """Return the largest groups; the sample is the newest event of its group, and gives its time."""
    if state == PENDING:
        return []
    groups = []
    for reason, count, ids in connection.execute(_GROUPS, (state, route, limit)).fetchall():
        found = [connection.execute(_SAMPLE, (int(one),)).fetchone() for one in ids.split(",")]
        sequence, at_ms = max(row for row in found if row is not None)
        groups.append(ReasonGroup(reason=reason, count=count, sample_sequence=sequence, last_at_ms=at_ms))
    return groups
