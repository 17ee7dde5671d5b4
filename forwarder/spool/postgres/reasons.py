"""The ids of reasons: each is written once and named by its number wherever it applies."""

from collections.abc import Collection, Mapping, Sequence

import asyncpg

from forwarder.model import State
from forwarder.spool.codes import PENDING, STATE_CODES
from forwarder.spool.postgres.appends import text
from forwarder.spool.postgres.transaction import Transaction

Reason = tuple[int, int, str]  # with its route and state
_MAY_LACK_ONE = (PENDING, STATE_CODES[State.DELIVERED])
_KNOWN = """
SELECT u.place, r.reason_id FROM unnest($1::smallint[], $2::smallint[], $3::text[]) WITH ORDINALITY
  AS u(route, state, reason, place)
JOIN forwarder.reasons r ON r.reason = u.reason AND r.route = u.route AND r.state = u.state
"""
# In their order: two replicas that write the same ones wait for each other, and never in a circle.
_WRITE = """
INSERT INTO forwarder.reasons (route, state, reason)
SELECT * FROM unnest($1::smallint[], $2::smallint[], $3::text[]) AS u(route, state, reason) ORDER BY 3, 1, 2
ON CONFLICT DO NOTHING
"""


async def intern_all(transaction: Transaction, wanted: Collection[Reason]) -> dict[Reason, int | None]:
    """Return each one's id, see `intern_reasons`; what its connection has met before costs nothing.

    A rollback takes with it what was written, so it counts as met from the commit on.
    """
    found = await intern_reasons(transaction.connection, wanted, known=transaction.known_reasons)
    transaction.met_reasons |= found
    return found


async def intern(transaction: Transaction, route: int, state: int, reason: str) -> int | None:
    """Return the id of one reason."""
    return (await intern_all(transaction, [(route, state, reason)]))[route, state, reason]


async def intern_reasons(
    connection: asyncpg.Connection, wanted: Collection[Reason], known: Mapping[Reason, int | None] | None = None
) -> dict[Reason, int | None]:
    """Return each one's id; None for no reason, which only what is pending or delivered may have.

    Those of `known` are not looked up.
    """
    found: dict[Reason, int | None] = {one: None for one in wanted if not one[2] and one[1] in _MAY_LACK_ONE}
    found |= {one: known[one] for one in wanted if known and one in known}
    if left := sorted(set(wanted) - found.keys()):
        found |= await _look_up(connection, left)
    if left := sorted(set(wanted) - found.keys()):
        await connection.execute(_WRITE, *_columns(left))
        found |= await _look_up(connection, left)
    return found


async def _look_up(connection: asyncpg.Connection, wanted: Sequence[Reason]) -> dict[Reason, int]:
    rows = await connection.fetch(_KNOWN, *_columns(wanted))
    return {wanted[place - 1]: reason_id for place, reason_id in rows}


def _columns(wanted: Sequence[Reason]) -> tuple[list[int], list[int], list[str]]:
    return [one[0] for one in wanted], [one[1] for one in wanted], [text(one[2]) for one in wanted]
