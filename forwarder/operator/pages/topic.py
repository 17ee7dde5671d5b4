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
_WINDOW: Final = 30  # of the newest rows, read at each look: the new ones, and what became of those before
_PAGE_ROWS: Final = 50  # that a page shows when it is drawn
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
    """A followed list. One poller looks; who comes may join meanwhile."""

    def __init__(self, archive: Archive, query: EventQuery) -> None:
        """Follow from the newest event at the first look or join."""
        self.query = query
        self._archive = archive
        self._cursor: int | None = None
        self._shown: dict[int, EventRow] = {}  # unsettled rows, by sequence
        self._revisited = 0

    async def join(self, *, after: int | None) -> News:
        """Return what a page misses that was drawn up to `after`, and follow what it shows; None: it shows nothing."""
        window = (await self._archive.events(replace(self.query, limit=_PAGE_ROWS))).rows
        newest = window[0].sequence if window else 0
        known = newest if after is None or after > newest else after  # beyond: it is of another data folder
        fresh = tuple(reversed([row for row in window if row.sequence > known][:ROWS_MAX]))
        self._follow(window[::-1])
        if self._cursor is None:
            self._cursor = newest
        return News(
            fresh=fresh,
            # Drawn again, all of them: nobody knows which changed between the drawing and now.
            changed=tuple(row for row in window if row.sequence <= known) if after is not None else (),
            skipped=self._skipped(fresh, known, newest),
            newest=newest,
        )

    async def look(self) -> News:
        """Return what is new since the last look."""
        window = (await self._archive.events(replace(self.query, limit=_WINDOW))).rows
        newest = window[0].sequence if window else 0
        if self._cursor is None or self._cursor > newest:  # the first look, or another data folder
            self._cursor = newest
        unseen = [row for row in window if row.sequence > self._cursor]
        fresh = tuple(reversed(unseen[:ROWS_MAX]))
        changed = [*self._changed(window), *await self._revisit(window)]
        skipped = self._skipped(fresh, self._cursor, newest)
        is_more = not skipped and len(unseen) > len(fresh)
        self._cursor = max(newest, self._cursor)
        self._follow(fresh)
        return News(fresh=fresh, changed=tuple(changed), skipped=skipped, is_more=is_more, newest=self._cursor)

    def _skipped(self, fresh: Sequence[EventRow], known: int, newest: int) -> int:
        if self.query != EventQuery():
            return 0
        # Sequences are given once and without gaps to both routes together.
        return max(0, newest - known - len(fresh))

    def _follow(self, rows: Sequence[EventRow]) -> None:
        self._shown |= {row.sequence: row for row in rows if row.state is State.PENDING}
        while len(self._shown) > _FOLLOWED_MAX:
            del self._shown[next(iter(self._shown))]

    async def _revisit(self, window: Sequence[EventRow]) -> Sequence[EventRow]:
        """Look again at unsettled rows that are not in the window (any more), a stretch at each look."""
        left = sorted(self._shown.keys() - {row.sequence for row in window})
        if not left:
            return ()
        begin = next((sequence for sequence in left if sequence > self._revisited), left[0])
        asked = replace(self.query, state=None, after_sequence=begin - 1, limit=_WINDOW)
        rows = (await self._archive.events(asked)).rows
        self._revisited = rows[-1].sequence if rows else 0
        for sequence in left:
            if begin <= sequence <= self._revisited and all(row.sequence != sequence for row in rows):
                self._shown.pop(sequence, None)  # purged meanwhile
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
