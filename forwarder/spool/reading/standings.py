"""Find out where events are: an event is where its sequence is found."""

from collections.abc import Mapping, Sequence

from forwarder.model import State
from forwarder.spool.reading.rows import Standing
from forwarder.spool.store.codes import PENDING, SETTLED_CODES, STATES
from forwarder.spool.store.database import Reader

_OUTCOME = (
    "SELECT o.state, o.settled_at_ms, o.attempts, r.reason, o.is_discarded FROM outcomes o "
    "LEFT JOIN reasons r USING (reason_id) WHERE o.route = ? AND o.state = ? AND o.sequence = ?"
)
_RETRY = (
    "SELECT t.attempts, r.reason, t.not_before_ms FROM retries t "
    "LEFT JOIN reasons r USING (reason_id) WHERE t.route = ? AND t.sequence = ?"
)
_ROUTE = "SELECT route FROM events WHERE sequence = ?"


def standing_of(connection: Reader, route: int, sequence: int) -> Standing:
    """Return where an event of this route is."""
    for state in SETTLED_CODES:
        row = connection.execute(_OUTCOME, (route, state, sequence)).fetchone()
        if row is not None:
            return Standing(
                row[0], settled_at_ms=row[1], attempts=row[2], reason=row[3] or "", is_discarded=bool(row[4])
            )
    retry = connection.execute(_RETRY, (route, sequence)).fetchone()
    if retry is None:
        return Standing(PENDING)
    return Standing(PENDING, attempts=retry[0], reason=retry[1] or "", not_before_ms=retry[2] or None)


def states_of(connection: Reader, sequences: Sequence[int]) -> Mapping[int, State]:
    """Return the state of each of these events; unknown and purged ones are left out."""
    states = {}
    for sequence in sequences:
        row = connection.execute(_ROUTE, (sequence,)).fetchone()
        if row is not None:
            states[sequence] = STATES[standing_of(connection, row[0], sequence).state]
    return states
