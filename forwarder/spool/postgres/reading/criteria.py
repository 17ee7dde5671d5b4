"""What a query asks of the events, in SQL: along which of them to walk, and what of their rows must hold."""

from collections.abc import Sequence

from forwarder.archive_port import EventQuery
from forwarder.model import State
from forwarder.spool.codes import PENDING, ROUTE_CODES, STATE_CODES
from forwarder.spool.postgres.appends import text as storable

_REASONS_MAX = 64  # walked along side by side
# Bytes as they are, each a character: what is no UTF-8 can be searched, too. NUL alone cannot be told so.
_PAYLOAD = (
    "CASE WHEN position('\\x00'::bytea IN e.payload) > 0 THEN encode(e.payload, 'escape') "
    "ELSE convert_from(e.payload, 'LATIN1') END"
)


class Criteria:
    """The criteria of a query. `reason_ids` are those of the reason, or of the state, that it asks for; None for any.

    `statement` takes the first sequence, the last one, how many to look at and how many matches to tell, then `values`.
    `is_windowed`: it looks at all events between the two, else at the next ones of what a filter selects. `is_near`:
    few events are above the floors, up to which only what was given back is pending.
    """

    def __init__(self, query: EventQuery, reason_ids: Sequence[int] | None, *, is_near: bool = False) -> None:
        self._query = query
        self._is_near = is_near
        self._reason_ids = reason_ids
        self.values: list[object] = []
        self._order = "ASC" if query.after_sequence is not None else "DESC"
        self._joins = ""
        candidates = self._candidates()
        self.is_windowed = candidates is None
        match = "true" if query.text is None else self._match(query.text)
        conditions = [*self._of_event(), *self._of_standing()]
        if self.is_windowed:
            conditions.append("e.sequence >= $1 AND e.sequence <= $2")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        near, far = ("min", "max") if self._order == "ASC" else ("max", "min")
        back = "DESC" if self._order == "ASC" else "ASC"
        self.statement = f"""
WITH candidates AS MATERIALIZED ({candidates or "SELECT $1::bigint AS sequence WHERE $3::bigint = 0"}),
looked AS (SELECT e.sequence, e.received_at_ms, {match} AS is_match
  FROM {"" if candidates is None else "candidates c JOIN"} forwarder.events e
  {"" if candidates is None else "ON e.sequence = c.sequence"} {self._joins} {where}),
numbered AS (SELECT *, count(*) FILTER (WHERE is_match) OVER (ORDER BY sequence {self._order} ROWS UNBOUNDED PRECEDING)
  AS nth FROM looked)
SELECT (SELECT count(*) FROM candidates) AS candidates, (SELECT {far}(sequence) FROM candidates) AS reached,
  count(*) FILTER (WHERE nth <= $4) AS scanned, count(*) FILTER (WHERE is_match AND nth <= $4) AS matched,
  (array_agg(received_at_ms ORDER BY sequence {back}) FILTER (WHERE nth <= $4))[1] AS reached_ms,
  array_agg(sequence ORDER BY sequence {self._order}) FILTER (WHERE is_match AND nth <= $4) AS found,
  {near}(sequence) FILTER (WHERE nth > $4) AS beyond
FROM numbered
"""  # noqa: S608 - our own words; values are bound

    def _bind(self, value: object, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values) + 4}::{kind}"

    # --- along what to walk ---

    def _candidates(self) -> str | None:
        query, ids = self._query, self._reason_ids
        for column, value in (("message_id", query.message_id), ("user_id", query.user_id)):
            if value:  # full blocks have an index of it
                return self._part("events", f"{column} = {self._bind(storable(value), 'text')}")
        if ids is not None and len(ids) <= _REASONS_MAX:
            among = f"unnest({self._bind(list(ids), 'integer[]')}) AS r(id)"
            discarded = "unnest(ARRAY[false, true])" if query.has_discarded else "unnest(ARRAY[false])"
            condition = "reason_id = r.id AND is_discarded = d.is_so"
            parts = [self._part("outcomes", condition, f"{among}, {discarded} AS d(is_so)")]
            if query.reason is not None:
                parts.append(self._part("work", "reason_id = r.id", among))
            return self._merged(parts)
        if query.state is State.PENDING and self._is_near:
            return self._merged([self._part("work"), self._part("events e", self._fresh())])
        if query.is_of_trouble:
            # In the words of the index, or it is not used.
            condition = "(attempts > 1 OR status NOT BETWEEN 200 AND 299)"
            return self._merged([self._part("outcomes", condition), self._part("work")])
        return None

    def _fresh(self) -> str:
        """Return what holds of pending events that were never given back."""
        settled, listed = (
            f"(SELECT 1 FROM forwarder.{table} x WHERE x.sequence = e.sequence LIMIT 1) IS NULL"  # noqa: S608 - as below
            for table in ("outcomes", "work")
        )
        return f"sequence > (SELECT min(least(floors[1], floors[2])) FROM forwarder.floors) AND {settled} AND {listed}"  # noqa: S608 - as below

    def _part(self, table: str, condition: str = "true", beside: str = "") -> str:
        limited = (
            f"SELECT sequence FROM forwarder.{table} WHERE {condition} "  # noqa: S608 - our own words; values are bound
            f"AND sequence >= $1 AND sequence <= $2 ORDER BY sequence {self._order} LIMIT $3"
        )
        return f"SELECT p.sequence FROM {beside}, LATERAL ({limited}) p" if beside else limited  # noqa: S608 - as above

    def _merged(self, parts: Sequence[str]) -> str:
        union = " UNION ALL ".join(f"({part})" for part in parts)
        return f"SELECT sequence FROM ({union}) m ORDER BY sequence {self._order} LIMIT $3"  # noqa: S608 - as above

    # --- what of the rows must hold ---

    def _of_event(self) -> list[str]:
        query = self._query
        conditions = []
        if query.route is not None:
            conditions.append(f"e.route = {self._bind(ROUTE_CODES[query.route], 'smallint')}")
        for column, value in (("event", query.event), ("message_id", query.message_id), ("user_id", query.user_id)):
            if value is not None:
                conditions.append(f"e.{column} = {self._bind(storable(value), 'text')}")
        if query.received_from_ms is not None:
            conditions.append(f"e.received_at_ms >= {self._bind(query.received_from_ms, 'bigint')}")
        if query.received_to_ms is not None:
            conditions.append(f"e.received_at_ms < {self._bind(query.received_to_ms, 'bigint')}")
        return conditions

    def _of_standing(self) -> list[str]:
        query = self._query
        conditions = []
        if query.state is State.PENDING:
            conditions.append("o.sequence IS NULL")
        elif query.state is not None:
            conditions.append(f"o.state = {self._bind(STATE_CODES[query.state], 'smallint')}")
        if query.reason is not None:
            ids = self._bind(list(self._reason_ids or ()), "integer[]")
            conditions.append(f"coalesce(o.reason_id, w.reason_id) = ANY({ids})")
        if query.status is not None:
            low, high = (self._bind(bound, "integer") for bound in query.status)
            conditions.append(f"coalesce(o.status, w.status) BETWEEN {low} AND {high}")
        if query.attempts is not None:
            low, high = (self._bind(bound, "bigint") for bound in query.attempts)
            conditions.append(f"coalesce(o.attempts, w.attempts, 0) BETWEEN {low} AND {high}")
        if not query.has_discarded:
            conditions.append("o.is_discarded IS NOT TRUE")
        words = " ".join(conditions)
        for table, name in (("outcomes", "o"), ("work", "w")):
            if f"{name}." in words:
                # Within the same bounds, so that only tables are looked into that hold some of them.
                self._joins += (
                    f" LEFT JOIN forwarder.{table} {name} ON {name}.sequence = e.sequence "
                    f"AND {name}.sequence >= $1 AND {name}.sequence <= $2"
                )
        return conditions

    def _match(self, text: str) -> str:
        """Return what tells whether a text is part of a label or of the payload, in any case (of ASCII)."""
        needle = self._bind(storable(text), "text")
        lowered = f'lower({needle} COLLATE "C")'
        texts = [
            f'strpos(lower(e.{column} COLLATE "C"), {lowered}) > 0' for column in ("event", "message_id", "user_id")
        ]
        as_bytes = f"convert_from(convert_to({needle}, 'UTF8'), 'LATIN1')"
        texts.append(f'strpos(lower(({_PAYLOAD}) COLLATE "C"), lower({as_bytes} COLLATE "C")) > 0')
        if (sequence := self._query.text_as_sequence) is not None:
            texts.append(f"e.sequence = {self._bind(sequence, 'bigint')}")
        return f"coalesce({' OR '.join(texts)}, false)"


def wanted_reasons(query: EventQuery) -> tuple[str | None, list[int]] | None:
    """Return which reasons' ids the criteria need: the words, None for all of them, and of which states; or None.

    Every event that is settled, but for those delivered, has a reason, if only an empty one.
    """
    if query.reason is not None:
        states = range(len(STATE_CODES)) if query.state is None else [STATE_CODES[query.state]]
        return storable(query.reason), list(states)
    if query.state is None or STATE_CODES[query.state] == PENDING or query.state is State.DELIVERED:
        return None
    return None, [STATE_CODES[query.state]]
