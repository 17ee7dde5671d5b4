"""What one commit writes of leased events: the columns of one statement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forwarder.model import Attempt, Settled
from forwarder.spool.claims import Claim
from forwarder.spool.codes import PENDING, STATE_CODES
from forwarder.spool.postgres.appends import text
from forwarder.spool.postgres.ownership import HELD
from forwarder.spool.postgres.reasons import Reason

# What is of no partition held any more is left out. Exchanges are named by their places in the arrays; 0 is none.
MOVE = f"""
WITH held AS MATERIALIZED ({HELD}),
written AS (
  INSERT INTO forwarder.attempts (at_ms, duration_ms, status, operation, outcome, reason, mapping, answer)
  SELECT at_ms, duration_ms, status, operation, outcome, reason, mapping, answer FROM
    unnest($4::bigint[], $5::integer[], $6::integer[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[])
    WITH ORDINALITY AS a(at_ms, duration_ms, status, operation, outcome, reason, mapping, answer, place) ORDER BY place
  RETURNING attempt_id
),
made AS MATERIALIZED (SELECT array_agg(attempt_id ORDER BY attempt_id) AS ids FROM written),
noted AS (
  INSERT INTO forwarder.progress
  SELECT sequence, data, 0 FROM unnest($12::bigint[], $13::smallint[], $14::bytea[]) AS n(sequence, no, data)
  WHERE (no IN (SELECT no FROM held)) IS TRUE
  ON CONFLICT (sequence) DO UPDATE SET data = excluded.data, replay = 0
),
listed AS (
  INSERT INTO forwarder.attempt_lists AS l
  SELECT sequence, array_agg((SELECT ids FROM made)[place] ORDER BY place)
  FROM unnest($15::bigint[], $16::smallint[], $17::integer[]) AS a(sequence, no, place)
  WHERE (no IN (SELECT no FROM held)) IS TRUE GROUP BY sequence
  ON CONFLICT (sequence) DO UPDATE SET attempt_ids = (l.attempt_ids || excluded.attempt_ids)
    [greatest(1, cardinality(l.attempt_ids) + cardinality(excluded.attempt_ids) + 1 - $18::integer):]
),
settled AS (
  INSERT INTO forwarder.outcomes
    (sequence, settled_at_ms, attempt_id, reason_id, attempts, state, status, is_discarded)
  SELECT sequence, $19, (SELECT ids FROM made)[place], reason_id, attempts, state, status, false
  FROM unnest($20::bigint[], $21::smallint[], $22::integer[], $23::integer[], $24::integer[], $25::smallint[],
    $26::smallint[]) AS s(sequence, no, place, reason_id, attempts, state, status)
  WHERE (no IN (SELECT no FROM held)) IS TRUE
  ON CONFLICT DO NOTHING RETURNING sequence
)
SELECT true AS is_held, no::bigint AS found FROM held UNION ALL SELECT false, sequence FROM settled
"""  # noqa: S608 - our own words


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What one call asks for: settlements, or what is new about events that stay leased."""

    claims: Sequence[Claim] = ()
    exchanged: Sequence[int] = ()  # which events were part of the exchange
    attempt: Attempt | None = None
    progress: tuple[int, bytes] | None = None  # of an event


class Rows:
    """What one commit writes, as columns."""

    def __init__(self, attempts_max: int) -> None:
        self._attempts_max = attempts_max
        self._attempts: list[Attempt] = []
        self._places: dict[int, int] = {}  # one row for an exchange, also when several settlements share it
        self._notes: dict[int, tuple[int, bytes]] = {}  # the last word of each event
        self._lists: dict[int, tuple[int, list[int]]] = {}
        self._settled: list[tuple[int, int, int, int | None, int, int, int | None]] = []

    def add(self, asked: Move, partitions: Mapping[int, int]) -> None:
        """Add what is new about events that stay leased."""
        if asked.progress is not None and (no := partitions.get(asked.progress[0])) is not None:
            self._notes[asked.progress[0]] = no, asked.progress[1]
        for sequence in asked.exchanged:
            if (no := partitions.get(sequence)) is not None:
                self._list(sequence, no, self._place(asked.attempt))

    def settle(self, claim: Claim, reason_id: int | None, partitions: Mapping[int, int]) -> None:
        """Add a settlement."""
        settlement = claim.settlement
        leases = [lease for lease in claim.leases if lease.sequence in partitions]
        place = self._place(settlement.attempt) if leases else 0
        if not isinstance(settlement, Settled):
            for lease in leases if place else ():
                self._list(lease.sequence, lease.partition, place)
            return
        state, status = STATE_CODES[settlement.state], status_of(settlement.attempt)
        self._settled += [
            (lease.sequence, lease.partition, place, reason_id, lease.attempt - (not place), state, status)
            for lease in leases
        ]

    def _place(self, attempt: Attempt | None) -> int:
        if attempt is None:
            return 0
        if id(attempt) not in self._places:
            self._attempts.append(attempt)
            self._places[id(attempt)] = len(self._attempts)
        return self._places[id(attempt)]

    def _list(self, sequence: int, no: int, place: int) -> None:
        places = self._lists.setdefault(sequence, (no, []))[1]
        places.append(place)
        del places[: -self._attempts_max]

    def arrays(self, now_ms: int, answer_bytes_max: int) -> list[object]:
        """Return the arguments of `MOVE` behind those of the fence."""
        attempts = [
            (
                one.at_ms,
                one.duration_ms,
                one.status,
                text(one.operation),
                text(one.outcome),
                text(one.reason),
                text(one.mapping),
                bytes(one.answer[:answer_bytes_max]),
            )
            for one in self._attempts
        ]
        notes = [(sequence, no, data) for sequence, (no, data) in self._notes.items()]
        lists = [(sequence, no, place) for sequence, (no, places) in self._lists.items() for place in places]
        return [
            *columns(attempts, 8),
            *columns(notes, 3),
            *columns(lists, 3),
            self._attempts_max,
            now_ms,
            *columns(self._settled, 7),
        ]


def columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Return rows of this width as columns."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def status_of(attempt: Attempt | None) -> int | None:
    """Return the HTTP status of an exchange; 0 where no answer came."""
    return None if attempt is None else attempt.status or 0


def reason_of(claim: Claim) -> Reason:
    """Return the reason of a claim, as it is interned."""
    settlement = claim.settlement
    state = STATE_CODES[settlement.state] if isinstance(settlement, Settled) else PENDING
    return claim.route, state, settlement.reason
