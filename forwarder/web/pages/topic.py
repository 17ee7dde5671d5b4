"""One list of events that is followed: what is new in it, and which of the shown rows changed.

Reads through the archive a bounded number of rows per look, however fast events come. Deliberately absent: who
follows, and how rows are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from forwarder.model import State
from forwarder.ports import Archive, EventQuery, EventRow

ROWS_MAX: Final = 20  # new ones per look: more than anybody can read in a second
_WINDOW: Final = 40  # of the newest rows, read at each look: the new ones, and what became of those before
_FOLLOWED_MAX: Final = 200  # unsettled rows that a page may show


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one look found. `skipped` is exact where nothing is filtered, else 0 with `is_more` set."""

    fresh: tuple[EventRow, ...]  # oldest first
    changed: tuple[EventRow, ...]
    skipped: int = 0
    is_more: bool = False
    newest: int = 0  # sequence to go on from

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to tell."""
        return not self.fresh and not self.changed


class Topic:
    """A followed list. Not safe for concurrent use: one poller owns it."""

    def __init__(self, archive: Archive, query: EventQuery, *, after: int | None) -> None:
        """Follow from `after` on; None: from the newest event at the first look."""
        self.query = query
        self._archive = archive
        self._cursor = after
        self._shown: dict[int, EventRow] = {}  # unsettled rows, by sequence
        self._revisited = 0

    async def look(self) -> News:
        """Return what is new since the last look."""
        window = (await self._archive.events(replace(self.query, limit=_WINDOW))).rows
        newest = window[0].sequence if window else 0
        if self._cursor is None or self._cursor > newest:  # the first look, or another data folder
            self._cursor = newest
        unseen = [row for row in window if row.sequence > (self._cursor or 0)]
        fresh = tuple(reversed(unseen[:ROWS_MAX]))
        changed = [*self._changed(window), *await self._revisit(window)]
        skipped = self._skipped(fresh, newest)
        is_more = not skipped and len(unseen) > len(fresh)
        self._cursor = max(newest, self._cursor)
        self._follow(fresh)
        return News(fresh=fresh, changed=tuple(changed), skipped=skipped, is_more=is_more, newest=self._cursor)

    def _skipped(self, fresh: Sequence[EventRow], newest: int) -> int:
        if self.query != EventQuery():
            return 0
        # Sequences are given once and without gaps to both routes together.
        return max(0, newest - (self._cursor or 0) - len(fresh))

    def _follow(self, rows: Sequence[EventRow]) -> None:
        self._shown |= {row.sequence: row for row in rows if row.state is State.PENDING}
        while len(self._shown) > _FOLLOWED_MAX:
            del self._shown[next(iter(self._shown))]

    async def _revisit(self, window: Sequence[EventRow]) -> Sequence[EventRow]:
        """Look again at unsettled rows that have left the window, a stretch at each look."""
        oldest = window[-1].sequence if window else 0
        left = sorted(sequence for sequence in self._shown if sequence < oldest)
        if not left:
            return ()
        begin = next((sequence for sequence in left if sequence > self._revisited), left[0])
        asked = replace(self.query, state=None, after_sequence=begin - 1, limit=_WINDOW)
        rows = (await self._archive.events(asked)).rows
        self._revisited = rows[-1].sequence if rows else 0
        for sequence in left:
            if begin <= sequence <= self._revisited and all(row.sequence != sequence for row in rows):
                del self._shown[sequence]  # purged meanwhile
        return self._changed(rows)

    def _changed(self, rows: Sequence[EventRow]) -> Sequence[EventRow]:
        changed = []
        for row in rows:
            before = self._shown.get(row.sequence)
            if before is None or before == row:
                continue
            changed.append(row)
            if row.state is State.PENDING:
                self._shown[row.sequence] = row
            else:
                del self._shown[row.sequence]
        return changed


async def catch_up(archive: Archive, query: EventQuery, *, after: int) -> News:
    """Return the newest events after a sequence, for somebody who comes back."""
    topic = Topic(archive, query, after=after)
    return await topic.look()
