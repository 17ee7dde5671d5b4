"""What a `Retry-After` header asks for (RFC 9110, 10.2.3). Pure: the time is an argument."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_MAX_S: Final = 300.0


def retry_after_s(value: str, *, now_ms: int) -> float | None:
    """Return how long the other side asks to be left alone, at most 300 s; seconds and dates are understood.

    None for what cannot be read, for zero and for the past: then our own backoff applies.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:9])  # longer ones are above the cap anyway
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return None
        wait_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_ms / 1000
    return min(wait_s, RETRY_AFTER_MAX_S) if wait_s > 0 else None
