"""What a query asks of one route's events: along what to walk, what to ask the rows, and where events must stand."""

from forwarder.archive_port import EventQuery
from forwarder.model import State
from forwarder.spool.codes import PENDING, STATE_CODES
from forwarder.spool.sqlite.label_index import KIND_EVENT, KIND_MESSAGE, KIND_USER, built_to
from forwarder.spool.sqlite.reading.standing import Standing
from forwarder.spool.sqlite.reading.streams import (
    LabelStream,
    RunStream,
    Stream,
    TableStream,
    TimeStream,
    UnionStream,
    UnsettledStream,
    label_needle,
)
from forwarder.spool.sqlite.transaction import EVENT_TABLES, Reader, floor_mark, read_mark

# What the index of these holds; in the words of the schema, or it is not used.
_TROUBLED = "(attempts > 1 OR status NOT BETWEEN 200 AND 299)"
_IN_ANY_CASE = "LIKE ? ESCAPE '\\'"
_LABELS = ("event", "message_id", "user_id")
_ANYTHING = (0, 2**62)


class Criteria:
    """The criteria of a query, for one route."""

    def __init__(self, connection: Reader, query: EventQuery, code: int) -> None:
        self._connection = connection
        self._query = query
        self._code = code
        self._is_up = query.after_sequence is not None
        self._built_to = built_to(connection)

    def admit(self, standing: Standing) -> bool:
        """Tell whether an event with this standing is meant."""
        query = self._query
        return (
            (query.state is None or standing.state == STATE_CODES[query.state])
            and query.reason in (None, standing.reason)
            and _is_in(standing.status, query.status)
            and _is_in(standing.attempts, query.attempts)
            and (query.has_discarded or not standing.is_discarded)
        )

    def statement(self) -> tuple[str, tuple[object, ...]]:
        """Return what asks the rows of a chunk: how many, the last one with its time, and which have the text."""
        query, match = self._query, "sequence"
        values: list[object] = []
        if query.text is not None:
            pattern = f"%{_escaped(query.text)}%"
            texts = (*_LABELS, "CAST(payload AS TEXT)")
            match = (
                f"CASE WHEN {' OR '.join(f'{one} {_IN_ANY_CASE}' for one in texts)} OR sequence = ? THEN sequence END"
            )
            values += [pattern] * len(texts) + [query.text_as_sequence or 0]
        conditions = []
        for column, value in zip(_LABELS, (query.event, query.message_id, query.user_id), strict=True):
            if value is not None:
                conditions.append(f"{column} = ? AND ")
                values.append(value)
        if query.received_from_ms is not None:
            conditions.append("received_at_ms >= ? AND ")
            values.append(query.received_from_ms)
        if query.received_to_ms is not None:
            conditions.append("received_at_ms < ? AND ")
            values.append(query.received_to_ms)
        last = "max" if self._is_up else "min"
        sql = (
            f"SELECT count(*), {last}(sequence), received_at_ms, group_concat({match}) "  # noqa: S608 - our own words
            f"FROM {EVENT_TABLES[self._code]} WHERE {''.join(conditions)} sequence IN carray(?)"
        )
        return sql, tuple(values)

    def streams(self) -> list[Stream]:
        """Return sorted sets of sequences: an event that is meant is in each of them."""
        query = self._query
        streams: list[Stream] = []
        labels = (
            (KIND_MESSAGE, "message_id", query.message_id),
            (KIND_USER, "user_id", query.user_id),
            (KIND_EVENT, "event", query.event),
        )
        streams += [self._label(kind, column, value) for kind, column, value in labels if value is not None]
        if query.reason is not None:
            streams.append(self._reason(query.reason))
        elif query.state is not None:
            streams.append(self._state(query.state))
        elif not query.has_discarded:
            streams.append(
                UnionStream([self._runs("route = ?", self._code), self._state(State.PENDING)], is_up=self._is_up)
            )
        if query.status is not None or query.attempts is not None:
            streams.append(self._tried())
        if query.received_from_ms is not None or query.received_to_ms is not None:
            if not streams:
                streams.append(self._table(EVENT_TABLES[self._code], "1"))
            streams.append(TimeStream(self._connection, query, self._code, self._built_to, is_up=self._is_up))
        return streams or [self._table(EVENT_TABLES[self._code], "1")]

    def _table(self, table: str, condition: str, *values: object) -> Stream:
        return TableStream(self._connection, table, condition, values, is_up=self._is_up)

    def _runs(self, condition: str, *values: object, index: str = "") -> Stream:
        if not self._query.has_discarded:
            condition += " AND is_discarded = 0"
        return RunStream(self._connection, condition, values, is_up=self._is_up, index=index)

    def _label(self, kind: int, column: str, value: str) -> Stream:
        rest = self._table(EVENT_TABLES[self._code], f"{column} = ? AND sequence >= ?", value, self._built_to)
        return LabelStream(
            self._connection,
            kind=kind,
            needle=label_needle(value),
            built_to=self._built_to,
            rest=rest,
            is_up=self._is_up,
        )

    def _state(self, state: State) -> Stream:
        if state is not State.PENDING:
            return self._runs("route = ? AND state = ?", self._code, STATE_CODES[state])
        # What was given back, and what never was: the latter lies above the floor.
        floor = read_mark(self._connection, floor_mark(self._code))
        never = UnsettledStream(self._connection, self._code, floor=floor, is_up=self._is_up)
        return UnionStream([self._table("given_back", "route = ?", self._code), never], is_up=self._is_up)

    def _reason(self, reason: str) -> Stream:
        ids = self._connection.execute(
            "SELECT reason_id, state FROM reasons WHERE reason = ? AND route = ?", (reason, self._code)
        )
        streams: list[Stream] = []
        for reason_id, state in ids.fetchall():
            if self._query.state is not None and STATE_CODES[self._query.state] != state:
                continue
            if state == PENDING:
                streams.append(self._table("given_back", "reason_id = ?", reason_id))
            else:
                # Given apart, so that both are a range of the index.
                streams += [self._runs("reason_id = ? AND is_discarded = ?", reason_id, is_so) for is_so in (0, 1)]
        return UnionStream(streams, is_up=self._is_up)

    def _tried(self) -> Stream:
        """Return what was attempted so often and answered so."""
        query = self._query
        values: list[object] = [self._code, *(query.attempts or _ANYTHING)]
        condition = "route = ? AND attempts BETWEEN ? AND ?"
        if query.status is not None:
            condition += " AND status BETWEEN ? AND ?"
            values += query.status
        index, known = ("settled_troubled", f"{_TROUBLED} AND ") if query.is_of_trouble else ("", "")
        streams: list[Stream] = [self._runs(known + condition, *values, index=index)]
        if query.status is None and query.attempts is not None and query.attempts[0] == 0:
            streams.append(self._state(State.PENDING))
        else:
            streams.append(self._table("given_back", condition, *values))
        return UnionStream(streams, is_up=self._is_up)


def _is_in(value: int | None, bounds: tuple[int, int] | None) -> bool:
    return bounds is None or (value is not None and bounds[0] <= value <= bounds[1])


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
