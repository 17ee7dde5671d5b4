"""Courier's memory of idempotency keys: the first answer is replayed, whatever it was. Pure.

Rules from Courier's documentation: POST only; status and body of the first request are kept, success or
failure, 500 included; nothing is kept when validation failed or when the request conflicted with one of
the same key that was still running; 24 hours, or until `x-idempotency-expiration` (epoch milliseconds or
ISO 8601), from 24 hours to one year ahead.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

DAY_MS = 86_400_000
KEPT_MS_MIN = DAY_MS
KEPT_MS_MAX = 366 * DAY_MS
_SLACK_MS = 300_000  # the two clocks may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The first answer under a key."""

    status: int
    body: bytes
    expires_at_ms: int


class Running(Exception):
    """Another request with this key is still running: 409, and nothing is kept."""


class Replays:
    """The keys and the answers kept under them. Times are epoch milliseconds."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._running: set[str] = set()
        self.replayed = 0

    def begin(self, key: str, *, now_ms: int) -> Kept | None:
        """Return the answer to replay, or None and mark the key as running. Raises `Running`."""
        kept = self._kept.get(key)
        if kept is not None and kept.expires_at_ms > now_ms:
            self.replayed += 1
            return kept
        if key in self._running:
            raise Running(key)
        self._running.add(key)
        return None

    def keep(self, key: str, kept: Kept) -> None:
        """End the running request and replay this from now on."""
        self._running.discard(key)
        self._kept[key] = kept

    def forget(self, key: str) -> None:
        """End the running request without keeping anything: its validation failed."""
        self._running.discard(key)


def expiry_ms(header: str | None, *, now_ms: int) -> int | None:
    """Return when a key lapses; None when the header cannot be read or is out of bounds."""
    if header is None:
        return now_ms + DAY_MS
    at_ms = _instant_ms(header.strip())
    if at_ms is None or not now_ms + KEPT_MS_MIN - _SLACK_MS <= at_ms <= now_ms + KEPT_MS_MAX + _SLACK_MS:
        return None
    return at_ms


def _instant_ms(text: str) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
