"""One event and its plan as a flight: which call is next, what an answer does to it, how the event ends."""

from typing import Any

import pytest

from forwarder.delivery.call_flights import CallFlight, kept_plan, planned
from forwarder.delivery.plan import Fate, Plan, new_plan
from forwarder.delivery.policy import Change, Decision, Outcome
from forwarder.model import (
    Answer,
    Attempt,
    Delivered,
    Delivery,
    Effect,
    Envelope,
    Filtered,
    Held,
    Lease,
    Refused,
    Replay,
    RouteName,
    Settled,
    State,
    TryLater,
    Verdict,
)

ATTEMPT = Attempt(at_ms=0, duration_ms=1, operation="x", status=500, outcome="", reason="", answer=b"")
LATER = TryLater(reason="500", after_s=None, scope="event", effect=Effect.ANSWERED)
DONE = Decision(outcome=Outcome.DONE)


def _lease(progress: bytes = b"", **fields: Any) -> Lease:
    envelope = Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER, event_key=b"k" * 16, partition_key="u", received_at_ms=0, payload=b"{}"
    )
    return Lease(sequence=7, attempt=1, envelope=envelope, progress=progress, **fields)


def _deliveries(*operations: str) -> tuple[Delivery, ...]:
    return tuple(
        Delivery(sequence=7, operation=operation, body=b"{}", group=operation.split("/")[1]) for operation in operations
    )


def _flight(*operations: str) -> CallFlight:
    return CallFlight(leases=(_lease(),), plan=new_plan(_deliveries(*operations)))


def _end(flight: CallFlight, verdict: Verdict, decision: Decision = DONE) -> bool:
    return flight.end(decision, Answer(verdict=verdict, attempt=ATTEMPT))


def test_calls_go_one_after_the_other() -> None:
    """Each call is one request of its group; the flight is through when all are made."""
    flight = _flight("POST /profiles/u", "POST /send")
    assert (flight.group, flight.is_through) == ("profiles", False)
    batch = flight.begin()
    assert [delivery.operation for delivery in batch.deliveries] == ["POST /profiles/u"]
    assert (flight.batch, batch.size_bytes) == (batch, 2)
    assert batch.deliveries[0].idempotency_key
    assert _end(flight, Delivered())
    assert flight.group == "send"
    assert flight.begin().deliveries[0].operation == "POST /send"
    assert not _end(flight, Delivered())
    assert (flight.group, flight.is_through) == ("send", True)


def test_the_plan_is_on_disk_before_the_first_call() -> None:
    """It must be kept once, marked as under way; while the event waits it is kept as not under way."""
    flight = _flight("POST /send")
    kept = flight.unkept()
    assert kept is not None
    assert b'"is_under_way":true' in kept
    assert flight.unkept() is None
    waiting = flight.progress()
    assert waiting is not None
    assert b"is_under_way" not in waiting
    assert flight.unkept() is not None


def test_what_was_never_sent_is_planned_anew() -> None:
    """An event that goes back before its first call leaves no plan behind; one on a retry leaves the one it had."""
    flight = _flight("POST /send")
    assert flight.unsent() is None
    flight.unkept()
    assert flight.unsent() == b""
    _end(flight, LATER)
    flight.progress()
    assert flight.unsent() is None
    old = new_plan(_deliveries("POST /send")).encoded()
    retried = CallFlight(leases=(_lease(old),), plan=new_plan(_deliveries("POST /send")))
    retried.unkept()
    assert retried.unsent() == old


def test_a_replay_that_was_never_sent_keeps_what_was_asked() -> None:
    """Once its plan is noted the spool no longer knows that everything was asked for: the plan does."""
    old = new_plan(_deliveries("POST /send"))
    old.calls[0].close(Fate.DONE)
    lease = _lease(old.encoded(), replay=Replay.EVERYTHING)
    flight = CallFlight(leases=(lease,), plan=planned(lease, _deliveries("POST /send")))
    flight.unkept()
    kept = flight.unsent()
    assert kept is not None
    again = kept_plan(_lease(kept))
    assert again is not None
    assert [(call.fate, call.suffix) for call in again.calls] == [(Fate.OPEN, 1)]


@pytest.mark.parametrize(
    ("verdict", "fate", "reason", "words"),
    [
        (Delivered(), Fate.DONE, "", ""),
        (Filtered(reason="f"), Fate.FILTERED, "f", ""),
        (Refused(reason="r", words="w"), Fate.REFUSED, "r", "w"),
    ],
)
def test_what_became_of_a_call(verdict: Verdict, fate: Fate, reason: str, words: str) -> None:
    """A call that was answered for good is closed, and the next one follows."""
    flight = _flight("POST /send", "POST /lists/l")
    assert _end(flight, verdict)
    call = flight.plan.calls[0]
    assert (call.fate, call.body, call.reason, call.words) == (fate, b"", reason, words)


@pytest.mark.parametrize(
    ("verdict", "suffix", "is_unknown"),
    [
        (LATER, 1, False),
        (TryLater(reason="t", after_s=None, scope="event", effect=Effect.UNKNOWN), 0, True),
        (Held(reason="403", scope="send"), 0, False),
        (Held(reason="unreadable", scope="send", effect=Effect.UNKNOWN), 0, True),
    ],
)
def test_an_unsuccessful_call_stays_open(verdict: Verdict, suffix: int, *, is_unknown: bool) -> None:
    """Its key follows from what it may have done; no other call is made."""
    flight = _flight("POST /send", "POST /lists/l")
    assert not _end(flight, verdict, Decision(outcome=Outcome.SET_ASIDE))
    call = flight.plan.calls[0]
    assert (call.fate, call.suffix, call.is_unknown) == (Fate.OPEN, suffix, is_unknown)


def test_holds_are_kept_with_the_plan() -> None:
    """How many holds the event began is part of its plan; other decisions leave it."""
    flight = _flight("POST /send")
    held = Held(reason="403", scope="send")
    _end(flight, held, Decision(outcome=Outcome.SET_ASIDE, change=Change.HOLD, holds=3))
    assert flight.holds == flight.plan.holds == 3
    _end(flight, held, Decision(outcome=Outcome.WAITS))
    assert flight.holds == 3


def test_how_an_event_ends() -> None:
    """Given up, refused, filtered or delivered; the plan is over, and words of Courier's are not for the log."""
    given_up = _flight("POST /send")
    assert given_up.ending(Decision(outcome=Outcome.DEAD, reason="keeps failing: 500"), LATER, ATTEMPT) == (
        [Settled([7], State.DEAD, "keeps failing: 500", ATTEMPT)],
        "keeps failing: 500",
    )
    assert given_up.plan.is_over
    refused = _flight("POST /profiles/u", "POST /send", "POST /lists/l")
    for verdict in (Delivered(), Refused(reason="404: no such template", words="t1"), Delivered()):
        _end(refused, verdict)
    assert refused.ending(DONE, Delivered(), ATTEMPT) == (
        [Settled([7], State.DEAD, "404: no such template: t1; done: lists, profiles", ATTEMPT)],
        "404: no such template",
    )
    plain = _flight("POST /send")
    _end(plain, Refused(reason="400"))
    assert plain.ending(DONE, Refused(reason="400"), None) == ([Settled([7], State.DEAD, "400", None)], "400")
    filtered = _flight("POST /journeys/j")
    _end(filtered, Filtered(reason="422"))
    assert filtered.ending(DONE, None, ATTEMPT) == ([Settled([7], State.FILTERED, "422", ATTEMPT)], "")
    done = _flight("POST /send")
    _end(done, Delivered())
    assert done.ending(DONE, Delivered(), ATTEMPT) == ([Settled([7], State.DELIVERED, "", ATTEMPT)], "")


def test_a_kept_plan_is_carried_on() -> None:
    """A plan that is not over is; one that is, or that is replayed, or cannot be read, is made anew."""
    plan = new_plan(_deliveries("POST /send"))
    assert kept_plan(_lease()) is None
    kept = kept_plan(_lease(plan.encoded()))
    assert kept is not None
    assert kept.calls[0].operation == "POST /send"
    assert kept_plan(_lease(plan.encoded(), replay=Replay.REST)) is None
    over = Plan(calls=plan.calls, is_over=True)
    assert kept_plan(_lease(over.encoded())) is None


def test_a_replay_is_planned_anew() -> None:
    """What was done stays done unless everything is asked for."""
    old = new_plan(_deliveries("POST /send", "POST /lists/l"))
    old.calls[0].close(Fate.DONE)
    deliveries = _deliveries("POST /send", "POST /lists/l")
    rest = planned(_lease(old.encoded(), replay=Replay.REST), deliveries)
    assert [call.fate for call in rest.calls] == [Fate.DONE, Fate.OPEN]
    everything = planned(_lease(old.encoded(), replay=Replay.EVERYTHING), deliveries)
    assert [call.fate for call in everything.calls] == [Fate.OPEN, Fate.OPEN]
    assert [call.fate for call in planned(_lease(), deliveries).calls] == [Fate.OPEN, Fate.OPEN]
