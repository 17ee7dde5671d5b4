"""A page of a listing while it is looked for: what was found, how far it is, and when it is enough.

Which events are looked at, and how, is the engine's matter.
"""

from collections.abc import Callable

from forwarder.archive_port import EventPage, EventQuery, EventRow

_CHUNK_S = 0.02  # a look that took less is followed by one at twice as many, another by one at half


class PageWalk:
    """Count, and keep rows. `now_s` is a monotonic clock; `chunk` events are looked at first."""

    def __init__(self, query: EventQuery, now_s: Callable[[], float], *, chunk: int) -> None:
        self._query = query
        self._now_s = now_s
        self._deadline_s = now_s() + query.budget_s
        self._is_up = query.after_sequence is not None
        self._chunk = chunk
        self._rows: list[EventRow] = []
        self._matched = 0
        self._scanned = 0
        self._reached_ms: int | None = None

    def _room(self) -> int:
        """Return how many events the next look may be at."""
        if self._query.text is None:
            return self._chunk
        return max(1, min(self._chunk, self._query.scan_max - self._scanned))

    def _pace(self, took_s: float, *, most: int) -> None:
        self._chunk = min(2 * self._chunk, most) if took_s < _CHUNK_S else max(1, self._chunk // 2)

    def _is_spent(self) -> bool:
        if self._query.text is not None and self._scanned >= self._query.scan_max:
            return True
        return self._now_s() > self._deadline_s

    def _answer(self, continued: int | None, *, is_cut: bool = False) -> EventPage:
        return EventPage(
            rows=tuple(self._rows),
            next_before=None if self._is_up else continued,
            next_after=continued if self._is_up else None,
            is_cut=is_cut,
            matched=self._matched,
            scanned=self._scanned,
            reached_ms=self._reached_ms,
        )
