"""The limiter of repeated warnings."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.telemetry.repeats import Repeats


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_every_line_is_either_said_or_counted(told: list[tuple[str, float]]) -> None:
    """Said lines and suppressed lines together are all lines, whatever comes when."""
    repeats: Repeats[str] = Repeats(said_max=3, window_s=10)
    now_s, said, counted = 0.0, 0, 0
    for key, later_s in told:
        now_s += later_s
        counted += sum(count for _, count in repeats.take_ended(now_s=now_s))
        said += repeats.may_say(key, now_s=now_s)
    counted += sum(count for _, count in repeats.take_all())
    assert said + counted == len(told)


def test_a_window_says_so_many_and_then_counts() -> None:
    """After the limit a key is silent until its window ends, and another key is not affected."""
    repeats: Repeats[str] = Repeats(said_max=2, window_s=10)
    assert [repeats.may_say("a", now_s=0) for _ in range(4)] == [True, True, False, False]
    assert repeats.may_say("b", now_s=0)
    assert repeats.take_ended(now_s=9.9) == []
    assert repeats.take_ended(now_s=10) == [("a", 2)]
    assert repeats.may_say("a", now_s=10)


def test_memory_is_bounded_by_the_number_of_keys() -> None:
    """Beyond the limit of keys new ones are said, not remembered."""
    repeats: Repeats[int] = Repeats(said_max=1, window_s=10, keys_max=2)
    assert all(repeats.may_say(key, now_s=0) for key in range(5))
    assert repeats.may_say(4, now_s=0)
    assert not repeats.may_say(0, now_s=0)
