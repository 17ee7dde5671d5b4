"""A hold that all replicas of a route share: who meets it tells the others, who ends it too, and one probes at a time.

Only the hold of the whole route: a rate-limit group stands still at each replica by itself.
"""

import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any, Final

import msgspec

from forwarder.delivery.pacing import CircuitBreaker, TripKind
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import RouteName
from forwarder.ports import Clock, Spool, read_kept

_EARLY: Final = 0.9  # of the time between two probes: timers differ


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """What stands in the spool while the route is held; wall clock."""

    kind: TripKind
    reason: str
    since_ms: int


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """Who probed last, and when; wall clock."""

    who: str
    at_ms: int


class SharedHold:
    """One route's breaker, kept in step with the other replicas'. For the event loop's thread."""

    def __init__(self, route: RouteName, *, spool: Spool, breaker: CircuitBreaker, clock: Clock) -> None:
        self._hold_key = f"route.{route.value}.hold"
        self._turn_key = f"route.{route.value}.probe"
        self._who = secrets.token_hex(8)
        self._spool = spool
        self._breaker = breaker
        self._clock = clock
        self._again_ms = breaker.probe_every_s * _EARLY * 1_000
        self._kept: Hold | None = None  # as it stands in the spool
        self._is_telling = False
        self._has_heard = False
        self._changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> None:
        """Follow what other replicas tell; `changed` is called when that changed the breaker."""
        self._changed = changed
        self._spool.watch(self._hold_key, self._hear)

    def look(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Tell the others what became of the breaker here."""
        if self._breaker.is_held != (self._kept is not None) and not self._is_telling:
            self._is_telling = True
            spawn(self._tell())

    async def may_probe(self) -> bool:
        """Claim the next probe of a held route; False when another replica has it. When it cannot be asked, True."""
        now_ms = self._clock.wall_ms()

        def claim(kept: bytes | None) -> bytes:
            last = read_kept(kept, Turn)
            is_recent = last is not None and abs(now_ms - last.at_ms) < self._again_ms
            if last is not None and is_recent and last.who != self._who:
                return kept or b""
            return msgspec.json.encode(Turn(self._who, now_ms))

        with suppress(SpoolFull, SpoolClosed):
            turn = read_kept(await self._spool.change(self._turn_key, claim), Turn)
            return turn is None or turn.who == self._who
        return True

    async def _tell(self) -> None:
        trip = self._breaker.trip
        hold = Hold(trip.kind, trip.reason, trip.since_ms) if trip is not None and trip.is_hold else None
        try:
            with suppress(SpoolFull, SpoolClosed):  # told again at the next look
                await self._spool.put(self._hold_key, b"" if hold is None else msgspec.json.encode(hold))
                self._kept = hold
        finally:
            self._is_telling = False

    def _hear(self, kept: bytes) -> None:
        self._kept = hold = read_kept(kept, Hold)
        # One that is older than this process is tried at once: perhaps it was started for that.
        probe_s, self._has_heard = (None if self._has_heard else 0.0), True
        if hold is None and self._breaker.is_held:
            self._breaker.close(started_s=inf)
        elif hold is not None and not self._breaker.is_held:
            self._breaker.hold(
                hold.reason,
                kind=hold.kind,
                now_s=self._clock.monotonic_s(),
                now_ms=hold.since_ms,
                probe_s=probe_s,
            )
        self._changed()
