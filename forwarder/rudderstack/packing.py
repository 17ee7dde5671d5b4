"""Whether the next request is packed. Pure: times are arguments.

A gzip stream that something on the way mangles is answered like an outage (`failed to read body from
request`, 500), for ever. So a batch that was answered so repeatedly is sent plain, before anybody cuts it in
pieces; where plain gets through, requests stay plain for a while.
"""

from http import HTTPStatus
from typing import Final

_UNREADABLE: Final = b"failed to read body from request"
_FAILURES_MAX: Final = 2  # a connection that breaks while the gateway reads is answered so as well
_BATCHES_MAX: Final = 1_000
_PLAIN_FOR_S: Final = 3_600.0


class Packing:
    """What is known of requests that could not be read, by the first event of their batch."""

    def __init__(self) -> None:
        self._unreadable: dict[int, int] = {}
        self._plain_until_s = 0.0

    def is_packed(self, first: int, *, now_s: float) -> bool:
        """Tell whether the batch that begins with this event goes packed."""
        return now_s >= self._plain_until_s and self._unreadable.get(first, 0) < _FAILURES_MAX

    def answered(self, first: int, status: int, body: bytes, *, was_packed: bool, now_s: float) -> None:
        """Learn from the answer to the batch that begins with this event."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR and body.strip().lower() == _UNREADABLE:
            if len(self._unreadable) >= _BATCHES_MAX:
                self._unreadable.clear()
            # Plain and unreadable as well: the packing is not to blame, and the count begins anew.
            self._unreadable[first] = self._unreadable.get(first, 0) + 1 if was_packed else 0
            return
        if self._unreadable.pop(first, 0) and not was_packed and status < HTTPStatus.MULTIPLE_CHOICES:
            self._plain_until_s = now_s + _PLAIN_FOR_S
