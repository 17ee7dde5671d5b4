"""Telling one bad event from a destination that is bad for all."""

import pytest

from forwarder.flow.poison import HoldSuspects, RefusalStreak, is_hopeless, read_progress
from forwarder.flow.setbacks import Setbacks
from forwarder.model import Envelope, Lease, RouteName

HOURS_3_MS = 3 * 3_600_000


def _lease(*, attempt: int = 1, first_failed_at_ms: int | None = None, progress: bytes = b"") -> Lease:
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK, event_key=b"k" * 16, partition_key="", received_at_ms=0, payload=b"{}"
    )
    return Lease(
        sequence=1, attempt=attempt, first_failed_at_ms=first_failed_at_ms, progress=progress, envelope=envelope
    )


def test_ten_in_a_row() -> None:
    """The tenth refusal in a row returns all ten, which then have one more chance that counts no more."""
    streak = RefusalStreak()
    assert [streak.refused(n) for n in range(9)] == [()] * 9
    assert streak.refused(9) == tuple(range(10))
    assert all(streak.has_second_chance(n) for n in range(10))
    assert all(streak.refused(n) == () for n in range(10))
    assert not any(streak.has_second_chance(n) for n in range(10))


def test_acceptance_ends_the_row() -> None:
    """Ten refusals with an acceptance between are ten bad events."""
    streak = RefusalStreak()
    for n in range(9):
        streak.refused(n)
    streak.accepted([100])
    assert streak.refused(9) == ()
    streak.pardon(50)
    streak.accepted([50])
    assert not streak.has_second_chance(50)


def test_suspects_travel_in_ever_smaller_company() -> None:
    """Each hold that they begin together halves the company, down to one."""
    suspects = HoldSuspects()
    suspects.accuse(tuple(range(100)))
    assert suspects.company_max(5) == 50
    suspects.accuse((5,))
    assert suspects.company_max(5) == 1
    suspects.clear([5])
    assert suspects.company_max(5) is None


def test_suspects_are_bounded() -> None:
    """Suspicion of very many is dropped rather than kept without limit."""
    suspects = HoldSuspects()
    for start in range(0, 10_001, 100):
        suspects.accuse(tuple(range(start, start + 100)))
    assert suspects.company_max(0) is None
    assert suspects.company_max(10_050) == 50


@pytest.mark.parametrize(
    ("attempt", "first_failed_at_ms", "is_it"),
    [(20, 0, True), (19, 0, False), (20, 1, False), (500, 1, False), (20, None, False)],
)
def test_hopeless(attempt: int, first_failed_at_ms: int | None, *, is_it: bool) -> None:
    """Twenty failures and three hours, both, and not a millisecond less."""
    lease = _lease(attempt=attempt, first_failed_at_ms=first_failed_at_ms)
    assert is_hopeless(lease, now_ms=HOURS_3_MS) is is_it


@pytest.mark.parametrize(("progress", "holds"), [(b"", 0), (b"{}", 0), (b'{"holds":3}', 3), (b"[", 0), (b"[1]", 0)])
def test_progress(progress: bytes, holds: int) -> None:
    """What cannot be read counts as nothing."""
    assert read_progress(_lease(progress=progress)).holds == holds


def test_one_failing_event_is_no_outage() -> None:
    """However often one event fails, it takes different ones to make an outage."""
    setbacks = Setbacks()
    assert not any(setbacks.failed(1).is_outage for _ in range(50))
    assert not setbacks.failed(2).is_outage
    assert setbacks.failed(3).is_outage
    setbacks.passed(9)
    assert not setbacks.failed(1).is_outage


def test_others_passed() -> None:
    """A failure counts when something succeeded since the last one of the same event."""
    setbacks = Setbacks()
    assert setbacks.failed(1).others_passed
    assert not setbacks.failed(1).others_passed
    setbacks.passed(2)
    third = setbacks.failed(1)
    assert (third.others_passed, third.failures) == (True, 3)
    setbacks.passed(1)
    assert setbacks.failed(1).failures == 1


def test_setbacks_are_bounded() -> None:
    """The memory of failures has a limit."""
    setbacks = Setbacks()
    for sequence in range(10_001):
        setbacks.failed(sequence)
    assert setbacks.failed(0).failures == 1


def test_holds_of_a_scope() -> None:
    """A hold counts against an event when others passed since the last hold of that scope."""
    setbacks = Setbacks()
    assert not setbacks.began_hold("lists")
    assert not setbacks.began_hold("lists")
    setbacks.passed(1)
    assert setbacks.began_hold("lists")
    assert not setbacks.began_hold("route")
