"""Tell an event that fails from a destination that fails. Pure: counts, nothing else.

Kept in memory, for at most so many events: what must survive a restart is the attempts in the spool.
"""

from dataclasses import dataclass
from typing import Final

OUTAGE_EVENTS_MIN: Final = 3  # different events in a row: one user's trouble must not stop the others
_EVENTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """What one more failure of an event means."""

    failures: int  # of this event, in a row
    others_passed: bool  # since its last failure; True for its first
    is_outage: bool  # nothing succeeded while several different events failed


class Setbacks:
    """The failures of the events of one route, and what succeeded between them."""

    def __init__(self) -> None:
        self._passes = 0
        self._failing: dict[int, tuple[int, int]] = {}  # event → failures in a row, passes at the last of them
        self._row: set[int] = set()
        self._passes_at_hold: dict[str, int] = {}

    def passed(self, sequence: int) -> None:
        """Learn that the destination took, or judged, a call of this event."""
        self._passes += 1
        self._row.clear()
        self._failing.pop(sequence, None)

    def failed(self, sequence: int) -> Setback:
        """Count a failure of this event."""
        failures, passes_seen = self._failing.get(sequence, (0, -1))
        if len(self._failing) >= _EVENTS_MAX:
            self._failing.clear()
        self._failing[sequence] = (failures + 1, self._passes)
        if len(self._row) < OUTAGE_EVENTS_MIN:
            self._row.add(sequence)
        return Setback(
            failures=failures + 1,
            others_passed=self._passes > passes_seen,
            is_outage=len(self._row) >= OUTAGE_EVENTS_MIN,
        )

    def began_hold(self, scope: str) -> bool:
        """Learn that an event began a hold of this scope; return whether others passed since the last one began."""
        before = self._passes_at_hold.get(scope)
        self._passes_at_hold[scope] = self._passes
        return before is not None and self._passes > before
