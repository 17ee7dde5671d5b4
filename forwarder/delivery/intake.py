"""From leases to flights: map what was leased, and sort it by what becomes of it. Pure; settles and sends nothing."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from forwarder.delivery.call_flights import CallFlight, kept_plan, planned
from forwarder.delivery.flights import BatchLimits, Flight, batch_of
from forwarder.delivery.history import History
from forwarder.errors import Unmappable
from forwarder.model import Delivery, Filtered, Lease, Settled, State, Unmapped
from forwarder.ports import BatchMapper, Mapped

_BYTES_MAX: Final = 33_554_432

Pair = tuple[Lease, Delivery]
Planned = tuple[Lease, tuple[Delivery, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may hold."""

    batch: BatchLimits
    delivery_bytes_max: int  # of one body; what is larger is dead, what is above the batch's limit goes alone
    is_planned: bool = False  # each event is a plan of calls, made one after the other
    are_replays: bool = False  # they go beside what arrives


ONE_BY_ONE: Final = RequestLimits(
    batch=BatchLimits(deliveries_max=1, bytes_max=1, wait_max_s=0.0),
    delivery_bytes_max=_BYTES_MAX,
    is_planned=True,
)


@dataclass(slots=True, kw_only=True)
class Intake:
    """Leases by what becomes of them, each in exactly one place."""

    flights: list[Flight] = field(default_factory=list)
    plain: list[Pair] = field(default_factory=list)  # to travel in common batches
    dismissed: dict[tuple[State, str], list[Lease]] = field(default_factory=lambda: defaultdict(list))

    def settlements(self) -> list[Settled]:
        """Return how those settle that are dismissed."""
        return [
            Settled([lease.sequence for lease in leases], state, reason)
            for (state, reason), leases in self.dismissed.items()
        ]


def take_in(
    leases: Sequence[Lease], *, mapper: BatchMapper, limits: RequestLimits, history: History, is_probe: bool
) -> Intake:
    """Sort leases by what becomes of them; a probe travels alone. Never raises for what is in an event."""
    intake = Intake()
    if limits.is_planned:
        _plan(leases, mapper, limits, intake)
    else:
        _batch(_mapped(leases, mapper, limits, intake), history, intake, is_probe=is_probe)
    for flight in intake.flights:
        flight.is_probe = is_probe
        history.restore(flight)
    return intake


def _plan(leases: Sequence[Lease], mapper: BatchMapper, limits: RequestLimits, intake: Intake) -> None:
    kept = [(lease, plan) for lease in leases if (plan := kept_plan(lease)) is not None]
    going_on = {lease.sequence for lease, _ in kept}
    fresh = _mapped([lease for lease in leases if lease.sequence not in going_on], mapper, limits, intake)
    for lease, plan in (*kept, *((lease, planned(lease, deliveries)) for lease, deliveries in fresh)):
        intake.flights.append(CallFlight(leases=(lease,), plan=plan))


def _batch(mapped: Iterable[Planned], history: History, intake: Intake, *, is_probe: bool) -> None:
    small: defaultdict[int, list[Pair]] = defaultdict(list)
    for lease, deliveries in mapped:
        together_max = 1 if is_probe else history.together_max(lease)
        (intake.plain if together_max is None else small[together_max]).append((lease, deliveries[0]))
    for size, pairs in small.items():
        for start in range(0, len(pairs), size):
            chosen, deliveries = zip(*pairs[start : start + size], strict=True)
            intake.flights.append(Flight(leases=chosen, batch=batch_of(deliveries)))


def _mapped(leases: Sequence[Lease], mapper: BatchMapper, limits: RequestLimits, intake: Intake) -> list[Planned]:
    """Return what is to be sent of each lease; those of which nothing is are dismissed."""
    going: list[Planned] = []
    dismissed, bytes_max = intake.dismissed, limits.delivery_bytes_max
    for lease, mapped in zip(leases, _map(mapper, leases), strict=True):
        match mapped:
            case tuple() if len(mapped[0].body) <= bytes_max:
                going.append((lease, mapped))
            case tuple():
                reason = f"too large: {len(mapped[0].body)} bytes, the destination takes {bytes_max}"
                dismissed[State.DEAD, reason].append(lease)
            case Filtered():
                dismissed[State.FILTERED, mapped.reason].append(lease)
            case Unmapped():
                dismissed[State.UNMAPPED, mapped.reason].append(lease)
            case Unmappable():
                dismissed[State.DEAD, str(mapped)].append(lease)
    return going


def _map(mapper: BatchMapper, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
    """Map every lease. A mapper's bug must cost one event, not stop the route for ever."""
    try:
        return mapper.map_batch(leases)
    except Exception as error:  # noqa: BLE001 - the last resort; its type is told, its text may quote a payload
        if len(leases) == 1:
            return [Unmappable(f"a bug in the mapping: {type(error).__name__}")]
    return [mapped for lease in leases for mapped in _map(mapper, [lease])]
