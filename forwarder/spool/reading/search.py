"""List events: choose what to walk along, walk it newest first, keep what matches."""

import apsw

from forwarder.model import State
from forwarder.ports import EventPage, EventQuery, EventRow
from forwarder.spool.reading.rows import EVENT_COLUMNS, event_row
from forwarder.spool.reading.standings import standing_of
from forwarder.spool.store.codes import ROUTE_CODES, ROUTES, STATE_CODES


def search(connection: apsw.Connection, query: EventQuery) -> EventPage:
    """Return one page."""
    return _Walk(connection, query).page()


class _Walk:
    def __init__(self, connection: apsw.Connection, query: EventQuery) -> None:
        self._connection = connection
        self._query = query

    def page(self) -> EventPage:
        query = self._query
        rows: list[EventRow] = []
        scanned = 0
        is_tail = query.after_sequence is not None
        conditions, values = ["1"], []
        for column, value in (("event", query.event), ("user_id", query.user_id), ("message_id", query.message_id)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if query.route is not None:
            conditions.append("route = ?")
            values.append(ROUTE_CODES[query.route])
        if query.received_from_ms is not None:
            conditions.append("received_at_ms >= ?")
            values.append(query.received_from_ms)
        if query.received_to_ms is not None:
            conditions.append("received_at_ms < ?")
            values.append(query.received_to_ms)
        if query.before_sequence is not None:
            conditions.append("sequence < ?")
            values.append(query.before_sequence)
        if query.after_sequence is not None:
            conditions.append("sequence > ?")
            values.append(query.after_sequence)
        sql = (
            f"SELECT {EVENT_COLUMNS} {', payload' if query.text else ''} FROM events "
            f"WHERE {' AND '.join(conditions)} ORDER BY sequence {'' if is_tail else 'DESC'}"
        )
        is_cut = False
        has_more = False
        last = None
        needle = query.text.encode() if query.text else None
        for row in self._connection.execute(sql, values):
            if needle is not None:
                if scanned >= query.scan_max:
                    is_cut = True
                    break
            standing = standing_of(self._connection, row[1], row[0])
            if query.state is not None and standing.state != STATE_CODES[query.state]:
                continue
            if query.reason is not None and standing.reason != query.reason:
                continue
            scanned += 1
            if needle is not None and needle not in (row[9] or b""):
                last = row[0]
                continue
            if len(rows) >= query.limit:
                has_more = True
                break
            last = row[0]
            rows.append(event_row(row[:9], standing))
        return EventPage(
            rows=tuple(rows), next_before=last if (has_more or is_cut) and not is_tail else None, is_cut=is_cut
        )
