"""Who is logged in: random ids in cookies, of which only digests are kept, in memory, few and not for ever.

A restart ends every session.
"""

import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from forwarder.ports import Clock

COOKIE: Final = "forwarder_session"
LIFETIME_S: Final = 43_200  # half a day: a shift
SESSIONS_MAX: Final = 256  # the oldest goes first
_ID_BYTES: Final = 32


class Sessions:
    """Open, know and end sessions. Not shared between processes."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._ends_s: dict[bytes, float] = {}  # by the id's digest, oldest first

    def __repr__(self) -> str:
        """Show how many, never which."""
        return f"Sessions({len(self._ends_s)})"

    def open(self) -> str:
        """Begin a session; return the cookie's value, which is kept nowhere here."""
        session = secrets.token_urlsafe(_ID_BYTES)
        self._forget_ended()
        while len(self._ends_s) >= SESSIONS_MAX:
            del self._ends_s[next(iter(self._ends_s))]
        self._ends_s[_digest(session)] = self._clock.monotonic_s() + LIFETIME_S
        return session

    def is_logged_in(self, cookies: Mapping[str, str]) -> bool:
        """Tell whether these cookies are of a session that lives. Time tells nothing: only digests are compared."""
        session = cookies.get(COOKIE)
        return bool(session) and self._ends_s.get(_digest(session or ""), 0.0) > self._clock.monotonic_s()

    def close(self, cookies: Mapping[str, str]) -> None:
        """End the session of these cookies, if there is one."""
        self._ends_s.pop(_digest(cookies.get(COOKIE, "")), None)

    def close_all(self) -> None:
        """End every session."""
        self._ends_s.clear()

    def _forget_ended(self) -> None:
        now_s = self._clock.monotonic_s()
        self._ends_s = {digest: ends_s for digest, ends_s in self._ends_s.items() if ends_s > now_s}


def _digest(session: str) -> bytes:
    return sha256(session.encode("utf-8", "replace")).digest()
