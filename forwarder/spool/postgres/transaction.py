"""One transaction in the making: its connection, the time, and what it adds to the totals.

The totals are never updated: a writer adds a row with its whole account to each commit. Nobody else writes to its slot,
so the row before is known without a look; after a commit whose outcome is unknown it begins a new slot.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import asyncpg

from forwarder.spool.codes import Account
from forwarder.spool.limits import SpoolLimits

ACCOUNTS = len(Account)
_REASONS_MAX = 1_000  # in memory
# A commit that waits for its standby is ended by the time-out with a mere warning, as if the standby had it.
_COMMIT = "SET LOCAL statement_timeout = 0; COMMIT"
COMMIT_TIMEOUT_S = 8.0  # then the connection goes, and nobody knows whether it was done
_SUMS = (
    # From above: what was dropped, and a transaction elsewhere may still see, lies below each slot's last row.
    "WITH RECURSIVE s AS (SELECT max(slot) AS slot FROM forwarder.totals UNION ALL "
    "SELECT (SELECT max(slot) FROM forwarder.totals WHERE slot < s.slot) FROM s WHERE s.slot IS NOT NULL) "
    "SELECT s.slot, t.amounts FROM s, LATERAL (SELECT amounts FROM forwarder.totals t "
    "WHERE t.slot = s.slot ORDER BY number DESC LIMIT 1) t"
)


class Slot:
    """What one connection has added to the totals since it was opened, and which reasons it has met."""

    def __init__(self) -> None:
        self.slot = 0  # none yet
        self.number = 0
        self.amounts = [0] * (2 * ACCOUNTS)
        self.reasons: dict[tuple[int, int, str], int | None] = {}  # committed, see `reasons.py`


class Transaction:
    """What the jobs of one commit share."""

    def __init__(self, connection: asyncpg.Connection, slot: Slot, limits: SpoolLimits, *, now_ms: int) -> None:
        self.connection = connection
        self.limits = limits
        self.now_ms = now_ms
        self._slot = slot
        self.changes: defaultdict[int, int] = defaultdict(int)  # by `index`
        self._reasons: defaultdict[int, int] = defaultdict(int)
        self.met_reasons: dict[tuple[int, int, str], int | None] = {}

    @property
    def known_reasons(self) -> Mapping[tuple[int, int, str], int | None]:
        """Return the ids that this connection has met before."""
        return self._slot.reasons

    def add(self, route: int, account: int, amount: int) -> None:
        """Add to an account of the totals."""
        self.changes[route * ACCOUNTS + account] += amount

    def count_reason(self, reason_id: int | None, count: int) -> None:
        """Add to how many settled, not discarded events have this reason."""
        if reason_id is not None:
            self._reasons[reason_id] += count

    async def end(self) -> None:
        """Write the accounts and commit, in one exchange.

        Also when nothing changed: what is a duplicate may be so of a commit whose standby has not heard of it yet, and
        only a commit that wrote something waits for it.
        """
        slot = self._slot
        if counts := ",".join(f"({one:d},{count:d})" for one, count in sorted(self._reasons.items()) if count):
            counts = f"INSERT INTO forwarder.reason_counts VALUES {counts}; "  # noqa: S608 - numbers of our own
        if not slot.slot:
            slot.slot = await self.connection.fetchval("SELECT nextval('forwarder.slot_sequence')")
        amounts = [amount + self.changes.get(index, 0) for index, amount in enumerate(slot.amounts)]
        # Numbers of our own: nothing in them can be anything but a number.
        row = f"{slot.slot:d}, {slot.number + 1:d}, '{{{','.join(f'{amount:d}' for amount in amounts)}}}'"
        statement = f"{counts}INSERT INTO forwarder.totals VALUES ({row}); {_COMMIT}"  # noqa: S608 - as said
        await self.connection.execute(statement, timeout=COMMIT_TIMEOUT_S)
        slot.number += 1
        slot.amounts = amounts
        if len(slot.reasons) > _REASONS_MAX:
            slot.reasons.clear()
        slot.reasons |= self.met_reasons


async def read_totals(connection: asyncpg.Connection, *, but: Callable[[], Collection[int]] = frozenset) -> list[int]:
    """Return every account's sum, by route and then by account, as of one moment.

    `but` is asked afterwards whose slots to leave out: a writer may get one meanwhile.
    """
    sums = [0] * (2 * ACCOUNTS)
    rows = await connection.fetch(_SUMS)
    left_out = but()
    for slot, amounts in rows:
        if slot not in left_out:
            for index, amount in enumerate(amounts):
                sums[index] += amount
    return sums
