"""Map what was lent, and sort it by what comes out. Sends and settles nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from forwarder.errors import Unmappable
from forwarder.model import Delivery, Filtered, Lease, State, Unmapped
from forwarder.ports import Mapper


@dataclass(slots=True, kw_only=True)
class SortedOut:
    """Every lease that was given, in exactly one place."""

    mapped: list[tuple[Lease, tuple[Delivery, ...]]] = field(default_factory=list)
    dead: list[tuple[Lease, str]] = field(default_factory=list)
    _dismissed: dict[tuple[State, str], list[Lease]] = field(default_factory=dict)

    def dismiss(self, lease: Lease, state: State, reason: str) -> None:
        """Put a lease among those that go nowhere."""
        self._dismissed.setdefault((state, reason), []).append(lease)

    def dismissed(self) -> list[tuple[State, str, list[Lease]]]:
        """Return what goes nowhere, grouped so that each group is settled in one go."""
        return [(state, reason, leases) for (state, reason), leases in self._dismissed.items()]


def sort_out(mapper: Mapper, leases: Sequence[Lease]) -> SortedOut:
    """Map every lease. Never raises for what is in an event."""
    result = SortedOut()
    for lease in leases:
        try:
            mapped = mapper.map(lease)
        except Unmappable as error:
            result.dead.append((lease, str(error)))
            continue
        except Exception as error:  # noqa: BLE001 - a mapper's bug must cost one event, not stop the route for ever
            result.dead.append((lease, f"a bug in the mapping: {type(error).__name__}"))
            continue
        match mapped:
            case Filtered(reason=reason):
                result.dismiss(lease, State.FILTERED, reason)
            case Unmapped(reason=reason):
                result.dismiss(lease, State.UNMAPPED, reason)
            case _:
                result.mapped.append((lease, mapped))
    return result
