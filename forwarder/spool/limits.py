"""How much a spool may hold, and whether new events fit: pure.

History (what is settled and not dead) is evicted for new events, so it never counts against them; what is unsettled or
dead does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forwarder.model import Envelope, RouteName


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLimits:
    """How much a spool may hold and for how long. All positive.

    `is_shared` True means that both routes run: then neither's unsettled bytes take more than three
    quarters of the cap, so that an outage of one destination does not turn the other's senders away.
    """

    bytes_max: int = 4_294_967_296  # used pages of the database; in memory: the bytes held
    retention_s: int = 604_800  # settled events and keys; at least 26 h in a real set-up
    is_shared: bool = False
    cache_bytes_max: int = 8_388_608  # of payloads just committed, per route, leased without a read
    reserve_bytes: int = 4_194_304  # the file that is given up first when the disk is full
    value_bytes_max: int = 4_194_304
    event_types_max: int = 10_000  # distinct rows per route
    answer_bytes_max: int = 2_048  # of an attempt's answer
    attempts_max: int = 10  # kept per event
    wal_pages_max: int = 2_000  # then the log is checkpointed into the database
    replays_in_line_max: int = 20  # waiting ones of a route: a mass would keep what arrives for its users waiting

    def small(self, value: bytes, key: str) -> bytes:
        """Return a value that is to be kept under a key; raises ValueError for one that is too large."""
        if len(value) > self.value_bytes_max:
            raise ValueError(f"{key}: {len(value)} bytes are more than {self.value_bytes_max}")
        return value


EVENT_OVERHEAD_BYTES = 384  # a row's share of pages, keys and bookkeeping beside its payload
EVICTION_FRACTION = 0.9  # of the cap: from here on history is evicted
ROUTE_FRACTION = 0.75  # of the cap: what one route's unsettled events may take while both run
CAP_RETRY_AFTER_S = 30


def event_bytes(payload_bytes: int) -> int:
    """Return what an event is counted as."""
    return payload_bytes + EVENT_OVERHEAD_BYTES


def incoming_bytes(envelopes: Iterable[Envelope]) -> dict[RouteName, int]:
    """Return what an append adds to each route it has events of."""
    incoming: dict[RouteName, int] = {}
    for envelope in envelopes:
        route = envelope.route
        incoming[route] = incoming.get(route, 0) + len(envelope.payload) + EVENT_OVERHEAD_BYTES
    return incoming


def refusal(
    limits: SpoolLimits, *, used: int, unsettled: Mapping[RouteName, int], dead: int, incoming: Mapping[RouteName, int]
) -> str:
    """Return why `incoming` more bytes do not fit, or "" when they do or nothing comes.

    All in bytes as `event_bytes` counts them, but for `used`: the bytes of the used pages, with history.
    """
    if incoming and used > limits.bytes_max:
        return "the spool has reached its cap: history is being evicted"
    if incoming and sum(unsettled.values()) + dead + sum(incoming.values()) > limits.bytes_max * EVICTION_FRACTION:
        return "the spool has reached its cap: what waits and what is dead fills it"
    for route, size in incoming.items():
        if limits.is_shared and unsettled[route] + size > limits.bytes_max * ROUTE_FRACTION:
            return "this route's waiting events have reached three quarters of the spool's cap"
    return ""
