"""The one way to walk over the events that a choice selects: in steps, oldest first, to the end.

The order matters: events of one user become pending again in the order in which they arrived. What was moved and
settled again meanwhile keeps its place, which lies behind: nothing is met twice.
"""

from collections.abc import AsyncIterator
from dataclasses import replace

from forwarder.archive_port import Archive, EventPage, EventQuery


async def walk(archive: Archive, query: EventQuery, *, step_events: int) -> AsyncIterator[EventPage]:
    """Walk from the oldest to the newest event there is at the start: what comes meanwhile is another walk's."""
    newest = (await archive.events(EventQuery(limit=1))).rows
    if not newest:
        return
    before = newest[0].sequence + 1
    before = before if query.before_sequence is None else min(before, query.before_sequence)
    query = replace(query, before_sequence=before, limit=step_events)
    after: int | None = query.after_sequence or 0
    while after is not None:
        page = await archive.events(replace(query, after_sequence=after))
        yield page
        after = page.next_after  # None at the end: a listing that was cut for time is not the end
