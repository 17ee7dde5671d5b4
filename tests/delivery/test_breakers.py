"""The breakers of a route and its groups: what changes when, and who may ask whether a held group goes again."""

from dataclasses import replace
from typing import Any

import pytest

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.pacing import PROBE_EVERY_S, Backoff, CircuitBreaker, TripKind
from forwarder.delivery.policy import ROUTE, Change, Decision, Outcome
from forwarder.model import RouteName
from stand_ins.clock import HandClock


class Bench:
    """Breakers with their clock and what they told."""

    def __init__(self, reporter: Any, *, dice: float = 0.5, live: "Bench | None" = None) -> None:
        self.clock: HandClock = live.clock if live else HandClock(100_000)
        self.reporter = reporter
        self.breakers: Breakers = Breakers(
            route=RouteName.RUDDERSTACK_TO_COURIER,
            make=lambda: CircuitBreaker(backoff=Backoff(), rng=lambda: dice),
            reporter=reporter,
            clock=self.clock,
            rng=lambda: dice,
            live=live.breakers if live else None,
        )

    def apply(
        self,
        change: Change,
        *,
        scope: str = ROUTE,
        outcome: Outcome = Outcome.WAITS,
        group: str = ROUTE,
        sequence: int = 1,
        status: int | None = 500,
        started_s: float | None = None,
        **fields: Any,
    ) -> bool:
        """Apply a decision."""
        decision = Decision(outcome=outcome, change=change, scope=scope, reason="why", **fields)
        started_s = self.clock.now_s if started_s is None else started_s
        return self.breakers.apply(decision, group=group, sequence=sequence, status=status, started_s=started_s)

    def hold(self, sequence: int = 1, scope: str = "lists") -> bool:
        """Hold a group for the answer to this event."""
        return self.apply(Change.HOLD, scope=scope, group=scope, sequence=sequence, status=403)


def test_nothing_stands_in_the_way_of_an_unknown_group(make_reporter: Any) -> None:
    """A group is admitted until something happens to it; the route's own scope is asked elsewhere."""
    bench = Bench(make_reporter(None))
    assert bench.breakers.admits("lists", 1)
    assert bench.breakers.admits(ROUTE, 1)
    assert bench.breakers.stops() == []
    assert bench.breakers.held(ROUTE, "lists") is None


def test_a_limit_stops_its_group_alone(make_reporter: Any) -> None:
    """A group waits as long as it was asked to; then one call at a time goes, and an answer closes it."""
    bench = Bench(make_reporter(None))
    bench.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=7.0)
    assert [(stop.scope, stop.state) for stop in bench.breakers.stops()] == [("lists", "backing_off")]
    assert bench.breakers.route.is_closed
    assert not bench.breakers.admits("lists", 1)
    assert bench.breakers.admits("send", 1)
    bench.clock.now_s += 7.0
    assert bench.breakers.admits("lists", 1)
    bench.breakers.sent("lists")
    assert not bench.breakers.admits("lists", 2)
    bench.breakers.answered("lists")
    assert bench.breakers.admits("lists", 2)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    assert bench.breakers.stops() == []
    assert bench.reporter.lines == [
        {
            "event": "route.backing_off",
            "route": "rudderstack_to_courier",
            "scope": "lists",
            "reason": "why",
            "after_s": 7.0,
        }
    ]


def test_calls_under_way_of_a_group_are_counted(make_reporter: Any) -> None:
    """A group that stands still is probed when none of its calls is under way, however many were."""
    bench = Bench(make_reporter(None))
    for _ in range(2):
        bench.breakers.sent("lists")
    bench.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=1.0)
    bench.clock.now_s += 1
    for admits in (False, True):
        bench.breakers.answered("lists")
        assert bench.breakers.admits("lists", 1) is admits


def test_a_request_from_before_a_standstill_changes_little(make_reporter: Any) -> None:
    """It neither sets the timer of a backoff anew, nor is told, nor closes it."""
    bench = Bench(make_reporter(None))
    bench.apply(Change.BACK_OFF)
    bench.clock.now_s += 0.1
    bench.apply(Change.BACK_OFF, started_s=99.0)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, started_s=99.0)
    trip = bench.breakers.route.trip
    assert trip is not None
    assert (trip.failures, trip.retry_at_s, trip.reason, trip.since_ms) == (1, 100.5, "why", 100_000)
    assert [line["after_s"] for line in bench.reporter.lines] == [0.5]
    bench.apply(Change.CLOSE, outcome=Outcome.DONE)
    assert bench.breakers.route.is_closed


@pytest.mark.parametrize("shows_route", [True, False])
def test_an_answer_of_a_group_may_show_that_the_route_is_there(make_reporter: Any, *, shows_route: bool) -> None:
    """A standstill of one group ends the route's own one when its answer was said to show that."""
    for change in (Change.BACK_OFF, Change.HOLD):
        bench = Bench(make_reporter(None))
        bench.apply(Change.BACK_OFF)
        assert not bench.breakers.route.is_closed
        bench.apply(change, scope="lists", group="lists", shows_route=shows_route)
        assert bench.breakers.route.is_closed is shows_route
        assert [stop.scope for stop in bench.breakers.stops()] == ["lists"]


def test_what_waits_is_spread(make_reporter: Any) -> None:
    """Events that wait come back a little apart, so that they are not all sent away again; bounded by half a minute."""
    bench = Bench(make_reporter(None), dice=0.999)
    bench.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=10.0)
    waits = [bench.breakers.park_s("lists", number) for number in range(8_000)]
    assert 10.0 < waits[0] < 10.1
    assert 11.0 < waits[300] < 12.0
    assert 39.0 < max(waits) < 41.0
    bench.clock.now_s += 20.0
    assert bench.breakers.park_s("lists", 1) < 31.0
    assert 0 < bench.breakers.park_s("send", 1) < 0.1
    bench.clock.now_s += 300
    bench.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=10.0)
    assert bench.breakers.park_s("lists", 1) == pytest.approx(10.001 + 0.005 * 0.999)
    bench.hold()
    assert bench.breakers.park_s("lists", 1) == pytest.approx(1.001 + 0.005 * 0.999)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    assert bench.breakers.park_s("lists", 1) == pytest.approx(0.001 + 0.005 * 0.999)


def test_a_hold_of_a_group_is_told_of_once(make_reporter: Any) -> None:
    """A hold begins once, however many answers say so, and its end is told with its length."""
    bench = Bench(make_reporter(None))
    assert bench.hold()
    assert not bench.hold(2)
    assert bench.breakers.held(ROUTE, "lists") is TripKind.HELD
    assert bench.breakers.held(ROUTE) is None
    bench.clock.now_s += 5
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    assert bench.breakers.held("lists") is None
    held = {"event": "route.held", "route": "rudderstack_to_courier", "scope": "lists", "reason": "why", "status": 403}
    ended = {"event": "route.hold_ended", "route": "rudderstack_to_courier", "scope": "lists", "held_s": 5}
    assert bench.reporter.lines == [held, ended]
    assert not bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")


def test_an_acceptance_beside_it_ends_a_groups_hold(make_reporter: Any) -> None:
    """A call that was under way when the hold began, and is accepted, shows that one event is to blame."""
    bench = Bench(make_reporter(None))
    bench.hold()
    bench.apply(Change.CLOSE, outcome=Outcome.REFUSED, group="lists", started_s=99.0)
    assert bench.breakers.held("lists") is TripKind.HELD
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists", started_s=99.0)
    assert bench.breakers.held("lists") is None


def test_an_acceptance_from_before_a_limit_does_not_lift_it(make_reporter: Any) -> None:
    """A call that was under way when its group was limited says nothing of it: the group waits as it was asked to."""
    bench = Bench(make_reporter(None))
    bench.apply(Change.BACK_OFF, scope="lists", group="lists", status=429, retry_after_s=60.0)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists", started_s=99.0)
    assert not bench.breakers.admits("lists", 1)
    bench.clock.now_s += 60
    assert bench.breakers.admits("lists", 1)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    assert bench.breakers.stops() == []


def test_nobody_waits_in_a_hold_for_who_came_too_late_for_the_last(make_reporter: Any) -> None:
    """An event whose group went again before it was parked may be gone: a later hold is probed without it."""
    bench = Bench(make_reporter(None))
    bench.breakers.park_s("lists", 9)
    bench.hold(1)
    bench.breakers.park_s("lists", 1)
    bench.clock.now_s += 30
    assert bench.breakers.admits("lists", 1)


def test_different_users_probe_a_hold_in_turn(make_reporter: Any) -> None:
    """Who was answered with the hold's status does not ask again while another one waits; then all may once more."""
    bench = Bench(make_reporter(None))
    bench.hold(1)
    for sequence in (1, 2, 3):
        bench.breakers.park_s("lists", sequence)
    for prober in (2, 3):
        bench.clock.now_s += 30
        assert not bench.breakers.admits("lists", 1)
        assert bench.breakers.admits("lists", prober)
        bench.hold(prober)
        bench.breakers.park_s("lists", prober)
    bench.clock.now_s += 30
    assert bench.breakers.admits("lists", 1)
    bench.hold(1)
    bench.clock.now_s += 30
    assert not bench.breakers.admits("lists", 1)


def test_different_users_probe_an_outage_of_a_group_in_turn(make_reporter: Any) -> None:
    """An event that failed may be its own trouble: others ask first; where a limit was reached, anybody does."""
    for is_limit in (False, True):
        bench = Bench(make_reporter(None))
        bench.apply(Change.BACK_OFF, scope="send", group="send", sequence=1, retry_after_s=1.0, shows_route=is_limit)
        for sequence in (1, 2):
            bench.breakers.park_s("send", sequence)
        bench.clock.now_s += 1.0
        assert bench.breakers.admits("send", 1) is is_limit
        assert bench.breakers.admits("send", 2)


def test_a_lone_culprit_may_ask_again(make_reporter: Any) -> None:
    """Where nobody else waits, the one who began the hold probes it."""
    bench = Bench(make_reporter(None))
    bench.hold(1)
    bench.breakers.park_s("lists", 1)
    bench.clock.now_s += 1
    assert bench.breakers.admits("lists", 1)


def test_a_group_that_goes_again_starts_afresh(make_reporter: Any) -> None:
    """Who probed the last hold, and who waited in it, has no part in the next one."""
    bench = Bench(make_reporter(None))
    bench.hold(1)
    bench.breakers.park_s("lists", 9)
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    bench.hold(2)
    bench.breakers.park_s("lists", 3)
    bench.clock.now_s += 1
    assert bench.breakers.admits("lists", 1)  # it did not meet this hold
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    bench.hold(2)
    bench.breakers.park_s("lists", 2)
    bench.clock.now_s += 1
    assert bench.breakers.admits("lists", 2)  # nobody waits for the 9th, or the 3rd


@pytest.mark.parametrize("change", [Change.HOLD, Change.BACK_OFF])
def test_who_waits_and_never_comes_back_keeps_nobody_away(make_reporter: Any, change: Change) -> None:
    """Erased, filtered after all, or planned anew: a turn that nobody takes for one probe's time is anybody's."""
    bench = Bench(make_reporter(None))
    for sequence, ghost in ((1, 8), (2, 9)):
        bench.apply(change, scope="lists", group="lists", sequence=sequence, status=403, retry_after_s=1.0)
        for waiting in (sequence, ghost):
            bench.breakers.park_s("lists", waiting)
        bench.clock.now_s += 1.0 + PROBE_EVERY_S - 0.5
        assert not bench.breakers.admits("lists", sequence)
        bench.clock.now_s += 1.0
        assert bench.breakers.admits("lists", sequence)
    bench.apply(change, scope="lists", group="lists", sequence=2, status=403, retry_after_s=1.0)
    bench.clock.now_s += 30.0
    assert bench.breakers.admits("lists", 2)


def test_the_first_probes_of_a_groups_hold_are_quick(make_reporter: Any) -> None:
    """Three probes may go after a second each, as one event may be the culprit; then one each half minute."""
    bench = Bench(make_reporter(None))
    waits = []
    for sequence in range(5):
        bench.hold(sequence)
        (stop,) = bench.breakers.stops()
        assert (stop.reason, stop.since_ms) == ("why", 100_000)
        waits.append(stop.next_try_ms - bench.clock.wall_ms())
        bench.clock.now_s += waits[-1] / 1000
    assert waits == [1_000, 1_000, 1_000, 30_000, 30_000]
    bench.apply(Change.CLOSE, outcome=Outcome.DONE, group="lists")
    bench.hold(9)
    assert bench.breakers.stops()[0].next_try_ms - bench.clock.wall_ms() == 1_000


def test_a_routes_hold_is_probed_each_half_minute(make_reporter: Any) -> None:
    """A key that is wrong is nobody's fault in particular."""
    bench = Bench(make_reporter(None))
    assert bench.apply(Change.HOLD, status=401)
    trip = bench.breakers.route.trip
    assert trip is not None
    assert (trip.kind, trip.retry_at_s) == (TripKind.HELD, 130.0)
    bench.clock.now_s = 120.0
    bench.apply(Change.POSTPONE, group="lists")
    trip = bench.breakers.route.trip
    assert trip is not None
    assert trip.retry_at_s == 150.0
    assert bench.breakers.held("lists") is None
    bench.apply(Change.NONE, outcome=Outcome.SET_ASIDE, ends_hold=True)
    assert bench.breakers.route.is_closed


def test_a_hold_for_refusals(make_reporter: Any) -> None:
    """It is a hold of the route of its own kind."""
    bench = Bench(make_reporter(None))
    assert bench.apply(Change.HOLD_FOR_REFUSALS, status=400)
    assert bench.breakers.held(ROUTE) is TripKind.REFUSALS


def test_replays_heed_what_arrives_and_do_not_change_it(make_reporter: Any) -> None:
    """A group that stands still for what arrives does for replays; one that stands still for these alone does not."""
    live = Bench(make_reporter(None))
    replays = Bench(make_reporter(None), live=live)
    live.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=7.0, shows_route=True)
    assert not replays.breakers.admits("lists", 1)
    assert replays.breakers.admits("send", 1)
    assert replays.breakers.park_s("lists", 1) == pytest.approx(7.001 + 0.005 * 0.5)
    live.clock.now_s += 7.0
    assert replays.breakers.admits("lists", 1)
    replays.hold(1, scope="send")
    replays.apply(Change.HOLD, status=401)
    assert live.breakers.admits("send", 1)
    assert live.breakers.route.is_closed
    assert [stop.scope for stop in replays.breakers.stops()] == ["replays", "replays: send"]
    assert [stop.scope for stop in live.breakers.stops()] == ["lists"]
    live.clock.now_s += 5.0
    replays.apply(Change.CLOSE, outcome=Outcome.DONE, group="send")
    assert replays.breakers.stops() == []
    told = [(line["event"], line["scope"]) for line in replays.reporter.lines]
    assert told == [
        ("route.held", "replays: send"),
        ("route.held", "replays"),
        ("route.hold_ended", "replays"),
        ("route.hold_ended", "replays: send"),
    ]
    replays.apply(Change.BACK_OFF, retry_after_s=3.0)
    assert replays.reporter.lines[-1]["scope"] == "replays"


def test_how_long_an_event_stays_away(make_reporter: Any) -> None:
    """As long as was decided; where its group stands still, until that goes; a replay that was sent, behind others."""
    live = Bench(make_reporter(None))
    replays = Bench(make_reporter(None), live=live)
    waits = Decision(outcome=Outcome.WAITS, after_s=0.0)
    for bench, was_sent, away_s in ((live, True, 0.0), (replays, False, 0.0), (replays, True, 1.0)):
        assert bench.breakers.away_s(waits, 1, was_sent=was_sent) == away_s
    assert replays.breakers.away_s(replace(waits, after_s=9.0), 1, was_sent=True) == 9.0
    for bench in (live, replays):
        bench.apply(Change.BACK_OFF, retry_after_s=4.0)
        assert bench.breakers.wait_s(ROUTE) == 4.0
    assert live.breakers.away_s(waits, 1, was_sent=True) == 0.0
    assert replays.breakers.away_s(waits, 1, was_sent=True) == 4.0
    live.apply(Change.BACK_OFF, scope="lists", group="lists", retry_after_s=2.0)
    assert live.breakers.away_s(replace(waits, scope="lists", after_s=1.0), 1, was_sent=True) > 3.0
    live.clock.now_s += 10
    assert live.breakers.wait_s(ROUTE) == 0.0


def test_a_hold_ends_before_what_follows(make_reporter: Any) -> None:
    """An answer outside a hold's class ends it, of route and group, and then backs the route off."""
    bench = Bench(make_reporter(None))
    bench.hold()
    bench.clock.now_s += 1
    bench.apply(Change.BACK_OFF, group="lists", ends_hold=True)
    assert bench.breakers.held(ROUTE, "lists") is None
    assert not bench.breakers.route.is_closed
