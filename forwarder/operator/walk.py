"""The one way to walk over the events that a choice selects: in steps, oldest first, to the end.

The order matters: events of one user become pending again in the order in which they arrived. What was moved and
settled again meanwhile keeps its place, which lies behind: nothing is met twice.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from forwarder.archive_port import Archive, EventQuery, EventRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next events of a walk, perhaps none; `next_after` goes on from there, and is None at the end."""

    rows: Sequence[EventRow]
    next_after: int | None


async def step(archive: Archive, query: EventQuery) -> Step:
    """Go one step; `query.after_sequence` says from where. A listing that was cut for time is not the end."""
    found = await archive.events(query)
    return Step(rows=found.rows, next_after=found.next_after)


async def walk(archive: Archive, query: EventQuery, *, step_events: int) -> AsyncIterator[Step]:
    """Walk from the oldest to the newest event there is at the start: what comes meanwhile is another walk's."""
    newest = (await archive.events(EventQuery(limit=1))).rows
    if not newest:
        return
    before = newest[0].sequence + 1
    before = before if query.before_sequence is None else min(before, query.before_sequence)
    query = replace(query, before_sequence=before, limit=step_events)
    after: int | None = query.after_sequence or 0
    while after is not None:
        one = await step(archive, replace(query, after_sequence=after))
        yield one
        after = one.next_after
