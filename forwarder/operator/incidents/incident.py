"""One thing that went wrong: what it was, since when, what it cost, and what to do about it. Pure."""

from typing import Any, Final

import msgspec

from forwarder.model import RouteName
from forwarder.operator.text import ROUTE_LABELS, moment, plural
from forwarder.settings.together import KEEP_OLD_INBOUND_KEYS

Key = tuple[str, RouteName | None, str]

_OUTBOUND, _INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
_REMEDY: Final[dict[tuple[str, RouteName | None], str]] = {
    ("hold", _OUTBOUND): "Check RUDDERSTACK_WRITE_KEY, RUDDERSTACK_DATA_PLANE_URL and the source.",
    ("hold", _INBOUND): "Check COURIER_API_KEY and COURIER_API_URL, and what the key may do.",
    ("back_off", None): "The destination fails or asks to wait; it is tried again by itself.",
    ("refusal", None): "Make room on the disk, raise FORWARDER_SPOOL_BYTES_MAX, or let the route drain.",
    ("rejected", _OUTBOUND): (
        "Compare COURIER_WEBHOOK_SECRET or FORWARDER_EVENTS_KEY with the sender's, and both clocks. Courier sends it "
        "again for about a day: mended by then, nothing is lost."
    ),
    ("rejected", _INBOUND): (
        f"Name the key that the sender presents in FORWARDER_INBOUND_KEYS; {KEEP_OLD_INBOUND_KEYS}."
    ),
    ("gap", None): (
        "Look at the sender's own page: is it enabled, is its address this one, what answers does it get? What it "
        "holds back comes once that is mended."
    ),
    ("dead", None): "Look at the dead letters by reason, mend the cause, then replay them.",
    ("source", _OUTBOUND): (
        "Look at the reason; `forwarder check --connect` tries the bus. What is not stored stays there, as long as the "
        "bus keeps it."
    ),
    ("late", None): "Look why the route is slow: its state, its attempts, the destination's answers.",
}
_WORDS: Final = {
    "hold": "{where} is held",
    "back_off": "{where} backs off",
    "refusal": "New events are refused",
    "late": "{where} is late",
    "rejected": "Requests to {scope} are rejected",
    "gap": "Nothing comes to {scope}",
    "dead": "{where}: events die",
    "source": "The source {scope} is away",
}


class Incident(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See above. `scope` is the route, a rate-limit group of its calls, an endpoint, a source, or "" for the spool."""

    kind: str  # one of `telemetry.metrics.INCIDENT_KINDS`
    route: RouteName | None
    scope: str
    cause: str  # no payload
    began_ms: int
    ended_ms: int | None = None
    delayed: int | None = None  # the most events that were pending meanwhile; None: not known which waited for this
    dead: int = 0  # events that died meanwhile
    dead_before: int = 0
    told: list[str] = []  # alert channels that know of its beginning
    told_end: list[str] = []

    @property
    def key(self) -> Key:
        """Return what makes two sights one incident."""
        return self.kind, self.route, self.scope

    @property
    def remedy(self) -> str:
        """Say what to do about it."""
        return _REMEDY.get((self.kind, self.route)) or _REMEDY[self.kind, None]

    @property
    def words(self) -> str:
        """Say in a few words what it is, without its cause."""
        group = f" ({self.scope})" if self.scope not in ("", "route") else ""
        where = f"{ROUTE_LABELS[self.route]}{group}" if self.route else ""
        return _WORDS[self.kind].format(where=where, scope=self.scope)

    @property
    def cost(self) -> str:
        """Say what it cost, as far as that is known."""
        delayed = "" if self.delayed is None else f"{plural(self.delayed, 'event')} delayed, "
        return f"{delayed}{self.dead} dead"

    def facts(self, *, now_ms: int) -> dict[str, Any]:
        """Return what programs are told of it, whatever they ask."""
        return {
            "kind": self.kind,
            "route": self.route,
            "scope": self.scope,
            "cause": self.cause,
            "remedy": self.remedy,
            "began_at": moment(self.began_ms),
            "ended_at": moment(self.ended_ms),
            "lasted_s": self.lasted_ms(now_ms=now_ms) / 1000,
        }

    def lasted_ms(self, *, now_ms: int) -> int:
        """Return how long it was, or has been so far; a clock that was set back makes nothing negative."""
        return max(0, (now_ms if self.ended_ms is None else self.ended_ms) - self.began_ms)


def remedy_of_hold(route: RouteName) -> str:
    """Say what to do about a route that is held."""
    return _REMEDY["hold", route]


def remedy_of_rejection(route: RouteName, reason: str) -> str:
    """Say what to do about requests that were turned away for a reason; "" where it says all."""
    return _REMEDY["rejected", route] if reason.startswith(("key_", "signature_")) else ""
