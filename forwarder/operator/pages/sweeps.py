"""Acts on every event that a choice selects: step by step, oldest first, never more in hand than one step.

The order matters: events of one user become pending again in the order in which they arrived.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from forwarder.model import State
from forwarder.operator.desk import ACTION_EVENTS_MAX
from forwarder.ports import Archive, EventQuery, EventRow

Act = Callable[[Sequence[int]], Awaitable[int]]


def _everyone(row: EventRow) -> bool:
    return not row.is_discarded


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Which events to walk over: settled ones of one state, and of those what `takes` says yes to."""

    query: EventQuery
    takes: Callable[[EventRow], bool] = _everyone

    async def steps(self, archive: Archive, act: Act) -> AsyncIterator[int]:
        """Act on the selected events; yields how many each step moved.

        It ends at the newest event there is when it gets there. What was moved and settled again meanwhile keeps its
        place, which lies behind: nothing is moved twice.
        """
        after = self.query.after_sequence or 0
        while True:
            query = replace(self.query, after_sequence=after, limit=ACTION_EVENTS_MAX)
            found = await archive.events(query)
            sequences = [row.sequence for row in found.rows if self.takes(row)]
            yield await act(sequences) if sequences else 0
            is_last = len(found.rows) < ACTION_EVENTS_MAX and not found.is_cut
            if is_last or not found.rows:
                return
            after = found.rows[-1].sequence


def of_group(state: State, *, route: str, reason: str) -> str:
    """Name a group for the audit log."""
    return f"state={state.value} route={route} reason={reason}"
