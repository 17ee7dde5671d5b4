"""What follows from an answer, on both routes: verdict and history in, decision out. Pure.

What the answer means was said by the sink (`model.Verdict`); what is known of its events and of the destination
comes from `history`; carrying the decision out is `dispatch`'s business.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Final, assert_never

from forwarder.delivery.pacing import Backoff, TripKind
from forwarder.model import Delivered, Effect, Filtered, Held, Refused, TryLater, Verdict

ROUTE: Final = "route"  # the scope of a whole route; every other scope is a rate-limit group
EVENT: Final = "event"  # the scope of a trouble that may be one event's own
REPLICA: Final = "replica"  # of one that may be another replica's by now: nothing was asked

BATCH_FAILURES_MAX: Final = 5
EVENT_FAILURES_MAX: Final = 20
EVENT_FAILING_MIN_MS: Final = 3 * 3_600_000
HOLDS_MAX: Final = 10
OUTAGE_EVENTS_MIN: Final = 3  # different events in a row: one user's trouble must not stop the others
SINGLE_REFUSALS_MAX: Final = 10
SINGLE_HOLDS_MAX: Final = 10


class Outcome(StrEnum):
    """What becomes of the events of an answered request."""

    DONE = "done"  # the destination took them, or wants none of them: the verdict says which
    REFUSED = "refused"  # the lone event, or call, will never be taken
    DEAD = "dead"  # the lone event is given up
    SPLIT = "split"  # someone among them is the culprit: the halves are tried
    WAITS = "waits"  # until its scope goes again, as if nothing had been its fault
    SET_ASIDE = "set aside"  # until its own retry
    RETURNED = "returned"  # as if never leased


class Change(StrEnum):
    """What becomes of the circuit breaker of a scope."""

    NONE = ""
    CLOSE = "close"
    BACK_OFF = "back off"
    HOLD = "hold"
    HOLD_FOR_REFUSALS = "hold for refusals"
    POSTPONE = "postpone"  # the probe taught nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer, and what is known of what it answers."""

    verdict: Verdict
    status: int | None = None  # None: no answer came
    events: int = 1  # in the request
    group: str = ROUTE  # the rate-limit group of the call that was answered
    is_probe: bool = False  # a waiting event that was tried while the route backs off
    held: TripKind | None = None  # the hold over what was asked; for `Held`, over the very scope that it names
    failures: int = 0  # of this request in a row, for whatever reason, before this answer
    failed_alone: int = 0  # of these, how many while others succeeded
    others_passed: bool = False  # calls of its group, since its last failure; True for its first
    is_to_blame: bool = False  # a lone replay that failed before, while what arrives passed since
    failing_in_a_row: int = 0  # different events, this one included, while none of its group succeeded between
    is_groups_own: bool = False  # other groups were answered since the trouble of this one began
    attempt: int = 1  # of the lone event: counts the failures before, plus one
    failing_since_ms: int | None = None  # of the lone event
    holds: int = 0  # how many holds the lone event began while others passed between
    others_passed_between_holds: bool = False  # calls of its group, since a hold over it began last
    others_passed_lately: bool = False  # calls of its group, within the last minute
    held_in_a_row: int = 0  # different lone events with a hold's status, this one included, while none passed
    refused_in_a_row: int = 0  # lone events, this one included; 0 when this one's refusal does not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows. `after_s` is how long the events wait by themselves."""

    outcome: Outcome
    change: Change = Change.NONE
    scope: str = ROUTE  # whose breaker changes
    reason: str = ""
    after_s: float = 0.0
    counts: bool = False  # it is one of the event's own failures
    holds: int | None = None  # how many holds the event has begun, when this is one more
    retry_after_s: float | None = None  # what the destination asked of everybody; None: the breaker's own backoff
    ends_hold: bool = False  # the hold over what was asked ends before anything changes
    shows_route: bool = False  # the answer is for its group alone: whatever else waits for the destination may go


class OutcomePolicy:
    """The one place that decides. `rng` gives numbers in [0, 1), for the jitter of the waits."""

    def __init__(self, *, backoff: Backoff, rng: Callable[[], float]) -> None:
        self._backoff = backoff
        self._rng = rng

    def decide(self, case: Case, *, now_ms: int) -> Decision:
        """Return what follows from the answer. It depends on the case, the time and the dice alone."""
        match case.verdict:
            case Delivered() | Filtered():
                return Decision(outcome=Outcome.DONE, change=Change.CLOSE)
            case Refused() as refused:
                return _refused(case, refused)
            case TryLater() as later:
                # No answer is not an answer outside the hold's class; only an acceptance ends a hold for refusals.
                proves_nothing = case.held is TripKind.REFUSALS or (case.held is not None and case.status is None)
                if later.scope == REPLICA or proves_nothing:
                    return Decision(outcome=Outcome.RETURNED, change=Change.POSTPONE, reason=later.reason)
                decision = self._later(case, later, now_ms)
                return decision if case.held is None else replace(decision, ends_hold=True)
            case Held() as held:
                return self._held(case, held, now_ms)
            case _ as unreachable:
                assert_never(unreachable)

    def step_aside(self, verdict: TryLater | Held, attempt: int, *, stopped: str | None, is_held: bool) -> Decision:
        """Return what follows for a replayed event that met trouble before what waits of its user.

        It proves nothing about what arrives, and nobody waits for it: from now on it goes with the other replays.
        `stopped` is the scope of what it asked that stands still, and so was asked in vain, `is_held` by a hold.
        """
        asked_s = verdict.after_s if isinstance(verdict, TryLater) else None
        change, scope, is_for_all = Change.NONE, ROUTE, asked_s is not None and verdict.scope != EVENT
        if is_for_all:
            change, scope = Change.BACK_OFF, verdict.scope
        elif stopped is not None:
            change, scope = (Change.POSTPONE, ROUTE) if is_held else (Change.BACK_OFF, stopped)
        return Decision(
            outcome=Outcome.SET_ASIDE,
            change=change,
            scope=scope,
            reason=verdict.reason,
            after_s=self._backoff.ceiling_s(attempt) if asked_s is None else asked_s,
            retry_after_s=asked_s if is_for_all else None,
            shows_route=is_for_all and scope != ROUTE,
        )

    # --- later: the destination is away, or chokes on this ---

    def _later(self, case: Case, later: TryLater, now_ms: int) -> Decision:
        if (
            case.is_probe and not case.is_to_blame
        ):  # it does not stay in hand: memory would grow with every probe of an outage
            return _backing_off(Outcome.RETURNED, later)
        if later.scope == EVENT and case.events == 1:
            if case.failing_in_a_row >= OUTAGE_EVENTS_MIN:
                # Courier's `/send` may be down while profiles pass: no event's fault, and no reason to stop those.
                backing_off = _backing_off(Outcome.WAITS, later)
                return replace(backing_off, scope=case.group) if case.is_groups_own else backing_off
            return self._fails_alone(case, later, now_ms, counts=case.others_passed)
        is_nobodys_fault = later.effect is Effect.NONE or case.status == HTTPStatus.TOO_MANY_REQUESTS
        if is_nobodys_fault or not case.failures or not case.others_passed:
            return _backing_off(Outcome.WAITS, later)
        # Others succeed: poison that looks like an outage. What the destination asks of everybody is heeded as well.
        if case.events == 1:
            return self._fails_alone(case, later, now_ms, counts=True)
        return Decision(
            outcome=Outcome.SPLIT if case.failures + 1 >= BATCH_FAILURES_MAX else Outcome.SET_ASIDE,
            change=Change.NONE if later.after_s is None else Change.BACK_OFF,
            reason=later.reason,
            after_s=max(self._backoff.delay_s(case.failed_alone + 1, self._rng), later.after_s or 0.0),
            counts=True,
            retry_after_s=later.after_s,
        )

    def _fails_alone(self, case: Case, verdict: TryLater | Held, now_ms: int, *, counts: bool) -> Decision:
        """Set the event aside until its own retry, or give it up: it fails while others succeed."""
        asked_s = verdict.after_s if isinstance(verdict, TryLater) else None
        is_for_all = asked_s is not None and isinstance(verdict, TryLater) and verdict.scope != EVENT
        change = Change.CLOSE if case.is_to_blame else Change.NONE  # no other replay need wait
        change = Change.BACK_OFF if is_for_all else change
        if counts and is_hopeless(case, now_ms=now_ms):
            reason = f"keeps failing: {case.status or verdict.reason}"
            return Decision(outcome=Outcome.DEAD, change=change, reason=reason, retry_after_s=asked_s)
        return Decision(
            outcome=Outcome.SET_ASIDE,
            change=change,
            reason=verdict.reason,
            after_s=self._backoff.delay_s(max(case.failures + 1, case.attempt), self._rng)
            if asked_s is None
            else asked_s,
            counts=counts,
            retry_after_s=asked_s,
        )

    # --- held: the set-up is wrong ---

    def _held(self, case: Case, held: Held, now_ms: int) -> Decision:
        # A key that is refused by one group only is no reason to stop the others.
        scope = case.group if case.is_groups_own and case.held is None else held.scope
        # What waits for a route is leased again when it goes; what waits for a group is not leased before.
        holding = Decision(
            outcome=Outcome.RETURNED if scope == ROUTE else Outcome.WAITS,
            change=Change.HOLD,
            scope=scope,
            reason=held.reason,
            shows_route=scope != ROUTE and case.status is not None,
        )
        if case.held is not None or case.events > 1:
            return holding
        if case.others_passed_lately and case.held_in_a_row < SINGLE_HOLDS_MAX:
            return self._fails_alone(case, held, now_ms, counts=True)
        if not case.others_passed_between_holds:
            return holding
        if case.holds + 1 >= HOLDS_MAX:
            what = "the route" if scope == ROUTE else f"{scope} calls"
            return Decision(outcome=Outcome.DEAD, reason=f"keeps holding {what}: {case.status or held.reason}")
        # Others go first once the hold is over: this one alone seems to bring it about.
        return replace(
            holding, outcome=Outcome.SET_ASIDE, holds=case.holds + 1, after_s=self._backoff.ceiling_s(case.holds + 1)
        )


def _backing_off(outcome: Outcome, later: TryLater) -> Decision:
    return Decision(
        outcome=outcome,
        change=Change.BACK_OFF,
        scope=ROUTE if later.scope == EVENT else later.scope,
        reason=later.reason,
        retry_after_s=later.after_s,
        shows_route=later.scope not in {ROUTE, EVENT},
    )


def _refused(case: Case, refused: Refused) -> Decision:
    """Someone in it is the culprit. A refusal is an answer: the set-up is right and the destination is there."""
    if case.events > 1:
        change = Change.NONE if case.held is TripKind.REFUSALS else Change.CLOSE
        return Decision(outcome=Outcome.SPLIT, change=change, reason=refused.reason)
    if case.held is TripKind.REFUSALS:  # judged again when the hold is over: until then a refusal proves nothing
        return Decision(outcome=Outcome.RETURNED, change=Change.POSTPONE, reason=refused.reason)
    if case.refused_in_a_row >= SINGLE_REFUSALS_MAX:  # too many to be chance: they are tried once more, alone
        reason = f"{case.refused_in_a_row} events in a row were refused"
        return Decision(outcome=Outcome.RETURNED, change=Change.HOLD_FOR_REFUSALS, reason=reason)
    return Decision(outcome=Outcome.REFUSED, change=Change.CLOSE, reason=refused.reason)


def is_hopeless(case: Case, *, now_ms: int) -> bool:
    """Tell whether the failure that just happened is the last this event may have.

    Its attempts count only the failures while others succeeded.
    """
    if case.attempt < EVENT_FAILURES_MAX or case.failing_since_ms is None:
        return False
    return now_ms - case.failing_since_ms >= EVENT_FAILING_MIN_MS
