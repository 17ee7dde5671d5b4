"""Tell one bad event from a destination that is bad for all. Pure: counts and sets, nothing else.

Kept in memory: after a restart an event is merely judged once more.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from forwarder.model import Lease

SINGLE_REFUSALS_MAX: Final = 10
HOLDS_MAX: Final = 10
BATCH_FAILURES_MAX: Final = 5
EVENT_FAILURES_MAX: Final = 20
EVENT_FAILING_MIN_MS: Final = 3 * 3_600_000
_SUSPECTS_MAX: Final = 10_000


class RefusalStreak:
    """Refusals of single events in a row, and those that were given a second chance after it."""

    def __init__(self) -> None:
        self._row: list[int] = []
        self._second_chance: set[int] = set()

    def accepted(self, sequences: Iterable[int]) -> None:
        """End the row: something was accepted."""
        self._row.clear()
        if self._second_chance:
            self._second_chance.difference_update(sequences)

    def refused(self, sequence: int) -> tuple[int, ...]:
        """Count a refusal; return the whole row when it became too long to be chance, else nothing.

        The row's events then have a second chance: each is tried once more, alone, and a refusal counts no more.
        """
        if sequence in self._second_chance:
            self._second_chance.discard(sequence)
            return ()
        self._row.append(sequence)
        if len(self._row) < SINGLE_REFUSALS_MAX:
            return ()
        row = tuple(self._row)
        self._row.clear()
        self._second_chance.update(row)
        return row

    def pardon(self, sequence: int) -> None:
        """Give an event a second chance."""
        self._second_chance.add(sequence)

    def has_second_chance(self, sequence: int) -> bool:
        """Tell whether this event travels alone, for the last time."""
        return sequence in self._second_chance


class HoldSuspects:
    """The events whose request began a hold: they travel in ever smaller company until one is found out."""

    def __init__(self) -> None:
        self._company_max: dict[int, int] = {}

    def accuse(self, sequences: tuple[int, ...]) -> None:
        """Remember that these, together, began a hold."""
        if len(self._company_max) + len(sequences) > _SUSPECTS_MAX:
            self._company_max.clear()
        for sequence in sequences:
            self._company_max[sequence] = max(1, len(sequences) // 2)

    def clear(self, sequences: Iterable[int]) -> None:
        """Forget the suspicion: these were settled."""
        if self._company_max:
            for sequence in sequences:
                self._company_max.pop(sequence, None)

    def company_max(self, sequence: int) -> int | None:
        """Return how many may travel with this event, itself included; None when it is above suspicion."""
        return self._company_max.get(sequence)


class OutboundProgress(msgspec.Struct, omit_defaults=True):
    """What the spool keeps with an event of the batch route: how many holds it alone began."""

    holds: int = 0


def read_progress(lease: Lease) -> OutboundProgress:
    """Return the event's progress; a new one when there is none or it cannot be read."""
    try:
        return msgspec.json.decode(lease.progress, type=OutboundProgress)
    except msgspec.MsgspecError:
        return OutboundProgress()


def is_hopeless(lease: Lease, *, now_ms: int) -> bool:
    """Tell whether the failure that just happened is the last this event may have.

    Its attempts count only the failures while others succeeded.
    """
    if lease.attempt < EVENT_FAILURES_MAX or lease.first_failed_at_ms is None:
        return False
    return now_ms - lease.first_failed_at_ms >= EVENT_FAILING_MIN_MS
