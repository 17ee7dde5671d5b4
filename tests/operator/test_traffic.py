"""Rejected senders, senders that stay away and events that die are incidents; quiet hours and our alerts are none."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from forwarder.model import RouteName, State
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.incidents.traffic import Own, seen_in_traffic
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.series import Flow
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, HOUR_MS, MINUTE_MS, TotalsByTime

NONE = Own()
OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
DOOR = "/webhooks/courier"
MIDNIGHT_MS = 1_800_000_000_000 - 1_800_000_000_000 % DAY_MS  # a Friday's
Pattern = Callable[[int], int]  # five minutes since that midnight → requests


def totals() -> TotalsByTime:
    """Return totals that a test fills by hand."""
    return TotalsByTime(Metrics(), None)  # type: ignore[arg-type]  # nothing is read from counters here


def lived(pattern: Pattern, *, days: int, until_ms: int = 0, endpoint: str = DOOR) -> TotalsByTime:
    """Return what a daemon knows that ran for so many days before that midnight and so long after it."""
    made = totals()
    for number in range(-days * DAY_MS // FIVE_MS, until_ms // FIVE_MS):
        made.fives.at(MIDNIGHT_MS + number * FIVE_MS).senders |= {endpoint: pattern(number)} if pattern(number) else {}
    return made


def gap_after(pattern: Pattern, *, days: int, within: Sequence[int], **more: Any) -> int | None:
    """Return the first of these five minutes after that midnight at which a gap is seen."""
    made = lived(pattern, days=days)
    for number in within:
        now_ms = MIDNIGHT_MS + number * FIVE_MS
        step = made.fives.at(now_ms)
        if seen(made, now_ms=now_ms + 1, **more):
            return number
        if pattern(number):
            step.senders[DOOR] = pattern(number)
    return None


def seen(made: TotalsByTime, *, now_ms: int, known: Sequence[Incident] = (), own: Own = NONE) -> list[Incident]:
    """Return what is seen now, with these open already; the daemon runs, so its totals know these minutes."""
    made.fives.at(now_ms)
    return list(seen_in_traffic(made, {one.key: one for one in known}, own=own, now_ms=now_ms))


DAY = range(288)
HOURS = 12  # of five minutes


def by_day(number: int) -> int:
    """Come from eight to eight, as offices do."""
    return 50 if 8 * HOURS <= number % 288 < 20 * HOURS else 0


def at_work(number: int) -> int:
    """Come from eight to eight, but not on Saturday (the day after that midnight) and Sunday; fading at the end."""
    day, minutes = number // 288 % 7, number % 288
    fading = max(0, 20 * HOURS - minutes) // 6
    return min(by_day(number), fading) if day not in (1, 2) else 0


@pytest.mark.parametrize(
    ("pattern", "days", "within"),
    [
        (by_day, 7, DAY),
        (by_day, 1, DAY),
        (lambda number: 500 * (number % 288 in range(6)), 3, range(2 * 288)),
        (lambda number: 1_000 * (number % HOURS == 0), 2, DAY),
        (lambda number: 500 * ((number - (number >= 0) * 2) % 288 in range(6)), 3, DAY),
        (lambda number: by_day(number + (number >= 0) * HOURS), 7, DAY),
        (lambda number: by_day(number - (number >= 0) * HOURS), 7, DAY),
        (at_work, 8, range(4 * 288)),
        (at_work, 3, range(4 * 288)),
        (lambda number: 500 * (number < 0), 0, DAY),
        (lambda number: number < 0 and number % 150 == 0, 8, DAY),
    ],
    ids=[
        "quiet nights",
        "the second night ever",
        "a nightly batch",
        "an hourly batch",
        "a batch that is ten minutes late",
        "clocks were set forward",
        "clocks were set back",
        "weekends",
        "the first weekend ever",
        "the first day",
        "too little to miss",
    ],
)
def test_what_comes_as_it_used_to_is_no_gap(pattern: Pattern, days: int, within: Sequence[int]) -> None:
    """Quiet times of every day that is known alarm nobody."""
    assert gap_after(pattern, days=days, within=within) is None


@pytest.mark.parametrize(
    ("pattern", "days", "expected_minutes"),
    [
        (lambda number: 80 * (number < 0), 7, 15),
        (lambda number: 80 * (number < 0), 1, 15),
        (lambda number: (number < 0) and number % 2 == 0, 7, 315),
        (lambda number: 500 * (number < 0 and number % 288 in range(6)), 9, 125),
        (lambda number: by_day(number) * (number < 0), 7, 10 * 60 + 5),
    ],
    ids=[
        "a busy sender",
        "a busy sender on the second day",
        "a slow sender",
        "a nightly batch that does not come",
        "an office that does not open",
    ],
)
def test_what_does_not_come_any_more_is_a_gap(pattern: Pattern, days: int, expected_minutes: int) -> None:
    """Missing is told soon where much is missing, later where little is."""
    number = gap_after(pattern, days=days, within=DAY)
    assert number is not None
    assert number * 5 == expected_minutes


@settings(deadline=None, max_examples=15)
@given(some.lists(some.integers(0, 60), min_size=288, max_size=288), some.integers(1, 8), some.integers(0, 287))
def test_equal_days_have_no_gap(day: list[int], days: int, first: int) -> None:
    """Whatever a day looks like: when the next is the same, nobody is alarmed."""
    assert gap_after(lambda number: day[number % 288], days=days, within=range(first, min(first + 40, 288))) is None


def test_a_gap_says_since_when_and_goes_on_until_something_comes() -> None:
    """It began when the last came; it does not end because yesterday was silent, too; a week later nobody is missed."""
    made = lived(lambda number: 80 * (number < 0), days=7, until_ms=HOUR_MS)
    (one,) = seen(made, now_ms=MIDNIGHT_MS + HOUR_MS)
    assert (one.kind, one.scope, one.route, one.began_ms) == ("gap", DOOR, OUTBOUND, MIDNIGHT_MS)
    assert "at least" in one.cause
    late_ms = MIDNIGHT_MS + 3 * DAY_MS
    assert seen(made, now_ms=late_ms, known=[one]) == [one]
    assert seen(made, now_ms=MIDNIGHT_MS + 8 * DAY_MS, known=[one]) == []
    made.fives.at(late_ms).senders[DOOR] = 1
    assert seen(made, now_ms=late_ms, known=[one]) == []


def test_a_gap_is_not_said_beside_what_explains_it() -> None:
    """A sender that is rejected, or told to come back, does not stay away; a gap that goes on does."""
    made = lived(lambda number: 80 * (number < 0), days=7, until_ms=HOUR_MS)
    now_ms = MIDNIGHT_MS + HOUR_MS
    (gap,) = seen(made, now_ms=now_ms)
    refusal = Incident(kind="refusal", route=None, scope="", cause="full", began_ms=now_ms)
    assert seen(made, now_ms=now_ms, known=[refusal]) == []
    assert seen(made, now_ms=now_ms, known=[refusal, gap]) == [gap]
    made.minutes.at(now_ms).rejected[DOOR, "signature_mismatch", ""] = 7
    assert [one.kind for one in seen(made, now_ms=now_ms)] == ["rejected"]


def test_silence_counts_only_while_the_daemon_runs() -> None:
    """A daemon that was off, or a machine that slept, waits as long as any other before it misses somebody."""
    made = lived(lambda number: 80 * (number < 0), days=7)
    made.fives.at(MIDNIGHT_MS + 6 * HOUR_MS)
    assert seen(made, now_ms=MIDNIGHT_MS + 6 * HOUR_MS) == []
    for at_ms in range(MIDNIGHT_MS + 6 * HOUR_MS, MIDNIGHT_MS + 7 * HOUR_MS, FIVE_MS):
        made.fives.at(at_ms)
    (one,) = seen(made, now_ms=MIDNIGHT_MS + 7 * HOUR_MS - 1)
    assert one.began_ms == MIDNIGHT_MS + 6 * HOUR_MS


def test_our_own_alerts_end_no_gap() -> None:
    """The webhooks of an alert through Courier are no sender that came back, or it would be alarmed of for ever."""
    made = lived(lambda number: 80 * (number < 0), days=7, until_ms=HOUR_MS)
    (one,) = seen(made, now_ms=MIDNIGHT_MS + HOUR_MS)
    at_ms = MIDNIGHT_MS + 40 * MINUTE_MS
    made.fives.at(at_ms).senders[DOOR] = 3
    assert seen(made, now_ms=MIDNIGHT_MS + HOUR_MS, known=[one], own=Own(came={at_ms: 3})) == [one]
    assert seen(made, now_ms=MIDNIGHT_MS + HOUR_MS, known=[one], own=Own(came={at_ms: 2})) == []


@pytest.mark.parametrize(
    ("rejected", "is_open", "expected"),
    [
        ({("/inbound/rudderstack", "key_unknown", "192.0.2.0/24"): 5}, False, [("rejected", "/inbound/rudderstack")]),
        ({("/inbound/rudderstack", "key_unknown", ""): 4}, False, []),
        (
            {("/inbound/rudderstack", "key_unknown", ""): 3, ("/inbound/rudderstack", "not_json", ""): 2},
            False,
            [("rejected", "/inbound/rudderstack")],
        ),
        ({("/inbound/rudderstack", "key_unknown", ""): 1}, True, [("rejected", "/inbound/rudderstack")]),
        ({}, True, []),
        ({("other", "path_unknown", ""): 500, ("operator", "login_wrong", ""): 50}, False, []),
        ({(DOOR, "spool_full", ""): 500, (DOOR, "method_wrong", ""): 50}, False, []),
    ],
    ids=[
        "a wrong key",
        "a few",
        "reasons add up",
        "it goes on",
        "it is over",
        "strangers",
        "what another incident says",
    ],
)
def test_rejected_senders(rejected: dict[tuple[str, str, str], int], *, is_open: bool, expected: object) -> None:
    """A sender that is turned away again and again is an incident until it is quiet for twenty minutes."""
    made = totals()
    made.minutes.at(MIDNIGHT_MS).rejected.update(rejected)
    one = Incident(kind="rejected", route=INBOUND, scope="/inbound/rudderstack", cause="", began_ms=0)
    found = seen(made, now_ms=MIDNIGHT_MS + MINUTE_MS, known=[one] if is_open else [])
    assert [(one.kind, one.scope) for one in found] == expected
    assert seen(made, now_ms=MIDNIGHT_MS + 21 * MINUTE_MS, known=[one]) == []


@pytest.mark.parametrize(
    ("levels", "own_dead", "is_open", "expected"),
    [
        ([(100, 0), (110, 10)], 0, False, ["dead"]),
        ([(100, 0), (109, 9)], 0, False, []),
        ([(110, 10), (110, 0)], 0, False, ["dead"]),
        ([(100, 0), (27, 0), (100, 73)], 0, False, []),
        ([(100, 0), (110, 10)], 1, False, []),
        ([(100, 0), (101, 1)], 0, True, ["dead"]),
        ([(100, 0), (100, 0)], 0, True, []),
    ],
    ids=["ten", "nine", "in the first minute", "replayed and dead again", "our own alerts", "it goes on", "it is over"],
)
def test_events_that_die(levels: list[tuple[int, int]], own_dead: int, *, is_open: bool, expected: list[str]) -> None:
    """Ten deaths within ten minutes are an incident, until none more dies for ten minutes."""
    made = totals()
    for minute, (dead, died) in enumerate(levels):
        made.minutes.at(MIDNIGHT_MS + minute * MINUTE_MS).flows[OUTBOUND] = Flow(dead=dead, died=died)
    now_ms = MIDNIGHT_MS + (len(levels) - 1) * MINUTE_MS
    known = [Incident(kind="dead", route=OUTBOUND, scope="route", cause="", began_ms=0)] if is_open else []
    assert [one.kind for one in seen(made, now_ms=now_ms, known=known, own=Own(dead=own_dead))] == expected


async def test_a_person_who_is_erased_is_no_death(world: Any) -> None:
    """What waited and is erased is dead in the totals alone: no incident, no bar; others that die then are seen."""
    world.routes[OUTBOUND].hold("answered 401")
    for _ in range(12):
        await world.arrive(user="ada", state=State.DEAD, reason="refused")
    for _ in range(12):
        await world.arrive(user="ada")
    await world.look()
    await world.api("/api/forget", {"user_id": "ada"})
    for _ in range(2):
        world.clock.now_ms += MINUTE_MS
        await world.look()
    flows = [step.flows[OUTBOUND] for _, step in world.parts.by_time.minutes.between(0, world.clock.now_ms + 1)]
    assert (flows[-1].dead, sum(flow.died for flow in flows)) == (24, 0)
    assert [(one.kind, one.dead) for one in world.incidents.watch.known] == [("hold", 0)]
    for _ in range(12):
        await world.arrive(user="bob")
    await world.look()
    await world.api("/api/forget", {"user_id": "bob"})
    for _ in range(11):
        await world.arrive(user="carl", state=State.DEAD, reason="refused")
    world.clock.now_ms += MINUTE_MS
    await world.look()
    assert [(one.kind, one.dead) for one in world.incidents.watch.known] == [("hold", 11), ("dead", 0)]
    assert world.incidents.watch.known[1].cause == "11 events died within ten minutes"


async def test_the_keeper_knows_its_own_alerts(world: Any) -> None:
    """What comes back of an alert's message is found by its id, also after a restart, and counts for nothing."""
    await world.look()
    for _ in range(12):
        await world.arrive(message="1-alert", state=State.DEAD, reason="refused")
    await world.incidents.alert_sent("1-alert")
    again = Incidents(world.parts)
    await again.load()
    await again.look()
    world.clock.now_ms += MINUTE_MS
    await again.look()
    assert again.watch.open == {}
    for _ in range(12):
        await world.arrive(message="1-other", state=State.DEAD, reason="refused")
    world.clock.now_ms += MINUTE_MS
    await again.look()
    assert [(one.kind, one.cause) for one in again.watch.known] == [("dead", "12 events died within ten minutes")]


@pytest.mark.one_daemon("shows what one process counted")
async def test_rejected_senders_are_told_with_what_to_do(world: Any) -> None:
    """Incident, page, status and log name the endpoint, and how an inbound key is rotated without losing anything."""
    await world.look()
    for _ in range(6):
        world.parts.reporter.request_rejected("/inbound/rudderstack", "key_unknown", "192.0.2.0/24")
    world.clock.now_ms += 10_000
    await world.look()
    (one,) = (await world.api("/api/incidents"))["incidents"]
    assert (one["kind"], one["scope"], one["delayed"]) == ("rejected", "/inbound/rudderstack", None)
    assert one["cause"] == "6 requests were turned away within ten minutes, most for: key unknown"
    for words in ((await world.get("/incidents")).words, (await world.get("/")).words, one["remedy"]):
        assert "keep naming the old one beside the new until RudderStack has nothing left to deliver" in words
    told = (await world.api("/api/status"))["rejected"]
    assert told[0]["remedy"] == one["remedy"]
    assert [line["event"] for line in world.log if line["event"].startswith("incident.")] == ["incident.began"]


async def test_a_gap_is_not_ended_by_the_alert_that_tells_of_it(world: Any) -> None:
    """The webhook of the alert's own message leaves the gap open; those of others end it."""
    now_ms = world.clock.now_ms
    for at_ms in range(now_ms - 8 * DAY_MS, now_ms, FIVE_MS):
        world.parts.by_time.fives.at(at_ms).senders[DOOR] = 80
    for _ in range(5):
        world.clock.now_ms += FIVE_MS
        await world.look()
    assert [one.kind for one in world.incidents.watch.open.values()] == ["gap"]
    await world.incidents.alert_sent("1-alert")
    await world.arrive(message="1-alert")
    world.metrics.answers.add(DOOR, 200, 0.001)
    world.clock.now_ms += 10_000
    await world.look()
    assert [one.kind for one in world.incidents.watch.open.values()] == ["gap"]
    for _ in range(3):
        world.metrics.answers.add(DOOR, 200, 0.001)
    world.clock.now_ms += 10_000
    await world.look()
    assert [(one.kind, one.ended_ms) for one in world.incidents.watch.known] == [("gap", world.clock.now_ms)]
