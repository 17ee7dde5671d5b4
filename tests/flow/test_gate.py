"""The standing of one scope."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.flow.backoff import Backoff
from forwarder.flow.gate import Gate, StopKind


def _gate() -> Gate:
    return Gate(backoff=Backoff(), rng=lambda: 0.5, probe_every_s=30.0)


def test_open() -> None:
    """An open gate lets everything through and has nothing to end."""
    gate = _gate()
    assert gate.is_open
    assert gate.admits(now_s=0, in_flight=10)
    assert gate.release(started_s=0) is None
    gate.postpone(now_s=0)
    assert repr(gate) == "Gate(open)"


def test_backing_off_doubles_and_ends() -> None:
    """Each probe that fails doubles the wait; one that succeeds opens the gate."""
    gate = _gate()
    first = gate.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert first is not None
    assert first.retry_at_s == 1.5
    assert not gate.admits(now_s=1.4, in_flight=0)
    assert gate.admits(now_s=1.5, in_flight=0)
    assert not gate.admits(now_s=1.5, in_flight=1)
    second = gate.back_off("500", after_s=None, started_s=1.5, now_s=2.0, now_ms=9)
    assert second is not None
    assert (second.retry_at_s, second.since_ms, second.failures) == (3.0, 0, 2)
    assert gate.release(started_s=3.0) == second
    assert gate.is_open


def test_requests_under_way_do_not_count_twice() -> None:
    """What was in flight when the stop began neither doubles the wait nor ends it."""
    gate = _gate()
    gate.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert gate.back_off("500", after_s=None, started_s=0.5, now_s=1.2, now_ms=0) is None
    assert gate.stop is not None
    assert gate.stop.failures == 1
    assert gate.release(started_s=0.5) is None
    assert gate.back_off("429", after_s=60.0, started_s=0.5, now_s=1.2, now_ms=0) is None
    assert gate.stop.retry_at_s == 61.2


def test_hold_begins_once_and_probes() -> None:
    """A hold is told of once; each failed probe only puts the next one off."""
    gate = _gate()
    began = gate.hold("401", kind=StopKind.HELD, now_s=1.0, now_ms=7)
    assert began is not None
    assert gate.is_held
    assert gate.hold("403", kind=StopKind.HELD, now_s=31.0, now_ms=8) is None
    assert gate.stop is not None
    assert (gate.stop.reason, gate.stop.since_ms, gate.stop.retry_at_s) == ("403", 7, 61.0)
    gate.postpone(now_s=70.0)
    assert gate.stop.retry_at_s == 100.0
    assert repr(gate) == "Gate(held)"


def test_hold_replaces_a_backoff_and_keeps_its_own_kind() -> None:
    """A hold for refusals stays one, whatever a probe meets meanwhile."""
    gate = _gate()
    gate.back_off("500", after_s=None, started_s=0.0, now_s=1.0, now_ms=0)
    assert gate.hold("ten refusals", kind=StopKind.REFUSALS, now_s=2.0, now_ms=5) is not None
    gate.hold("401", kind=StopKind.HELD, now_s=3.0, now_ms=6)
    assert gate.stop is not None
    assert gate.stop.kind is StopKind.REFUSALS
    assert gate.back_off("500", after_s=None, started_s=5.0, now_s=5.0, now_ms=0) is None
    assert gate.is_held


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.sampled_from(["later", "hold", "refusals", "answer", "postpone"]), max_size=40))
def test_a_stop_lets_one_through_at_a_time(steps: list[str]) -> None:
    """Whatever happens, a stopped gate admits nothing beside a request in flight, and one in the end."""
    gate = _gate()
    now_s = 0.0
    for step in steps:
        now_s += 1.0
        match step:
            case "later":
                gate.back_off("500", after_s=None, started_s=now_s, now_s=now_s, now_ms=0)
            case "hold":
                gate.hold("401", kind=StopKind.HELD, now_s=now_s, now_ms=0)
            case "refusals":
                gate.hold("ten", kind=StopKind.REFUSALS, now_s=now_s, now_ms=0)
            case "answer":
                gate.release(started_s=now_s)
                assert gate.is_open
            case _:
                gate.postpone(now_s=now_s)
        assert gate.is_open or not gate.admits(now_s=now_s + 1e6, in_flight=1)
        assert gate.admits(now_s=now_s + 301.0, in_flight=0)
