"""The logins that live: kept in the spool, so that they hold at every replica and over a restart.

A login is a random id in a cookie, of which only the digest is kept, few and not for ever. It stands for the token it
was made with, of which nothing is kept that could be guessed at without the cookie.
"""

import hmac
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from forwarder.errors import ForwarderError
from forwarder.ports import Clock, read_kept

LIFETIME_S: Final = 43_200  # half a day: a shift
SESSIONS_MAX: Final = 256  # the oldest goes first
STORE_KEY: Final = "logins"
_ID_BYTES: Final = 32
_LOOK_EVERY_S: Final = 0.2  # a stranger may send any cookie


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own."""

    async def get(self, key: str) -> bytes | None:
        """Return what was kept, or None."""

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace it by what `change` makes of it; see `ports.Spool.change`."""

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called when another replica changed it."""


class Login(msgspec.Struct, frozen=True, array_like=True):
    """One login: until when (wall clock), the digest of cookie and token together, and who it is by his own word."""

    ends_ms: int
    proof: bytes
    name: str


Known = dict[str, Login]  # by the cookie's digest, oldest first


class Logins:
    """Begin, find and end logins. While the spool keeps nothing, a login holds at this replica alone."""

    def __init__(self, clock: Clock, memory: Memory | None) -> None:
        self._clock = clock
        self._memory = memory
        self._known: Known = {}
        self._looked_s = float("-inf")
        if memory is not None:
            memory.watch(STORE_KEY, self._hear)

    def __len__(self) -> int:
        """Return how many live."""
        return len(self._known)

    async def begin(self, token: bytes, name: str) -> str:
        """Begin one for the token of this digest; return the cookie's value, which is kept nowhere here."""
        session = secrets.token_urlsafe(_ID_BYTES)
        ends_ms = self._clock.wall_ms() + LIFETIME_S * 1_000
        login = Login(ends_ms, _proof(session, token), name)

        def with_it(known: Known) -> Known:
            return {**dict([*self._living(known)][-SESSIONS_MAX + 1 :]), _digest(session): login}

        await self._change(with_it)
        return session

    def find(self, session: str, tokens: Iterable[bytes]) -> tuple[bytes, str] | None:
        """Return which token's login this is, and its name; None for no login that lives."""
        login = self._known.get(_digest(session))
        if login is None or not self._lives(login):
            return None
        token = next((one for one in tokens if hmac.compare_digest(login.proof, _proof(session, one))), None)
        return None if token is None else (token, login.name)

    async def look(self, session: str) -> None:
        """Ask the spool for a login that is not known here: perhaps another replica has just begun it."""
        now_s = self._clock.monotonic_s()
        if self._memory is None or not session or _digest(session) in self._known:
            return
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            with suppress(ForwarderError):
                self._hear(await self._memory.get(STORE_KEY) or b"")

    async def end(self, session: str) -> None:
        """End one, if it lives."""
        await self._change(lambda known: {digest: one for digest, one in known.items() if digest != _digest(session)})

    async def _change(self, change: Callable[[Known], Known]) -> None:
        before = self._known
        self._known = change(before)
        if self._memory is not None:
            with suppress(ForwarderError):  # a full disk, a database that is away: people must get in all the same
                self._hear(await self._memory.change(STORE_KEY, lambda kept: _encode(change(_decode(kept)))))

    def _hear(self, kept: bytes) -> None:
        self._known = _decode(kept)

    def _living(self, known: Known) -> Iterable[tuple[str, Login]]:
        return ((digest, one) for digest, one in known.items() if self._lives(one))

    def _lives(self, login: Login) -> bool:
        return 0 < login.ends_ms - self._clock.wall_ms() <= LIFETIME_S * 1_000


def _digest(session: str) -> str:
    return sha256(session.encode("utf-8", "replace")).hexdigest()


def _proof(session: str, token: bytes) -> bytes:
    return sha256(session.encode("utf-8", "replace") + b" " + token).digest()


def _encode(known: Known) -> bytes:
    return msgspec.msgpack.encode(known)


def _decode(kept: bytes | None) -> Known:
    # A later version's cannot be read: whoever is logged in logs in again.
    return read_kept(kept, Known, decode=msgspec.msgpack.decode) or {}
