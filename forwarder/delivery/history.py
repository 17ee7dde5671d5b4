"""What a route knows of past answers, to tell one bad event from a destination that is bad for all. Pure.

Kept in memory, for at most so many events: after a restart an event is merely judged once more. What must survive
one is the attempts and the progress in the spool.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, assert_never

from forwarder.delivery.circuit import TripKind
from forwarder.delivery.flights import Flight
from forwarder.delivery.policy import EVENT, OUTAGE_EVENTS_MIN, ROUTE, SINGLE_HOLDS_MAX, Case
from forwarder.model import Answer, Delivered, Filtered, Held, Lease, Refused, TryLater

EVENTS_MAX: Final = 10_000
LATELY_S: Final = 60.0


class History:
    """Counts and sets of one route.

    `counts_refusals`: refusals of lone events in a row mean that something on the way refuses everybody.
    `forgives_lone_holds`: a lone event with a hold's status is set aside while others of its group pass.
    """

    def __init__(self, *, counts_refusals: bool, forgives_lone_holds: bool) -> None:
        self._counts_refusals = counts_refusals
        self._forgives_lone_holds = forgives_lone_holds
        self._passes = 0  # requests that the destination took
        self._passes_of: Counter[str] = Counter()  # of these, the calls of each rate-limit group
        self._passes_at_hold: dict[str, int] = {}
        self._passed_at_s: dict[str, float] = {}
        self._failing: dict[int, tuple[int, int]] = {}  # event in the spool → failures in a row, passes at the last
        self._failing_row: set[int] = set()
        self._held_row: dict[str, set[int]] = {}
        self._refused_row: list[int] = []
        self._refused_before: set[int] = set()
        self._suspects: dict[int, int] = {}  # event → how many may travel together with it, itself included

    def together_max(self, lease: Lease) -> int | None:
        """Return how many events may travel with this one, itself included; None when it is above suspicion."""
        if lease.attempt > 1 or lease.sequence in self._refused_before:
            return 1
        return self._suspects.get(lease.sequence) if self._suspects else None

    def restore(self, flight: Flight) -> None:
        """Tell a lone event that comes back from the spool what is known of its failures."""
        known = self._failing.get(flight.leases[0].sequence)
        if known is not None:
            flight.failures, flight.passes_seen = known

    def observe(self, flight: Flight, answer: Answer, *, group: str, held: TripKind | None, now_s: float) -> Case:
        """Count an answer to a call of this rate-limit group, and return it with all that is known beside it.

        `held` is the hold over what was asked.
        """
        lease, verdict = flight.leases[0], answer.verdict
        known = Case(
            verdict=verdict,
            status=answer.attempt.status,
            events=len(flight.leases),
            is_probe=flight.is_probe,
            held=held,
            failures=flight.failures,
            failed_alone=flight.failed_alone,
            others_passed=self._passes > flight.passes_seen,
            attempt=lease.attempt,
            failing_since_ms=lease.first_failed_at_ms,
        )
        match verdict:
            case Delivered() | Filtered():
                self._passed(flight.sequences, group=group, now_s=now_s)
                return known
            case Refused():
                self._failing_row.clear()
                is_counted = self._counts_refusals and known.events == 1 and held is not TripKind.REFUSALS
                return replace(known, refused_in_a_row=self._refused(lease.sequence)) if is_counted else known
            case TryLater():
                flight.failures += 1
                flight.failed_alone += known.failures > 0 and known.others_passed
                flight.passes_seen = self._passes
                if verdict.scope == EVENT and len(self._failing_row) < OUTAGE_EVENTS_MIN:
                    self._failing_row.add(lease.sequence)
                return replace(known, failing_in_a_row=len(self._failing_row))
            case Held():
                return self._held(known, flight, verdict, group=group, now_s=now_s)
            case _ as unreachable:
                assert_never(unreachable)

    def set_aside(self, flight: Flight) -> None:
        """Keep of a lone event, which goes back to the spool, that it failed."""
        if len(self._failing) >= EVENTS_MAX:
            self._failing.clear()
        self._failing[flight.leases[0].sequence] = (flight.failures, flight.passes_seen)

    def began_hold(self, scope: str, flight: Flight) -> None:
        """Keep who began a hold: they travel in ever smaller company until one is found out."""
        self._passes_at_hold[scope] = self._passes_in(scope)
        if len(self._suspects) + len(flight.leases) > EVENTS_MAX:
            self._suspects.clear()
        for sequence in flight.sequences:
            self._suspects[sequence] = max(1, len(flight.leases) // 2)

    def take_refused(self) -> list[int]:
        """End the row of refusals, and return its events: they are to be tried once more."""
        row, self._refused_row = self._refused_row, []
        return row

    def _passed(self, sequences: Sequence[int], *, group: str, now_s: float) -> None:
        self._passes += 1
        self._passes_of[group] += 1
        self._passed_at_s[group] = now_s
        self._failing_row.clear()
        self._held_row.pop(group, None)
        self._refused_row.clear()
        self._forget(sequences)

    def _passes_in(self, scope: str) -> int:
        # That profiles pass says nothing of lists.
        return self._passes if scope == ROUTE else self._passes_of[scope]

    def _forget(self, sequences: Sequence[int]) -> None:
        for known in (self._failing, self._suspects):
            if known:
                for sequence in sequences:
                    known.pop(sequence, None)
        if self._refused_before:
            self._refused_before.difference_update(sequences)

    def _refused(self, sequence: int) -> int:
        """Return the length of the row; 0 for an event that was refused before: after a hold, or a replay of it.

        Such an event travels alone and its refusals hold nobody: dead letters may be replayed though their cause
        remains.
        """
        if sequence in self._refused_before:
            return 0
        if len(self._refused_before) >= EVENTS_MAX:
            self._refused_before.clear()
        self._refused_before.add(sequence)
        self._refused_row.append(sequence)
        return len(self._refused_row)

    def _held(self, known: Case, flight: Flight, held: Held, *, group: str, now_s: float) -> Case:
        flight.failures += 1
        row = self._held_row.setdefault(group, set())
        if len(row) < SINGLE_HOLDS_MAX:
            row.add(flight.leases[0].sequence)
        passed_at_s = self._passed_at_s.get(group)
        passes_before = self._passes_at_hold.get(held.scope)
        return replace(
            known,
            holds=flight.holds,
            others_passed_between_holds=passes_before is not None and self._passes_in(held.scope) > passes_before,
            others_passed_lately=self._forgives_lone_holds
            and passed_at_s is not None
            and now_s - passed_at_s <= LATELY_S,
            held_in_a_row=len(row),
        )
