"""What a route remembers, to tell one bad event from a destination that is bad for all."""

from typing import Any

import pytest

from forwarder.delivery.flights import Flight, batch_of
from forwarder.delivery.history import EVENTS_MAX, History
from forwarder.delivery.pacing import TripKind
from forwarder.delivery.policy import EVENT, ROUTE, Case
from forwarder.model import (
    Answer,
    Attempt,
    Delivered,
    Delivery,
    Effect,
    Envelope,
    Held,
    Lease,
    Refused,
    RouteName,
    TryLater,
    Verdict,
)

LATER = TryLater(reason="answered 500", after_s=None, scope=EVENT, effect=Effect.ANSWERED)
HELD = Held(reason="403", scope="lists")
REFUSED = Refused(reason="400")


def _lease(sequence: int, **fields: Any) -> Lease:
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK, event_key=b"k" * 16, partition_key="", received_at_ms=0, payload=b"{}"
    )
    return Lease(sequence=sequence, **{"attempt": 1, "envelope": envelope, **fields})


def _flight(*sequences: int, **fields: Any) -> Flight:
    bodies = [Delivery(sequence=sequence, operation="track", body=b"{}") for sequence in sequences]
    return Flight(leases=tuple(_lease(sequence, **fields) for sequence in sequences), batch=batch_of(bodies))


def _observe(
    history: History,
    flight: Flight,
    verdict: Verdict,
    *,
    status: int | None = 500,
    group: str = ROUTE,
    held: TripKind | None = None,
    now_s: float = 0.0,
) -> Case:
    attempt = Attempt(at_ms=0, duration_ms=1, operation="x", status=status, outcome="", reason="", answer=b"")
    return history.observe(flight, Answer(verdict=verdict, attempt=attempt), group=group, held=held, now_s=now_s)


def _batches() -> History:
    return History(counts_refusals=True, forgives_lone_holds=False)


def _calls() -> History:
    return History(counts_refusals=False, forgives_lone_holds=True)


def test_what_is_known_of_an_answer() -> None:
    """A case carries the answer, the events' own record, and what stands over them."""
    flight = _flight(7, attempt=4, first_failed_at_ms=99, progress=b'{"holds":3}')
    flight.is_probe = True
    case = _observe(_batches(), flight, Held(reason="401", scope=ROUTE), status=401, held=TripKind.HELD)
    assert (case.status, case.events, case.attempt, case.failing_since_ms) == (401, 1, 4, 99)
    assert (case.is_probe, case.held, case.holds) == (True, TripKind.HELD, 3)


def test_ten_refusals_in_a_row() -> None:
    """Refusals of lone events are counted until something is accepted, and each event's only once."""
    history = _batches()
    assert [_observe(history, _flight(n), REFUSED).refused_in_a_row for n in range(1, 11)] == list(range(1, 11))
    assert history.take_refused() == list(range(1, 11))
    assert [history.together_max(_lease(n)) for n in (1, 10, 11)] == [1, 1, None]
    assert history.take_refused() == []
    assert [_observe(history, _flight(n), REFUSED).refused_in_a_row for n in range(1, 11)] == [0] * 10
    assert history.together_max(_lease(1)) == 1
    assert _observe(history, _flight(12), REFUSED).refused_in_a_row == 1


def test_the_row_of_refusals_outlives_a_restart() -> None:
    """It is news whenever it changed, and never twice; what is restored goes on, and its events travel alone."""
    history = _batches()
    assert history.news_of_refused() is None
    for number in (1, 2):
        _observe(history, _flight(number), REFUSED)
        assert history.news_of_refused() == list(range(1, number + 1))
        assert history.news_of_refused() is None
    restarted = _batches()
    restarted.restore_refused([1, 2])
    assert restarted.news_of_refused() is None
    assert restarted.together_max(_lease(2)) == 1
    assert _observe(restarted, _flight(3), REFUSED).refused_in_a_row == 3
    assert restarted.news_of_refused() == [1, 2, 3]
    _observe(restarted, _flight(4), Delivered())
    assert restarted.news_of_refused() == []
    assert restarted.news_of_refused() is None


def test_an_acceptance_ends_the_row() -> None:
    """Ten refusals with an acceptance between are ten bad events; an accepted event needs no chance more."""
    history = _batches()
    for number in range(9):
        _observe(history, _flight(number), REFUSED)
    _observe(history, _flight(100), Delivered())
    assert _observe(history, _flight(9), REFUSED).refused_in_a_row == 1
    (row,) = [history.take_refused()]
    assert row == [9]
    _observe(history, _flight(9), Delivered())
    assert history.together_max(_lease(9)) is None


def test_refused_events_are_remembered_within_bounds() -> None:
    """The memory of refusals has a limit; then an event is merely counted once more."""
    history = _batches()
    for number in range(EVENTS_MAX + 1):
        _observe(history, _flight(number), REFUSED)
    assert [history.together_max(_lease(n)) for n in (0, EVENTS_MAX)] == [None, 1]


def test_refusals_that_do_not_count() -> None:
    """A batch is not one event, a hold for refusals proves nothing, and calls are judged by themselves."""
    history = _batches()
    assert _observe(history, _flight(1, 2), REFUSED).refused_in_a_row == 0
    assert _observe(history, _flight(1), REFUSED, held=TripKind.REFUSALS).refused_in_a_row == 0
    assert _observe(history, _flight(1), REFUSED, held=TripKind.HELD).refused_in_a_row == 1
    assert _observe(_calls(), _flight(1), REFUSED).refused_in_a_row == 0


def test_suspects_travel_in_ever_smaller_company() -> None:
    """Each hold that they begin together halves the company, down to one; who passes is above suspicion."""
    history = _batches()
    history.began_hold(ROUTE, _flight(*range(100)))
    assert history.together_max(_lease(5)) == 50
    history.began_hold(ROUTE, _flight(5, 6, 7))
    assert repr(history.together_max(_lease(5))) == "1"
    history.began_hold(ROUTE, _flight(5))
    assert history.together_max(_lease(5)) == 1
    _observe(history, _flight(5), Delivered())
    assert history.together_max(_lease(5)) is None
    assert history.together_max(_lease(8)) == 50
    assert history.together_max(_lease(9, attempt=2)) == 1


def test_suspicion_is_bounded() -> None:
    """Suspicion of very many is dropped rather than kept without limit."""
    history = _batches()
    for start in range(0, EVENTS_MAX, 100):
        history.began_hold(ROUTE, _flight(*range(start, start + 100)))
    assert history.together_max(_lease(0)) == 50
    history.began_hold(ROUTE, _flight(*range(EVENTS_MAX, EVENTS_MAX + 100)))
    assert history.together_max(_lease(0)) is None
    assert history.together_max(_lease(EVENTS_MAX + 50)) == 50


def test_others_passed() -> None:
    """A failure counts when something of its group succeeded since the last one of the same request."""
    history = _batches()
    flight = _flight(1)
    first = _observe(history, flight, LATER)
    second = _observe(history, flight, LATER)
    _observe(history, _flight(2), Delivered())
    third = _observe(history, flight, LATER)
    assert [case.others_passed for case in (first, second, third)] == [True, False, True]
    assert [case.failures for case in (first, second, third)] == [0, 1, 2]
    assert (third.failed_alone, flight.failed_alone, flight.failures) == (0, 1, 3)
    _observe(history, _flight(3), Delivered())
    assert _observe(history, flight, LATER).others_passed


def test_a_replay_is_to_blame_when_what_arrives_passes() -> None:
    """What passes on the way of what arrives passed beside the replays, once each; a first failure blames nobody."""
    live = _calls()
    replays = History(counts_refusals=False, forgives_lone_holds=True, live=live)
    flight = _flight(1)
    _observe(live, _flight(9), Delivered(), group="lists", now_s=100.0)
    first = _observe(replays, flight, LATER, group="lists")
    second = _observe(replays, flight, LATER, group="lists")
    _observe(live, _flight(8), Delivered(), group="lists", now_s=150.0)
    third = _observe(replays, flight, LATER, group="lists")
    fourth = _observe(replays, flight, LATER, group="lists")
    assert [case.others_passed for case in (first, second, third, fourth)] == [True, False, True, False]
    assert [case.is_to_blame for case in (first, second, third, fourth)] == [False, False, True, False]
    _observe(live, _flight(7), Delivered(), group="lists", now_s=200.0)
    two = _flight(1, 2)
    two.failures, two.passes_seen = flight.failures, flight.passes_seen
    assert not _observe(replays, two, LATER, group="lists").is_to_blame
    assert not _observe(live, flight, LATER, group="lists").is_to_blame
    assert _observe(replays, _flight(3), HELD, group="lists", now_s=260.0).others_passed_lately
    assert not _observe(replays, _flight(3), HELD, group="lists", now_s=260.1).others_passed_lately


def test_what_passes_in_another_group_is_no_other() -> None:
    """That profiles pass does not bring an event nearer to its end which `/send` has no answer for."""
    history = _calls()
    flight = _flight(1)
    for group in ("send", "send", "lists"):
        _observe(history, flight, LATER, group=group)
        _observe(history, _flight(2), Delivered(), group="profiles")
    assert _observe(history, flight, LATER, group="lists").others_passed is False
    assert _observe(history, flight, LATER, group="send").others_passed  # its first there since
    _observe(history, _flight(3), Delivered(), group="send")
    assert _observe(history, flight, LATER, group="send").others_passed


def test_after_a_restart_others_must_have_passed() -> None:
    """The first failure since a start counts for an event that never failed, else only when others passed since."""
    history = _calls()
    assert _observe(history, _flight(1), LATER, group="send").others_passed
    assert not _observe(history, _flight(2, attempt=19), LATER, group="send").others_passed
    _observe(history, _flight(3), Delivered(), group="profiles")
    assert not _observe(history, _flight(4, attempt=19), LATER, group="send").others_passed
    _observe(history, _flight(5), Delivered(), group="send")
    assert _observe(history, _flight(6, attempt=19), LATER, group="send").others_passed


@pytest.mark.parametrize("trouble", [LATER, Held(reason="401", scope=ROUTE)], ids=["failures", "a hold's status"])
@pytest.mark.parametrize("answer", [Delivered(), REFUSED], ids=["a pass", "a refusal"])
def test_the_trouble_of_one_group(trouble: Verdict, answer: Verdict) -> None:
    """It is the group's own as soon as another one is answered after it began, until it is answered itself."""
    history = _calls()
    _observe(history, _flight(8), Delivered(), group="profiles")
    assert not _observe(history, _flight(1), trouble, group="send").is_groups_own
    assert not _observe(history, _flight(2), trouble, group="lists").is_groups_own
    _observe(history, _flight(9), answer, group="profiles")
    assert _observe(history, _flight(1), trouble, group="send").is_groups_own
    _observe(history, _flight(9), answer, group="send")
    assert not _observe(history, _flight(1), trouble, group="send").is_groups_own
    assert _observe(history, _flight(2), trouble, group="lists").is_groups_own
    limited = TryLater(reason="429", after_s=None, scope="lists", effect=Effect.NONE)
    assert not _observe(history, _flight(2), limited, group="lists").is_groups_own


def test_a_failure_is_recalled_when_the_event_comes_back() -> None:
    """What goes back to the spool is known again when it is leased again, until it passes."""
    history = _calls()
    flight = _flight(1)
    for _ in range(3):
        _observe(history, flight, LATER)
    history.set_aside(flight)
    again = _flight(1)
    history.restore(again)
    assert (again.failures, again.passes_seen) == (3, (ROUTE, 0))
    other = _flight(2)
    history.restore(other)
    assert (other.failures, other.passes_seen) == (0, None)
    _observe(history, again, Delivered())
    fresh = _flight(1)
    history.restore(fresh)
    assert fresh.failures == 0


def test_failures_are_bounded() -> None:
    """The memory of failures has a limit."""
    history = _calls()
    for sequence in range(EVENTS_MAX + 1):
        flight = _flight(sequence)
        _observe(history, flight, LATER)
        history.set_aside(flight)
    first, last = _flight(0), _flight(EVENTS_MAX)
    history.restore(first)
    history.restore(last)
    assert (first.failures, last.failures) == (0, 1)


def test_different_events_make_an_outage() -> None:
    """However often one event fails it is one; any other answer ends the row; trouble of all is not counted so."""
    history = _calls()
    assert [_observe(history, _flight(1), LATER).failing_in_a_row for _ in range(5)] == [1] * 5
    assert [_observe(history, _flight(n), LATER).failing_in_a_row for n in (2, 3, 4)] == [2, 3, 3]
    assert _observe(history, _flight(4), LATER, group="send").failing_in_a_row == 1
    _observe(history, _flight(9), Delivered(), group="send")
    assert _observe(history, _flight(5), LATER).failing_in_a_row == 3
    for verdict in (Delivered(), REFUSED):
        _observe(history, _flight(9), verdict)
        assert _observe(history, _flight(1), LATER).failing_in_a_row == 1
        assert _observe(history, _flight(2), LATER).failing_in_a_row == 2
    scoped = TryLater(reason="429", after_s=None, scope="lists", effect=Effect.NONE)
    assert _observe(history, _flight(3), scoped).failing_in_a_row == 2


def test_others_passed_between_holds() -> None:
    """A hold counts against an event when others of its group passed since the last hold over it began."""
    history = _calls()
    assert not _observe(history, _flight(1), HELD, group="lists").others_passed_between_holds
    history.began_hold("lists", _flight(1))
    assert not _observe(history, _flight(1), HELD, group="lists").others_passed_between_holds
    _observe(history, _flight(2), Delivered(), group="lists")
    assert _observe(history, _flight(1), HELD, group="lists").others_passed_between_holds
    assert not _observe(history, _flight(1), HELD, group="send").others_passed_between_holds


def test_what_passes_in_another_group_is_no_other_of_a_groups_hold() -> None:
    """Profiles that pass do not show that lists do: an event is no culprit while nothing of its group passed."""
    history = _calls()
    history.began_hold("lists", _flight(1))
    _observe(history, _flight(2), Delivered(), group="profiles")
    assert not _observe(history, _flight(1), HELD, group="lists").others_passed_between_holds
    _observe(history, _flight(3), Delivered(), group="lists")
    assert _observe(history, _flight(1), HELD, group="lists").others_passed_between_holds
    history.began_hold(ROUTE, _flight(1))
    _observe(history, _flight(4), Delivered(), group="profiles")
    unauthorised = Held(reason="401", scope=ROUTE)
    assert not _observe(history, _flight(1), unauthorised, group="lists").others_passed_between_holds
    assert _observe(history, _flight(1), unauthorised, group="profiles").others_passed_between_holds


def test_others_of_the_group_passed_within_the_last_minute() -> None:
    """Only calls of the same group count, and only for a minute; where batches go, none do."""
    history = _calls()
    assert not _observe(history, _flight(1), HELD, group="lists").others_passed_lately
    _observe(history, _flight(2), Delivered(), group="lists", now_s=100.0)
    for at_s, is_lately in ((100.0, True), (160.0, True), (160.1, False)):
        assert _observe(history, _flight(1), HELD, group="lists", now_s=at_s).others_passed_lately is is_lately
    assert not _observe(history, _flight(1), HELD, group="send", now_s=100.0).others_passed_lately
    batches = _batches()
    _observe(batches, _flight(2), Delivered())
    assert not _observe(batches, _flight(1), Held(reason="403", scope=ROUTE)).others_passed_lately


def test_different_events_that_are_held_in_a_row() -> None:
    """The same event counts once; an acceptance in the group ends the row; no more than needed is kept."""
    history = _calls()
    assert [_observe(history, _flight(n), HELD, group="lists").held_in_a_row for n in (1, 1, 2)] == [1, 1, 2]
    assert _observe(history, _flight(3), HELD, group="send").held_in_a_row == 1
    _observe(history, _flight(4), Delivered(), group="lists")
    row = [_observe(history, _flight(n), HELD, group="lists").held_in_a_row for n in range(20)]
    assert row == [*range(1, 11), *[10] * 10]


def test_an_events_failures_grow_with_each_hold() -> None:
    """An event that is set aside for a hold's status waits longer each time."""
    history = _calls()
    flight = _flight(1)
    assert [_observe(history, flight, HELD, group="lists").failures for _ in range(3)] == [0, 1, 2]
