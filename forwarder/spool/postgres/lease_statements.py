"""What the lease queues ask of the database, and how its rows become leases.

$1 is the route, $2 the partitions that may be leased, $3 the floor: see `floors.py`.
"""

import asyncpg
import msgspec

from forwarder.model import Envelope, Labels, Lease
from forwarder.spool.codes import REPLAYS, ROUTES
from forwarder.spool.held_leases import BESIDE, RETRY

# Each look-up stands for itself (`LIMIT` keeps it from becoming a join, which would be planned by guesses).
_FRESH = (
    "(SELECT 1 FROM forwarder.outcomes o WHERE o.sequence = {0}.sequence LIMIT 1) IS NULL "
    "AND (SELECT 1 FROM forwarder.work w WHERE w.sequence = {0}.sequence LIMIT 1) IS NULL"
)
# Of an order only the oldest pending event can be leased. What was given back is older than what never was. What is
# committed late may stand beside another oldest one: the queue has one out at a time. So a look back at a few does.
_LOOK_BACK = 16
_IS_HEAD = (
    "(e.order_no = 0 OR ((SELECT 1 FROM forwarder.work w "  # noqa: S608 - our own words
    "WHERE w.order_no = e.order_no AND w.order_no <> 0 AND w.kind <> 2 LIMIT 1) IS NULL AND (SELECT 1 FROM "
    "(SELECT f.sequence FROM forwarder.events f WHERE f.order_no = e.order_no AND f.order_no <> 0 "
    f"AND f.sequence < e.sequence AND f.sequence > $3 ORDER BY f.sequence DESC LIMIT {_LOOK_BACK}) f "
    f"WHERE {_FRESH.format('f')} LIMIT 1) IS NULL))"
)
_MINE = "e.route = $1 AND e.partition_no = ANY($2::smallint[])"
_COLUMNS = (
    "e.sequence, e.partition_no, e.received_at_ms, e.event_key, e.partition_key, e.source, e.type, e.event, "
    "e.message_id, e.user_id, e.payload, e.trace, p.data, p.replay"
)
LOOK_MAX = 20_000  # events that one read steps over at most
BACKLOG = f"""
WITH next AS (SELECT e.sequence, e.size
  FROM (SELECT sequence, size, route, partition_no, order_no FROM forwarder.events WHERE sequence > $4
    ORDER BY sequence LIMIT {LOOK_MAX}) e
  WHERE {_MINE} AND {_FRESH.format("e")} AND {_IS_HEAD} ORDER BY e.sequence LIMIT $5),
cut AS (SELECT sequence FROM (SELECT sequence, sum(size) OVER (ORDER BY sequence) - size AS before FROM next) s
  WHERE before < $6)
SELECT {_COLUMNS}, (SELECT count(*) FROM next) AS found
FROM cut JOIN forwarder.events e USING (sequence) LEFT JOIN forwarder.progress p USING (sequence) ORDER BY e.sequence
"""  # noqa: S608 - our own words
LAST_LOOKED_AT = f"SELECT sequence FROM forwarder.events WHERE sequence > $1 ORDER BY 1 OFFSET {LOOK_MAX - 1} LIMIT 1"  # noqa: S608 - our own words
FIRST = f"""
SELECT e.sequence FROM forwarder.events e WHERE {_MINE} AND e.sequence > $3 AND {_FRESH.format("e")}
AND e.sequence <= $4 ORDER BY e.sequence LIMIT 1
"""  # noqa: S608 - our own words
SINCE = """
SELECT xid, writer, is_moved, sequences, partitions FROM forwarder.arrivals
WHERE xid >= $2 AND route = $1 AND partitions && $4::smallint[]
UNION ALL SELECT xid, writer, is_moved, sequences, partitions FROM forwarder.arrivals
WHERE xid = ANY($3::bigint[]) AND xid < $2 AND route = $1 AND partitions && $4::smallint[]
"""
FLOORS = "SELECT floors FROM forwarder.floors WHERE no = ANY($1::smallint[])"
SOME = (
    f"SELECT {_COLUMNS} FROM forwarder.events e LEFT JOIN forwarder.progress p USING (sequence) "  # noqa: S608 - our own words
    f"WHERE e.sequence = ANY($4::bigint[]) AND {_MINE} AND {_FRESH.format('e')} AND {_IS_HEAD} ORDER BY e.sequence"
)
HEADS = (
    f"SELECT e.sequence FROM forwarder.events e "  # noqa: S608 - our own words
    f"WHERE e.sequence = ANY($4::bigint[]) AND {_MINE} AND {_FRESH.format('e')} AND {_IS_HEAD}"
)
# The oldest of some orders: behind one that was settled ($5), where that was given back before ($6) also ahead of it.
FREED = (
    f"SELECT {_COLUMNS} "  # noqa: S608 - our own words
    "FROM unnest($4::bigint[], $5::bigint[], $6::boolean[]) AS u(order_no, settled, looks_back), "
    "LATERAL (SELECT coalesce("
    "(SELECT min(f.sequence) FROM (SELECT f.sequence FROM forwarder.events f WHERE u.looks_back "
    f"AND f.order_no = u.order_no AND f.order_no <> 0 AND f.sequence < u.settled ORDER BY 1 DESC LIMIT {_LOOK_BACK}) f "
    f"WHERE {_FRESH.format('f')}), "
    "(SELECT f.sequence FROM forwarder.events f WHERE f.order_no = u.order_no AND f.order_no <> 0 "
    f"AND f.sequence > u.settled AND {_FRESH.format('f')} ORDER BY f.sequence LIMIT 1)) AS sequence) n "
    "JOIN forwarder.events e ON e.sequence = n.sequence LEFT JOIN forwarder.progress p ON p.sequence = e.sequence "
    f"WHERE {_MINE} AND {_IS_HEAD}"
)
DUE = """
SELECT sequence, not_before_ms FROM forwarder.work WHERE route = $1 AND partition_no = ANY($2::smallint[]) AND kind = $3
AND is_head AND not_before_ms > $4 AND not_before_ms <= $5 ORDER BY not_before_ms, sequence LIMIT $6
"""
WORK = (
    f"SELECT {_COLUMNS}, w.attempts, w.first_failed_ms, w.kind, w.replayed_ms FROM forwarder.work w "  # noqa: S608 - our own words
    "JOIN forwarder.events e USING (sequence) LEFT JOIN forwarder.progress p USING (sequence) "
    "WHERE w.sequence = ANY($1::bigint[]) AND e.payload IS NOT NULL"
)
NEWEST_DUE = """
SELECT sequence FROM forwarder.work WHERE route = $1 AND partition_no = ANY($2::smallint[]) AND is_head AND kind <> 2
AND (not_before_ms <= $3 OR not_before_ms > $4) AND sequence <> ALL($5::bigint[]) ORDER BY sequence DESC LIMIT 1
"""
NEWEST = (
    f"SELECT {_COLUMNS} FROM forwarder.events e LEFT JOIN forwarder.progress p USING (sequence) "  # noqa: S608 - our own words
    f"WHERE {_MINE} AND e.sequence > $3 AND e.sequence <> ALL($4::bigint[]) AND {_FRESH.format('e')} AND {_IS_HEAD} "
    "ORDER BY e.sequence DESC LIMIT 1"
)


def lease_of(row: asyncpg.Record, route: int) -> Lease:
    """Make the lease of a row of `SOME` or `BACKLOG`."""
    sequence, partition_no, at_ms, event_key, partition_key, source, kind, event, message_id, user_id, payload = row[
        :11
    ]
    envelope = Envelope(
        route=ROUTES[route],
        event_key=event_key,
        partition_key=partition_key,
        received_at_ms=at_ms,
        source=source,
        labels=Labels(type=kind, event=event, message_id=message_id, user_id=user_id),
        payload=payload,
        trace=row["trace"] or "",
    )
    lease = Lease(sequence=sequence, attempt=1, envelope=envelope, partition=partition_no)
    if not row["data"]:
        return lease
    return msgspec.structs.replace(lease, progress=row["data"], replay=REPLAYS[row["replay"]])


def lease_with_history(row: asyncpg.Record, route: int) -> Lease:
    """Make the lease of an event that was given back."""
    return msgspec.structs.replace(
        lease_of(row, route),
        attempt=row["attempts"] + 1,
        first_failed_at_ms=row["first_failed_ms"],
        is_retry=row["kind"] == RETRY,
        replayed_at_ms=row["replayed_ms"],
        is_beside=row["replayed_ms"] is not None and row["kind"] == BESIDE,
    )
