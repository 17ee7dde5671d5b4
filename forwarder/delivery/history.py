"""What a route knows of past answers, to tell one bad event from a destination that is bad for all. Pure.

Kept in memory, for at most so many events: after a restart an event is merely judged once more. What must survive
one is the attempts and the progress in the spool.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from forwarder.delivery.flights import Flight
from forwarder.delivery.pacing import TripKind
from forwarder.delivery.policy import EVENT, OUTAGE_EVENTS_MIN, ROUTE, SINGLE_HOLDS_MAX, Case
from forwarder.model import Answer, Delivered, Filtered, Held, Lease, Refused, TryLater

EVENTS_MAX: Final = 10_000
LATELY_S: Final = 60.0


@dataclass(slots=True)
class _Group:
    """What is known of the calls of one rate-limit group; where batches go, of all requests."""

    passes: int = 0  # that the destination took
    passed_at_s: float = float("-inf")
    passes_at_hold: int | None = None  # when a hold over it began last
    answers: int = 0  # passes and refusals: of either the destination has made up its mind
    heard: int = 0  # passes of what arrives that are among these, where they are of replays
    answers_elsewhere: int | None = None  # of the other groups, when the trouble of this one began
    failing: set[int] = field(default_factory=set)  # events in a row
    held: set[int] = field(default_factory=set)  # events in a row that were answered with a hold's status

    def answered(self) -> None:
        """Hear an answer that shows the way to be open."""
        self.answers += 1
        self.answers_elsewhere = None
        self.failing.clear()

    def passed(self, *, now_s: float) -> None:
        """Hear that the destination took one."""
        self.answered()
        self.passes += 1
        self.passed_at_s = now_s
        self.held.clear()


class History:
    """Counts and sets of one route.

    `counts_refusals`: refusals of lone events in a row mean that something on the way refuses everybody.
    `forgives_lone_holds`: a lone event with a hold's status is set aside while others of its group pass.
    `live`, for that of replays, is that of what arrives: what passes there passed beside the replays.
    """

    def __init__(self, *, counts_refusals: bool, forgives_lone_holds: bool, live: "History | None" = None) -> None:
        self._live = live
        self._counts_refusals = counts_refusals
        self._forgives_lone_holds = forgives_lone_holds
        self.groups: defaultdict[str, _Group] = defaultdict(_Group)
        self._failing: dict[int, tuple[int, tuple[str, int] | None]] = {}  # event → failures in a row, passes seen
        self._refused_row: list[int] = []
        self._refused_kept = 0  # the length of the row that is on disk
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
        self._hear_of_live()
        lease, verdict, calls = flight.leases[0], answer.verdict, self.groups[group]
        others_passed = self._others_passed(flight, group, calls)
        known = Case(
            verdict=verdict,
            status=answer.attempt.status,
            events=len(flight.leases),
            group=group,
            is_probe=flight.is_probe,
            held=held,
            failures=flight.failures,
            failed_alone=flight.failed_alone,
            others_passed=others_passed,
            is_to_blame=self._live is not None and len(flight.leases) == 1 and flight.failures > 0 and others_passed,
            attempt=lease.attempt,
            failing_since_ms=lease.first_failed_at_ms,
        )
        match verdict:
            case Delivered() | Filtered():
                self._passed(flight.sequences, calls, now_s=now_s)
                return known
            case Refused():
                calls.answered()
                is_counted = self._counts_refusals and known.events == 1 and held is not TripKind.REFUSALS
                return replace(known, refused_in_a_row=self._refused(lease.sequence)) if is_counted else known
            case TryLater():
                flight.failures += 1
                flight.failed_alone += known.failures > 0 and known.others_passed
                flight.passes_seen = (group, calls.passes)
                if verdict.scope == EVENT and len(calls.failing) < OUTAGE_EVENTS_MIN:
                    calls.failing.add(lease.sequence)
                is_groups_own = verdict.scope == EVENT and self._is_groups_own(calls)
                return replace(known, failing_in_a_row=len(calls.failing), is_groups_own=is_groups_own)
            case Held():
                return self._held(known, flight, calls, now_s=now_s)
            case _ as unreachable:
                assert_never(unreachable)

    def set_aside(self, flight: Flight) -> None:
        """Keep of a lone event, which goes back to the spool, that it failed."""
        if len(self._failing) >= EVENTS_MAX:
            self._failing.clear()
        self._failing[flight.leases[0].sequence] = (flight.failures, flight.passes_seen)

    def began_hold(self, scope: str, flight: Flight) -> None:
        """Keep who began a hold: they travel in ever smaller company until one is found out."""
        for calls in self.groups.values() if scope == ROUTE else (self.groups[scope],):
            calls.passes_at_hold = calls.passes
        if len(self._suspects) + len(flight.leases) > EVENTS_MAX:
            self._suspects.clear()
        for sequence in flight.sequences:
            self._suspects[sequence] = max(1, len(flight.leases) // 2)

    def take_refused(self) -> list[int]:
        """End the row of refusals, and return its events: they are to be tried once more."""
        row, self._refused_row = self._refused_row, []
        return row

    def restore_refused(self, row: Sequence[int]) -> None:
        """Learn which events ended dead in the row of refusals that a restart interrupted."""
        self._refused_row, self._refused_kept = list(row), len(row)
        self._refused_before.update(row)

    def news_of_refused(self) -> list[int] | None:
        """Return the row of refusals when it is another one than was returned last, to be kept; else None."""
        if len(self._refused_row) == self._refused_kept:
            return None
        self._refused_kept = len(self._refused_row)
        return list(self._refused_row)

    def _hear_of_live(self) -> None:
        for name, live in self._live.groups.items() if self._live is not None else ():
            calls = self.groups[name]
            if live.passes > calls.heard:
                calls.passed(now_s=live.passed_at_s)
                calls.heard = live.passes

    def _others_passed(self, flight: Flight, group: str, calls: _Group) -> bool:
        if flight.passes_seen is not None and flight.passes_seen[0] == group:
            return calls.passes > flight.passes_seen[1]
        # The first failure that is known of: one that is on disk may have been before a restart.
        return flight.leases[0].attempt == 1 or calls.passes > 0

    def _is_groups_own(self, calls: _Group) -> bool:
        """Tell whether other groups were answered since the trouble of this one began, which may be now."""
        elsewhere = sum(other.answers for other in self.groups.values() if other is not calls)
        if calls.answers_elsewhere is None:
            calls.answers_elsewhere = elsewhere
        return elsewhere > calls.answers_elsewhere

    def _passed(self, sequences: Sequence[int], calls: _Group, *, now_s: float) -> None:
        calls.passed(now_s=now_s)
        self._refused_row.clear()
        self._forget(sequences)

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

    def _held(self, known: Case, flight: Flight, calls: _Group, *, now_s: float) -> Case:
        flight.failures += 1
        if len(calls.held) < SINGLE_HOLDS_MAX:
            calls.held.add(flight.leases[0].sequence)
        return replace(
            known,
            is_groups_own=self._is_groups_own(calls),
            holds=flight.holds,
            others_passed_between_holds=calls.passes_at_hold is not None and calls.passes > calls.passes_at_hold,
            others_passed_lately=self._forgives_lone_holds and now_s - calls.passed_at_s <= LATELY_S,
            held_in_a_row=len(calls.held),
        )
