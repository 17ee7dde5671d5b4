"""When requests may go and how many: waits after failures, the standing of one scope, the limit in flight."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.pacing import Backoff, CircuitBreaker, ConcurrencyLimit, TripKind


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (100_000, 300.0)]
)
def test_ceiling(failures: int, ceiling_s: float) -> None:
    """The ceiling doubles from one second up to five minutes, and no count overflows it."""
    assert Backoff().ceiling_s(failures) == ceiling_s


@settings(deadline=None, max_examples=100)
@given(failures=st.integers(min_value=1, max_value=10_000), chance=st.floats(0, 1, exclude_max=True))
def test_delay_is_within_the_ceiling(failures: int, chance: float) -> None:
    """A delay is the given part of the ceiling: full jitter."""
    backoff = Backoff()
    assert backoff.delay_s(failures, lambda: chance) == backoff.ceiling_s(failures) * chance


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


def test_a_request_that_starts_as_the_stop_begins_counts() -> None:
    """One that started in the very moment is of the time after: it doubles the wait, and its success ends it."""
    breaker = _breaker()
    breaker.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    again = breaker.back_off("500", after_s=None, started_s=1.0, now_s=1.0, now_ms=0)
    assert again is not None
    assert again.failures == 2
    assert breaker.close(started_s=1.0) == again


def test_a_probe_is_overdue_after_the_time_between_two() -> None:
    """Counted from when it might have gone; a closed breaker waits for none."""
    breaker = _breaker()
    assert (breaker.is_overdue(now_s=1_000.0), breaker.is_held) == (False, False)
    breaker.back_off("500", after_s=10.0, started_s=0.0, now_s=0.0, now_ms=0)
    assert [breaker.is_overdue(now_s=now_s) for now_s in (5.0, 40.0, 40.1)] == [False, False, True]
    assert not breaker.is_held
    breaker.hold("401", kind=TripKind.HELD, now_s=50.0, now_ms=0)
    assert breaker.is_held


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


def _answers(limit: ConcurrencyLimit, count: int, *, latency_s: float = 0.1, at_s: float = 0.0) -> None:
    for _ in range(count):
        limit.sent(in_flight=limit.limit, now_s=at_s)
        limit.succeeded(started_s=at_s, now_s=at_s + latency_s)


def test_doubles_a_round_until_the_first_decrease() -> None:
    """Each quick answer of a round that used the limit allows one more, up to the ceiling."""
    limit = ConcurrencyLimit(initial=8, floor=4, ceiling=32)
    _answers(limit, 8)
    assert limit.limit == 16
    _answers(limit, 17)
    assert limit.limit == 32
    assert "32 in 4..32" in repr(limit)


def test_grows_by_one_a_round_after_a_decrease() -> None:
    """Once load was felt, a full round of quick answers allows one more request."""
    limit = ConcurrencyLimit(initial=8, floor=1, ceiling=32)
    limit.failed(started_s=0.0, now_s=0.1)
    assert limit.limit == 4
    _answers(limit, 4, at_s=1.0)
    assert limit.limit == 4
    _answers(limit, 1, at_s=2.0)
    assert limit.limit == 5


def test_a_burst_of_answers_counts_whole() -> None:
    """All answers to a round that filled the limit count, though the slots empty one by one."""
    limit = ConcurrencyLimit(initial=8, floor=4, ceiling=32)
    for in_flight in range(1, 9):
        limit.sent(in_flight=in_flight, now_s=in_flight / 1000)
    for _ in range(8):
        limit.succeeded(started_s=0.001, now_s=0.05)
    assert limit.limit == 16


def test_unreached_limit_proves_nothing() -> None:
    """Answers to fewer requests than allowed do not raise the limit."""
    limit = ConcurrencyLimit(initial=4, floor=1, ceiling=32)
    limit.sent(in_flight=4, now_s=0.0)
    for _ in range(100):
        limit.sent(in_flight=3, now_s=1.0)
        limit.succeeded(started_s=1.0, now_s=1.1)
    assert limit.limit == 4


def test_failure_halves_once_per_round_trip() -> None:
    """Requests that were under way when the limit fell do not lower it again."""
    limit = ConcurrencyLimit(initial=16, floor=1, ceiling=32)
    for _ in range(16):
        limit.failed(started_s=1.0, now_s=2.0)
    assert limit.limit == 8
    limit.failed(started_s=2.5, now_s=3.0)
    assert limit.limit == 4


def test_what_is_usual_follows_slowly() -> None:
    """Twice the usual and a hiccup is not slow, a little more is; what is usual moves by a twentieth each time."""
    limit = ConcurrencyLimit(initial=20, floor=1, ceiling=20)
    limit.succeeded(started_s=10.0, now_s=10.1)
    limit.succeeded(started_s=20.0, now_s=20.2199)
    assert limit.limit == 20
    # Usual is now 0.1 + 0.05 * 0.12 = 0.106.
    limit.succeeded(started_s=30.0, now_s=30.2319)
    assert limit.limit == 20
    # And 0.106 + 0.05 * 0.126 = 0.1123: slow is what takes longer than 0.2446.
    limit.succeeded(started_s=40.0, now_s=40.245)
    assert limit.limit == 18


def test_a_request_that_starts_as_the_limit_falls_counts() -> None:
    """Only what was under way before the decrease says nothing about the lower limit."""
    limit = ConcurrencyLimit(initial=16, floor=1, ceiling=32)
    limit.failed(started_s=1.0, now_s=2.0)
    limit.failed(started_s=1.999, now_s=3.0)
    assert limit.limit == 8
    limit.failed(started_s=2.0, now_s=3.0)
    assert limit.limit == 4


def test_slowness_lowers_gently() -> None:
    """An answer far slower than usual is taken for load."""
    limit = ConcurrencyLimit(initial=20, floor=1, ceiling=20)
    _answers(limit, 10)
    limit.succeeded(started_s=5.0, now_s=6.0)
    assert limit.limit == 18


def test_never_below_the_floor() -> None:
    """However bad it gets, the floor stays."""
    limit = ConcurrencyLimit(initial=8, floor=4, ceiling=32)
    for second in range(10):
        limit.failed(started_s=second, now_s=second + 0.5)
    assert limit.limit == 4


def test_ceiling_wins_over_floor_and_start() -> None:
    """A user's maximum below the floor is respected."""
    assert ConcurrencyLimit(initial=8, floor=4, ceiling=2).limit == 2


@settings(deadline=None, max_examples=100)
@given(
    ceiling=st.integers(1, 64),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0.001, 40)), max_size=200),
)
def test_stays_within_bounds(ceiling: int, steps: list[tuple[bool, float]]) -> None:
    """No sequence of answers leads the limit out of its bounds."""
    limit = ConcurrencyLimit(initial=8, floor=1, ceiling=ceiling)
    now_s = 0.0
    for is_good, latency_s in steps:
        if is_good:
            limit.sent(in_flight=limit.limit, now_s=now_s)
            limit.succeeded(started_s=now_s, now_s=now_s + latency_s)
        else:
            limit.failed(started_s=now_s, now_s=now_s + latency_s)
        now_s += latency_s
        assert 1 <= limit.limit <= ceiling
