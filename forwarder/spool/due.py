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
