"""An hour, a day and a week of each route: drawn, told at the pointer, and as a table."""

from typing import Any

import pytest

from forwarder.model import RouteName, State
from forwarder.operator.pages.chart import DAY, HOUR, LOW, RANGES, WEEK, Chart, Range, draw
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.series import Flow
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, HOUR_MS, MINUTE_MS, TotalsByTime

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
NOW_MS = 1_800_000_000_000 + 30_000


def charted(flows: dict[int, Flow], of: Range = HOUR, **more: Any) -> Chart:
    """Draw what came so many minutes ago."""
    totals = TotalsByTime(Metrics(), None)  # type: ignore[arg-type]  # nothing is read from counters here
    for minutes, flow in flows.items():
        for series in (totals.minutes, totals.fives):
            series.at(NOW_MS - minutes * MINUTE_MS).flows[ROUTE] = flow
    return draw(totals, ROUTE, of, now_ms=NOW_MS, **more)


def xs(lines: tuple[str, ...]) -> list[list[tuple[float, float]]]:
    """Return the points of each line."""
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in line.split())] for line in lines]


def test_a_step_is_as_wide_as_its_time() -> None:
    """Minutes stand at their place, levels within the box; the one that goes on is as wide as it is old."""
    chart = charted({2: Flow(came=600, went=300), 1: Flow(came=1_200, went=60), 0: Flow(came=60)})
    assert [(bar.came_per_s, bar.went_per_s) for bar in chart.bars] == [(10, 5), (20, 1), (2, 0)]
    ((a, b, c, d, e, f),) = xs(chart.came)
    assert (a[0], b[0], c[0], d[0]) == (350, 450, 450, 550)
    assert (b[1], d[1], f[1]) == (50, 0, 90)
    assert (e[0], f[0]) == (550, 600)
    assert (chart.top_per_s, chart.end_ms - chart.begin_ms) == (20, 6 * MINUTE_MS)


@pytest.mark.parametrize(
    ("minutes_ago", "of", "span_ms"),
    [
        (5, HOUR, 6 * MINUTE_MS),
        (19, HOUR, 20 * MINUTE_MS),
        (21, HOUR, HOUR_MS),
        (5, DAY, DAY_MS),
        (5, WEEK, 7 * DAY_MS),
    ],
)
def test_a_young_chart_looks_back_less_far(minutes_ago: int, of: Range, span_ms: int) -> None:
    """A daemon of five minutes is drawn over six, one of half an hour over sixty; a day is a day."""
    chart = charted({minutes_ago: Flow(came=1), 0: Flow(came=1)}, of)
    assert chart.end_ms - chart.begin_ms == span_ms


def test_nothing_known_is_no_chart() -> None:
    """An empty series is told as such."""
    assert charted({}).is_empty
    assert charted({90: Flow(came=1)}).is_empty


def test_no_line_bridges_what_was_not_seen() -> None:
    """Where the daemon slept there are two stretches."""
    chart = charted({30: Flow(came=1), 29: Flow(came=1), 3: Flow(came=1), 2: Flow(came=1)})
    assert (len(chart.came), len(chart.went), len(chart.areas)) == (2, 2, 2)


def test_one_spike_does_not_flatten_the_rest() -> None:
    """It is cut off and marked, its height is told, and the rest keeps most of the box; even loads are not cut."""
    flows = {minute: Flow(came=600, went=600) for minute in range(1, 60)}
    assert charted(flows).spikes == ()
    chart = charted(flows | {7: Flow(came=600_000, went=600)})
    assert (chart.top_per_s, chart.peak_in_per_s, len(chart.spikes)) == (12.5, 10_000, 1)
    levels = {y for line in xs(chart.came) for _, y in line}
    assert levels == {20, 0}
    alone = charted({7: Flow(came=600_000), **{minute: Flow() for minute in range(1, 7)}})
    assert (alone.spikes, alone.top_per_s) == ((), 10_000)


def test_pending_and_dead_stand_below() -> None:
    """The most that was pending fills its box, each step that died has a bar, and both are told."""
    chart = charted({3: Flow(pending=50), 2: Flow(pending=100, died=4), 1: Flow(died=1)})
    assert (chart.peak_pending, chart.dead) == (100, 5)
    assert min(y for _, y in xs(chart.pending)[0]) == 0
    assert [(y, height) for _, y, _, height in chart.died] == [("0.0", f"{LOW}.0"), ("27.0", "9.0")]


def test_a_day_and_a_week_are_sums_of_their_steps() -> None:
    """Ten minutes and hours hold everything that came in them, the most that was pending, all that died."""
    flows = {minute: Flow(came=6, went=3, pending=minute, died=1) for minute in range(5, 600, 5)}
    for of, step_ms in ((DAY, 2 * FIVE_MS), (WEEK, HOUR_MS)):
        chart = charted(flows, of)
        assert {bar.from_ms % step_ms for bar in chart.bars} == {0}
        assert (sum(bar.came for bar in chart.bars), chart.dead) == (6 * 119, 119)
        assert max(bar.pending for bar in chart.bars) == 595


def test_incidents_are_marked_where_they_were() -> None:
    """What ended before the range is not there; what is short is still seen."""
    hour = HOUR_MS
    chart = charted(
        {59: Flow(), 1: Flow()},
        incidents=[(NOW_MS - 2 * hour, NOW_MS - hour - 1), (NOW_MS - hour // 2, NOW_MS - hour // 2)],
    )
    assert chart.marks == (("300.0", "1.0"),)


@pytest.mark.one_daemon("shows what one process counted")
async def test_the_overview_draws_hour_day_and_week(world: Any) -> None:
    """Each range is a link, each step tells its numbers to the pointer without a script, and a table tells them all."""
    await world.arrive(state=State.DEAD, reason="no id")
    world.metrics.received.labels(ROUTE.value).inc(600)
    await world.look()
    world.clock.now_ms += MINUTE_MS
    world.routes[ROUTE].hold("answered 401")
    await world.look()
    for name, of in RANGES.items():
        page = await world.get(f"/?range={name}")
        assert f'aria-current="true">{of.words}</a>' in page.html
        assert page.html.count('class="mark"') == 1
        assert "<title>Fri 08:00 UTC: accepted 10.0/s, delivered 0/s, pending 0" in page.html
    table = (await world.get("/?range=1h&view=table")).words
    assert "Fri 08:00 UTC 600 0 0" in table
    assert (await world.get("/?range=2h")).status == 400
    async with world.http.get("/metrics") as answer:
        assert answer.status == 200


async def test_charts_outlive_the_daemon(world: Any) -> None:
    """A new daemon on the same folder draws what the old one saw."""
    world.metrics.received.labels(ROUTE.value).inc(600)
    await world.look()
    again = TotalsByTime(Metrics(), world.clock)
    await again.load(world.spool)
    world.clock.now_ms += MINUTE_MS
    assert [bar.came for bar in draw(again, ROUTE, HOUR, now_ms=world.clock.now_ms).bars] == [600]


@pytest.mark.one_daemon("shows what one process counted")
async def test_rejected_requests_are_shown_where_people_look(world: Any) -> None:
    """On the overview, in the status, and where a search for a message finds nothing."""
    await world.arrive()
    assert "Rejected requests" not in (await world.get("/")).words
    world.parts.reporter.request_rejected("/v1", "key_unknown", "192.0.2.0/24")
    words = (await world.get("/")).words
    assert "Last day /v1 key unknown 192.0.2.0/24 1 1 Name the key that the sender presents in FORWARDER_INB" in words
    (told,) = (await world.api("/api/status"))["rejected"]
    assert (told["endpoint"], told["reason"], told["network"]) == ("/v1", "key_unknown", "192.0.2.0/24")
    assert (told["last_hour"], told["last_day"]) == (1, 1)
    for path in ("/events?message=lost", "/messages/lost"):
        assert "1 request was rejected in the last hour" in (await world.get(path)).words
    assert "1 rejected in the last hour" in words.partition("Rejected requests")[0]
