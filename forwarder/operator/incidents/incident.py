"""One thing that went wrong: what it was, since when, what it cost, and what to do about it. Pure."""

from typing import Final

import msgspec

from forwarder.model import RouteName
from forwarder.operator.text import ROUTE_LABELS

_REMEDY: Final = {
    (
        "hold",
        RouteName.COURIER_TO_RUDDERSTACK,
    ): "Check RUDDERSTACK_WRITE_KEY, RUDDERSTACK_DATA_PLANE_URL and the source.",
    ("hold", RouteName.RUDDERSTACK_TO_COURIER): "Check COURIER_API_KEY and COURIER_API_URL, and what the key may do.",
    ("back_off", None): "The destination fails or asks to wait; it is tried again by itself.",
    ("refusal", None): "Make room on the disk, raise FORWARDER_SPOOL_BYTES_MAX, or let the route drain.",
    ("late", None): "Look why the route is slow: its state, its attempts, the destination's answers.",
}
_WORDS: Final = {
    "hold": "is held",
    "back_off": "backs off",
    "refusal": "are refused",
    "late": "is late",
}


class Incident(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See above. `scope` is the route, or a rate-limit group of calls within it; "" for the spool."""

    kind: str  # one of `telemetry.metrics.INCIDENT_KINDS`
    route: RouteName | None
    scope: str
    cause: str  # no payload
    began_ms: int
    ended_ms: int | None = None
    delayed: int = 0  # the most events that were pending meanwhile
    dead: int = 0  # events that died meanwhile
    dead_before: int = 0
    told: list[str] = []  # alert channels that know of its beginning
    told_end: list[str] = []

    @property
    def key(self) -> tuple[str, RouteName | None, str]:
        """Return what makes two sights one incident."""
        return self.kind, self.route, self.scope

    @property
    def remedy(self) -> str:
        """Say what to do about it."""
        return _REMEDY.get((self.kind, self.route)) or _REMEDY[self.kind, None]

    @property
    def words(self) -> str:
        """Say in a few words what it is, without its cause."""
        where = ROUTE_LABELS[self.route] if self.route else "New events"
        return f"{where}{f' ({self.scope})' if self.scope not in ('', 'route') else ''} {_WORDS[self.kind]}"

    def lasted_ms(self, *, now_ms: int) -> int:
        """Return how long it was, or has been so far; a clock that was set back makes nothing negative."""
        return max(0, (now_ms if self.ended_ms is None else self.ended_ms) - self.began_ms)
