"""Tell when an event that was given back is due, by a wall clock that may jump.

Pure. A due time is kept on disk, so it outlives the clock that it was made with.
"""

AHEAD_MS_MAX = 3_600_000  # twelve times the longest backoff and the longest that a destination asks for


def is_due(not_before_ms: int, *, now_ms: int) -> bool:
    """Tell whether it is due: its time has come, or is so far ahead that the clock was wrong when it was made."""
    return not_before_ms <= now_ms or not_before_ms > now_ms + AHEAD_MS_MAX


def is_retry(attempts: int, not_before_ms: int) -> int:
    """Return 1 for what was given back with a failure or a time, else 0."""
    return int(attempts > 0 or not_before_ms > 0)


def earlier(one: int | None, other: int | None) -> int | None:
    """Return the earlier of two times; None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class DueTimes:
    """When the next waiting event of a route is due, for the two kinds: 0 fresh again, 1 on a retry.

    A read of the disk brings the times anew; what is told while it is under way it may not know.
    """

    def __init__(self) -> None:
        self._next_ms: list[int | None] = [0, 0]  # 0: ask
        self._told_ms: list[int | None] = [None, None]  # since the last read began

    def earliest_ms(self) -> int | None:
        """Return when the next one is due; None when none waits."""
        return earlier(*self._next_ms)

    def is_due(self, kind: int, *, now_ms: int) -> bool:
        """Tell whether one of this kind is due."""
        at_ms = self._next_ms[kind]
        return at_ms is not None and is_due(at_ms, now_ms=now_ms)

    def is_any_due(self, *, now_ms: int) -> bool:
        """Tell whether one of any kind is due."""
        return self.is_due(0, now_ms=now_ms) or self.is_due(1, now_ms=now_ms)

    def tell(self, kind: int, not_before_ms: int) -> None:
        """Hear of one that waits now."""
        for times in (self._next_ms, self._told_ms):
            times[kind] = earlier(times[kind], not_before_ms)

    def begin_read(self) -> None:
        """Keep from now on what is told."""
        self._told_ms = [None, None]

    def take_read(self, kind: int, next_ms: int | None) -> None:
        """Hear what a read found to be the next one of a kind."""
        self._next_ms[kind] = earlier(next_ms, self._told_ms[kind])

    def ask_again(self) -> None:
        """Forget what is known: the clock went back, or the disk is read from the start."""
        self._next_ms = [0, 0]
