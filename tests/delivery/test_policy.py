"""What follows from an answer: the outcome policy's tables, line by line, without a clock or a loop."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.pacing import Backoff, TripKind
from forwarder.delivery.policy import (
    EVENT,
    REPLICA,
    ROUTE,
    Case,
    Change,
    Decision,
    Outcome,
    OutcomePolicy,
)
from forwarder.model import Delivered, Effect, Filtered, Held, Refused, TryLater, Verdict

HOURS_3_MS = 3 * 3_600_000
HOPELESS: dict[str, Any] = {"attempt": 500, "failing_since_ms": 0, "now_ms": HOURS_3_MS * 9}
REFUSED = Refused(reason="400: refused", words="said by them")


def _later(
    scope: str = ROUTE, *, after_s: float | None = None, effect: Effect = Effect.ANSWERED, reason: str = "answered 500"
) -> TryLater:
    return TryLater(reason=reason, after_s=after_s, scope=scope, effect=effect)


def _held(scope: str = ROUTE) -> Held:
    return Held(reason="403: forbidden", scope=scope)


def _decided(
    verdict: Verdict, *, status: int | None = 500, now_ms: int = 0, dice: float = 0.5, **known: Any
) -> Decision:
    policy = OutcomePolicy(backoff=Backoff(), rng=lambda: dice)
    return policy.decide(Case(verdict=verdict, status=status, **known), now_ms=now_ms)


@pytest.mark.parametrize("verdict", [Delivered(), Filtered(reason="422")], ids=["delivered", "filtered"])
@pytest.mark.parametrize("held", [None, *TripKind])
def test_an_acceptance_settles_and_closes_everything(verdict: Verdict, held: TripKind | None) -> None:
    """The first acceptance ends every standstill, whatever began it."""
    assert _decided(verdict, status=200, held=held) == Decision(outcome=Outcome.DONE, change=Change.CLOSE)


# --- refused ---


@pytest.mark.parametrize(
    ("known", "decision"),
    [
        ({"events": 100}, Decision(outcome=Outcome.SPLIT, change=Change.CLOSE, reason="400: refused")),
        (
            {"events": 2, "held": TripKind.HELD},
            Decision(outcome=Outcome.SPLIT, change=Change.CLOSE, reason="400: refused"),
        ),
        (
            {"events": 2, "held": TripKind.REFUSALS},
            Decision(outcome=Outcome.SPLIT, change=Change.NONE, reason="400: refused"),
        ),
        ({}, Decision(outcome=Outcome.REFUSED, change=Change.CLOSE, reason="400: refused")),
        ({"refused_in_a_row": 9}, Decision(outcome=Outcome.REFUSED, change=Change.CLOSE, reason="400: refused")),
        (
            {"refused_in_a_row": 10},
            Decision(
                outcome=Outcome.RETURNED,
                change=Change.HOLD_FOR_REFUSALS,
                reason="10 events in a row were refused",
            ),
        ),
        ({"held": TripKind.HELD}, Decision(outcome=Outcome.REFUSED, change=Change.CLOSE, reason="400: refused")),
        (
            {"held": TripKind.REFUSALS, "refused_in_a_row": 3},
            Decision(outcome=Outcome.RETURNED, change=Change.POSTPONE, reason="400: refused"),
        ),
    ],
    ids=[
        "a batch is bisected",
        "a refusal ends a hold for the set-up",
        "but not one for refusals",
        "a lone event is given up",
        "nine in a row are nine bad events",
        "ten in a row hold the route and return",
        "a lone one ends a hold for the set-up as well",
        "while refusals hold it proves nothing",
    ],
)
def test_a_refusal(known: dict[str, Any], decision: Decision) -> None:
    """Someone in a refused request is the culprit; ten lone ones in a row are no culprits."""
    assert _decided(REFUSED, status=400, **known) == decision


# --- later ---


@pytest.mark.parametrize("events", [1, 100])
@pytest.mark.parametrize(
    "known",
    [
        {},
        {"others_passed": True},
        {"failures": 3},
        {"failures": 3, "others_passed": True, "status": 429},
        {"failures": 3, "others_passed": True, "status": None, "effect": Effect.NONE},
    ],
    ids=["first failure", "first failure beside others", "nothing passed since", "429", "never connected"],
)
def test_trouble_of_all_backs_the_route_off(known: dict[str, Any], events: int) -> None:
    """While it may be everybody's trouble the whole route waits, on one timer, and nobody is blamed."""
    later = _later(effect=known.get("effect", Effect.ANSWERED))
    known = {name: value for name, value in known.items() if name != "effect"}
    decision = _decided(later, events=events, attempt=500, failing_since_ms=0, now_ms=HOURS_3_MS * 9, **known)
    assert decision == Decision(outcome=Outcome.WAITS, change=Change.BACK_OFF, reason="answered 500")


@pytest.mark.parametrize("after_s", [None, 7.0])
def test_what_the_destination_asks_of_all_is_passed_on(after_s: float | None) -> None:
    """`Retry-After` is for the whole route, or for the group that it was said of."""
    for scope in (ROUTE, "lists"):
        decision = _decided(_later(scope, after_s=after_s, effect=Effect.NONE), status=429)
        assert (decision.outcome, decision.change, decision.scope) == (Outcome.WAITS, Change.BACK_OFF, scope)
        assert decision.retry_after_s == after_s
        assert decision.shows_route is (scope == "lists")


@pytest.mark.parametrize(
    ("failures", "failed_alone", "after_s", "decision"),
    [
        (1, 0, None, Decision(outcome=Outcome.SET_ASIDE, after_s=0.5, counts=True, reason="answered 500")),
        (3, 2, None, Decision(outcome=Outcome.SET_ASIDE, after_s=2.0, counts=True, reason="answered 500")),
        (4, 3, None, Decision(outcome=Outcome.SPLIT, after_s=4.0, counts=True, reason="answered 500")),
        (
            1,
            0,
            60.0,
            Decision(
                outcome=Outcome.SET_ASIDE,
                change=Change.BACK_OFF,
                after_s=60.0,
                counts=True,
                reason="answered 500",
                retry_after_s=60.0,
            ),
        ),
    ],
    ids=[
        "it waits by itself",
        "longer each time",
        "the fifth failure splits it",
        "Retry-After counts for it and for all",
    ],
)
def test_a_batch_that_fails_while_others_pass(
    failures: int, failed_alone: int, after_s: float | None, decision: Decision
) -> None:
    """Poison that looks like an outage: the batch waits by itself, and is split after five failures."""
    later = _later(after_s=after_s)
    assert _decided(later, events=100, failures=failures, failed_alone=failed_alone, others_passed=True) == decision


@pytest.mark.parametrize(
    ("scope", "failures"), [(ROUTE, 1), (EVENT, 0)], ids=["of a request to all", "of a call of its own"]
)
@pytest.mark.parametrize(
    ("attempt", "age_ms", "status", "reason"),
    [
        (20, HOURS_3_MS, 500, "keeps failing: 500"),
        (500, HOURS_3_MS * 9, None, "keeps failing: answered 500"),
        (19, HOURS_3_MS, 500, ""),
        (20, HOURS_3_MS - 1, 500, ""),
        (20, None, 500, ""),
    ],
)
def test_a_lone_event_that_fails_while_others_pass(
    scope: str, failures: int, *, attempt: int, age_ms: int | None, status: int | None, reason: str
) -> None:
    """Twenty failures and three hours, both, and not a millisecond less; before that it has its own retry."""
    decision = _decided(
        _later(scope),
        status=status,
        failures=failures,
        others_passed=True,
        attempt=attempt,
        failing_since_ms=None if age_ms is None else 1_000,
        now_ms=1_000 + (age_ms or 0),
    )
    if reason:
        assert decision == Decision(outcome=Outcome.DEAD, reason=reason)
    else:
        assert decision == Decision(outcome=Outcome.SET_ASIDE, reason="answered 500", after_s=150.0, counts=True)


@pytest.mark.parametrize(("attempt", "failures", "after_s"), [(1, 0, 0.5), (3, 0, 2.0), (1, 2, 2.0), (3, 4, 8.0)])
def test_an_events_own_retry_backs_off(attempt: int, failures: int, after_s: float) -> None:
    """The wait grows with the failures in a row, or with those that the spool counts, whichever are more."""
    decision = _decided(_later(EVENT), attempt=attempt, failures=failures, others_passed=True)
    assert (decision.outcome, decision.change, decision.after_s) == (Outcome.SET_ASIDE, Change.NONE, after_s)


@pytest.mark.parametrize("held", [None, *TripKind])
@pytest.mark.parametrize("events", [1, 100])
def test_what_another_may_have_taken_over_is_given_back(events: int, held: TripKind | None) -> None:
    """Whatever else is so: nothing was asked, so nothing is backed off, and nothing is kept in hand."""
    verdict = _later(REPLICA, effect=Effect.NONE)
    decision = _decided(verdict, status=None, events=events, held=held, failures=3, others_passed=True)
    assert decision == Decision(outcome=Outcome.RETURNED, change=Change.POSTPONE, reason=verdict.reason)


def test_a_call_is_repeated_when_it_was_asked_to_be() -> None:
    """`Retry-After` of one event's call is that event's wait, and nobody else's."""
    decision = _decided(_later(EVENT, after_s=42.0), others_passed=True)
    assert (decision.outcome, decision.change, decision.after_s) == (Outcome.SET_ASIDE, Change.NONE, 42.0)


def test_a_lone_request_that_asks_for_time_asks_for_all() -> None:
    """A lone event of a route without groups is set aside, and the route heeds what was asked."""
    decision = _decided(_later(after_s=42.0), failures=1, others_passed=True)
    assert (decision.outcome, decision.change, decision.after_s) == (Outcome.SET_ASIDE, Change.BACK_OFF, 42.0)
    assert decision.retry_after_s == 42.0


def test_a_failure_counts_only_while_others_pass() -> None:
    """In an outage nobody's attempts are counted, so that nobody is given up for it."""
    decision = _decided(_later(EVENT), failures=3, others_passed=False, **HOPELESS)
    assert (decision.outcome, decision.counts) == (Outcome.SET_ASIDE, False)


@pytest.mark.parametrize(("events", "is_outage"), [(2, False), (3, True)])
@pytest.mark.parametrize("after_s", [None, 9.0])
def test_three_events_in_a_row_are_an_outage(events: int, after_s: float | None, *, is_outage: bool) -> None:
    """One user's trouble stops nobody; that of three different ones, with nothing between, backs the route off.

    Or their group alone, while others are answered: then `/send` is down, and nobody's attempts are counted.
    """
    decision = _decided(_later(EVENT, after_s=after_s), failing_in_a_row=events, others_passed=True)
    if is_outage:
        assert decision == Decision(
            outcome=Outcome.WAITS, change=Change.BACK_OFF, reason="answered 500", retry_after_s=after_s
        )
        own = _decided(
            _later(EVENT, after_s=after_s), failing_in_a_row=events, group="send", is_groups_own=True, **HOPELESS
        )
        assert own == replace(decision, scope="send")
    else:
        assert (decision.outcome, decision.change) == (Outcome.SET_ASIDE, Change.NONE)


@pytest.mark.parametrize("scope", [ROUTE, EVENT])
def test_a_probe_of_an_outage_is_not_kept(scope: str) -> None:
    """A waiting event that was only asked with goes back as if never leased."""
    decision = _decided(_later(scope), is_probe=True, failures=4, others_passed=True)
    assert decision == Decision(outcome=Outcome.RETURNED, change=Change.BACK_OFF, reason="answered 500")


@pytest.mark.parametrize(
    ("held", "status", "ends"),
    [(TripKind.HELD, 500, True), (TripKind.HELD, None, False), (TripKind.REFUSALS, 500, False)],
    ids=["another answer ends it", "silence does not", "only an acceptance ends one for refusals"],
)
@pytest.mark.parametrize("scope", [ROUTE, EVENT, "lists"])
def test_an_outage_during_a_hold(held: TripKind, status: int | None, scope: str, *, ends: bool) -> None:
    """A hold ends at the first answer outside its class, and what would follow without it follows."""
    decision = _decided(_later(scope), status=status, held=held)
    if ends:
        assert decision == replace(_decided(_later(scope), status=status), ends_hold=True)
    else:
        assert decision == Decision(outcome=Outcome.RETURNED, change=Change.POSTPONE, reason="answered 500")


# --- held ---


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"events": 50},
        {"held": TripKind.HELD, "others_passed_lately": True, "others_passed_between_holds": True},
        {"events": 2, "others_passed_lately": True, "others_passed_between_holds": True},
        {"others_passed_lately": True, "held_in_a_row": 10},
    ],
    ids=["the first", "a batch", "a probe of the hold", "a batch while others passed", "ten different ones in a row"],
)
@pytest.mark.parametrize(("scope", "outcome"), [(ROUTE, Outcome.RETURNED), ("lists", Outcome.WAITS)])
def test_a_wrong_set_up_holds_its_scope(known: dict[str, Any], scope: str, outcome: Outcome) -> None:
    """It is no event's fault: everything of that scope waits, uncounted."""
    decision = _decided(_held(scope), status=403, attempt=500, failing_since_ms=0, now_ms=HOURS_3_MS * 9, **known)
    assert decision == Decision(
        outcome=outcome, change=Change.HOLD, scope=scope, reason="403: forbidden", shows_route=scope != ROUTE
    )


@pytest.mark.parametrize(("held", "scope"), [(None, "send"), (TripKind.HELD, ROUTE)])
@pytest.mark.parametrize("status", [401, None])
def test_a_key_that_one_group_refuses_stops_that_group(held: TripKind | None, scope: str, status: int | None) -> None:
    """A 401 for one group of calls, while others are answered, holds that group; a route that is held stays it."""
    decision = _decided(_held(), status=status, held=held, group="send", is_groups_own=True)
    assert (decision.change, decision.scope) == (Change.HOLD, scope)
    assert decision.shows_route is (scope != ROUTE and status is not None)
    assert decision.outcome is (Outcome.RETURNED if scope == ROUTE else Outcome.WAITS)


def test_a_lone_culprit_holds_nobody() -> None:
    """A lone event with a hold's status, while others of its group passed lately, is set aside at once."""
    decision = _decided(_held("lists"), status=403, others_passed_lately=True, held_in_a_row=9)
    assert decision == Decision(outcome=Outcome.SET_ASIDE, reason="403: forbidden", after_s=0.5, counts=True)


def test_a_lone_culprit_is_given_up_in_the_end() -> None:
    """After twenty such answers over three hours, while others passed each time, it is dead."""
    known: dict[str, Any] = {"others_passed_lately": True, "attempt": 20, "failing_since_ms": 0}
    assert _decided(_held("lists"), status=403, now_ms=HOURS_3_MS - 1, **known).outcome is Outcome.SET_ASIDE
    assert _decided(_held("lists"), status=403, now_ms=HOURS_3_MS, **known) == Decision(
        outcome=Outcome.DEAD, reason="keeps failing: 403"
    )


@pytest.mark.parametrize(("scope", "outcome"), [(ROUTE, "the route"), ("lists", "lists calls")])
def test_the_tenth_hold_of_one_event_is_its_last(scope: str, outcome: str) -> None:
    """A lone event that began ten holds while others passed between is dead; before, others go first each time."""
    waits = []
    for holds in range(9):
        decision = _decided(_held(scope), status=403, others_passed_between_holds=True, holds=holds)
        assert (decision.outcome, decision.change, decision.scope) == (Outcome.SET_ASIDE, Change.HOLD, scope)
        assert (decision.holds, decision.counts) == (holds + 1, False)
        waits.append(decision.after_s)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    tenth = _decided(_held(scope), status=403, others_passed_between_holds=True, holds=9)
    assert tenth == Decision(outcome=Outcome.DEAD, reason=f"keeps holding {outcome}: 403")


def test_a_hold_without_an_answer_is_told_by_its_reason() -> None:
    """An answer that could not be read has no status."""
    tenth = _decided(_held(), status=None, others_passed_between_holds=True, holds=9)
    assert tenth.reason == "keeps holding the route: 403: forbidden"


@pytest.mark.parametrize(
    ("verdict", "attempt", "stopped", "is_held", "expected"),
    [
        (_later(EVENT), 1, None, False, {"after_s": 1.0}),
        (_later(), 4, None, False, {"after_s": 8.0}),
        (_later(EVENT, after_s=7.0), 1, None, False, {"after_s": 7.0}),
        (_held("lists"), 2, None, False, {"after_s": 2.0}),
        # What the destination asks of everybody is heeded whoever was told.
        (
            _later("lists", after_s=7.0),
            1,
            None,
            False,
            {"after_s": 7.0, "change": Change.BACK_OFF, "scope": "lists", "retry_after_s": 7.0, "shows_route": True},
        ),
        (
            _later(after_s=7.0),
            1,
            ROUTE,
            True,
            {"after_s": 7.0, "change": Change.BACK_OFF, "retry_after_s": 7.0},
        ),
        # It was the probe: the next one waits.
        (_later(), 1, "lists", False, {"after_s": 1.0, "change": Change.BACK_OFF, "scope": "lists"}),
        (_held(), 1, ROUTE, True, {"after_s": 1.0, "change": Change.POSTPONE}),
    ],
)
def test_a_replay_that_went_first_steps_aside(
    verdict: TryLater | Held, attempt: int, stopped: str | None, expected: dict[str, Any], *, is_held: bool
) -> None:
    """Whatever it met, nothing is held for it, or backed off that was not asked for, and nothing counts against it."""
    policy = OutcomePolicy(backoff=Backoff(), rng=lambda: 0.5)
    decision = policy.step_aside(verdict, attempt, stopped=stopped, is_held=is_held)
    assert decision == Decision(outcome=Outcome.SET_ASIDE, reason=verdict.reason, **expected)


_verdicts = st.one_of(
    st.just(Delivered()),
    st.just(Filtered(reason="f")),
    st.just(REFUSED),
    st.builds(
        _later,
        st.sampled_from([ROUTE, EVENT, "lists"]),
        after_s=st.none() | st.just(5.0),
        effect=st.sampled_from(Effect),
    ),
    st.builds(_held, st.sampled_from([ROUTE, "lists"])),
)
_cases = st.builds(
    Case,
    verdict=_verdicts,
    status=st.none() | st.sampled_from([200, 400, 403, 429, 500]),
    events=st.sampled_from([1, 1, 2, 100]),
    is_probe=st.booleans(),
    held=st.none() | st.sampled_from([TripKind.HELD, TripKind.REFUSALS]),
    failures=st.integers(0, 30),
    failed_alone=st.integers(0, 30),
    others_passed=st.booleans(),
    failing_in_a_row=st.integers(0, 5),
    group=st.sampled_from([ROUTE, "lists", "send"]),
    is_groups_own=st.booleans(),
    attempt=st.integers(1, 30),
    failing_since_ms=st.none() | st.integers(0, HOURS_3_MS * 2),
    holds=st.integers(0, 12),
    others_passed_between_holds=st.booleans(),
    others_passed_lately=st.booleans(),
    held_in_a_row=st.integers(0, 12),
    refused_in_a_row=st.integers(0, 12),
)


@settings(max_examples=500, deadline=None)
@given(case=_cases, dice=st.floats(0, 1, exclude_max=True))
def test_no_mistake_in_the_set_up_destroys_data(case: Case, dice: float) -> None:
    """Whatever is known: nothing but a refusal of a lone event, or long failure beside others, makes an event dead."""
    decision = OutcomePolicy(backoff=Backoff(), rng=lambda: dice).decide(case, now_ms=HOURS_3_MS * 2)
    assert 0 <= decision.after_s <= 300
    if case.events > 1:
        assert decision.outcome not in {Outcome.REFUSED, Outcome.DEAD}
    else:
        assert decision.outcome is not Outcome.SPLIT
    if case.held is not None and not isinstance(case.verdict, Delivered | Filtered | Refused | TryLater):
        assert decision.outcome in {Outcome.RETURNED, Outcome.WAITS}
    if decision.outcome is Outcome.DEAD:
        assert case.others_passed or case.others_passed_lately or case.others_passed_between_holds
        assert case.holds >= 9 or case.attempt >= 20
    if decision.outcome is Outcome.REFUSED:
        assert isinstance(case.verdict, Refused)
        assert case.held is not TripKind.REFUSALS
    assert (decision.outcome is Outcome.DONE) is isinstance(case.verdict, Delivered | Filtered)
