"""Group settled events by their reason. The counts are kept, not counted; the sample is looked up."""

from collections.abc import Sequence

from forwarder.ports import ReasonGroup
from forwarder.spool.store.codes import PENDING
from forwarder.spool.store.database import Reader

_GROUPS = (
    "SELECT reason, sum(count), group_concat(reason_id) FROM reasons "
    "WHERE state = ?1 AND count > 0 AND (?2 IS NULL OR route = ?2) "
    "GROUP BY reason ORDER BY 2 DESC, reason LIMIT ?3"
)
_SAMPLE = (
    "SELECT sequence, settled_at_ms FROM outcomes INDEXED BY outcomes_by_reason "
    "WHERE reason_id = ? AND is_discarded = 0 ORDER BY sequence DESC LIMIT 1"
)


def group_by_reason(connection: Reader, state: int, route: int | None, *, limit: int) -> Sequence[ReasonGroup]:
    """Return the largest groups; the sample is the newest event of its group, and gives its time."""
    if state == PENDING:
        return []
    groups = []
    for reason, count, ids in connection.execute(_GROUPS, (state, route, limit)).fetchall():
        found = [connection.execute(_SAMPLE, (int(one),)).fetchone() for one in ids.split(",")]
        sequence, at_ms = max(row for row in found if row is not None)
        groups.append(ReasonGroup(reason=reason, count=count, sample_sequence=sequence, last_at_ms=at_ms))
    return groups
