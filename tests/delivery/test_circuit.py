"""The standing of one scope."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.circuit import Backoff, CircuitBreaker, TripKind


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(backoff=Backoff(), rng=lambda: 0.5, probe_every_s=30.0)


def test_closed() -> None:
    """A closed breaker lets everything through and has nothing to end."""
    breaker = _breaker()
    assert breaker.is_closed
    assert breaker.admits(now_s=0, in_flight=10)
    assert breaker.close(started_s=0) is None
    breaker.postpone(now_s=0)
    assert repr(breaker) == "CircuitBreaker(closed)"


def test_backing_off_doubles_and_ends() -> None:
    """Each probe that fails doubles the wait; one that succeeds opens the breaker."""
    breaker = _breaker()
    first = breaker.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert first is not None
    assert first.retry_at_s == 1.5
    assert not breaker.admits(now_s=1.4, in_flight=0)
    assert breaker.admits(now_s=1.5, in_flight=0)
    assert not breaker.admits(now_s=1.5, in_flight=1)
    second = breaker.back_off("500", after_s=None, started_s=1.5, now_s=2.0, now_ms=9)
    assert second is not None
    assert (second.retry_at_s, second.since_ms, second.failures) == (3.0, 0, 2)
    assert breaker.close(started_s=3.0) == second
    assert breaker.is_closed


def test_requests_under_way_do_not_count_twice() -> None:
    """What was in flight when the stop began neither doubles the wait nor ends it."""
    breaker = _breaker()
    breaker.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert breaker.back_off("500", after_s=None, started_s=0.5, now_s=1.2, now_ms=0) is None
    assert breaker.trip is not None
    assert breaker.trip.failures == 1
    assert breaker.close(started_s=0.5) is None
    assert breaker.back_off("429", after_s=60.0, started_s=0.5, now_s=1.2, now_ms=0) is None
    assert breaker.trip.retry_at_s == 61.2


def test_hold_begins_once_and_probes() -> None:
    """A hold is told of once; each failed probe only puts the next one off."""
    breaker = _breaker()
    began = breaker.hold("401", kind=TripKind.HELD, now_s=1.0, now_ms=7)
    assert began is not None
    assert breaker.is_held
    assert breaker.hold("403", kind=TripKind.HELD, now_s=31.0, now_ms=8) is None
    assert breaker.trip is not None
    assert (breaker.trip.reason, breaker.trip.since_ms, breaker.trip.retry_at_s) == ("403", 7, 61.0)
    assert (breaker.trip.since_s, breaker.trip.renewed_s) == (1.0, 1.0)
    assert breaker.close(started_s=0.9) is None
    breaker.postpone(now_s=70.0)
    assert breaker.trip.retry_at_s == 100.0
    assert repr(breaker) == "CircuitBreaker(held)"


def test_hold_replaces_a_backoff_and_keeps_its_own_kind() -> None:
    """A hold for refusals stays one, whatever a probe meets meanwhile."""
    breaker = _breaker()
    breaker.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert breaker.hold("ten refusals", kind=TripKind.REFUSALS, now_s=2.0, now_ms=5) is not None
    breaker.hold("401", kind=TripKind.HELD, now_s=3.0, now_ms=6)
    assert breaker.trip is not None
    assert breaker.trip.kind is TripKind.REFUSALS
    assert breaker.back_off("500", after_s=None, started_s=5.0, now_s=5.0, now_ms=0) is None
    assert breaker.is_held


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.sampled_from(["later", "hold", "refusals", "answer", "postpone"]), max_size=40))
def test_a_stop_lets_one_through_at_a_time(steps: list[str]) -> None:
    """Whatever happens, a tripped breaker admits nothing beside a request in flight, and one in the end."""
    breaker = _breaker()
    now_s = 0.0
    for step in steps:
        now_s += 1.0
        match step:
            case "later":
                breaker.back_off("500", after_s=None, started_s=now_s, now_s=now_s, now_ms=0)
            case "hold":
                breaker.hold("401", kind=TripKind.HELD, now_s=now_s, now_ms=0)
            case "refusals":
                breaker.hold("ten", kind=TripKind.REFUSALS, now_s=now_s, now_ms=0)
            case "answer":
                breaker.close(started_s=now_s)
                assert breaker.is_closed
            case _:
                breaker.postpone(now_s=now_s)
        assert breaker.is_closed or not breaker.admits(now_s=now_s + 1e6, in_flight=1)
        assert breaker.admits(now_s=now_s + 301.0, in_flight=0)
