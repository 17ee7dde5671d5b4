"""How the limit of requests in flight feels its way."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.concurrency import ConcurrencyLimit


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
