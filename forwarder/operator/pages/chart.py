"""An hour, a day or a week of a route as a drawing: what came and went above, what was pending and died below. Pure.

Every step is as wide as its time. The boxes are stretched to their place: text stays outside, so that it never is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from forwarder.model import RouteName
from forwarder.telemetry.series import Flow
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, HOUR_MS, MINUTE_MS, TotalsByTime

WIDTH: Final = 600
HEIGHT: Final = 100
LOW: Final = 36  # of the box below
_FLOOR_PER_S: Final = 1.0  # a trickle is not drawn as a mountain
_SPIKE: Final = 3.0  # so far above the rest, it is cut off and marked instead of flattening the rest
_REST: Final = 0.95
_HEADROOM: Final = 1.25
_PARTIAL_MS_MIN: Final = 10_000  # of the step that goes on: less says nothing of its rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """How far back, in which steps; `spans_ms`: a daemon that has just started is not drawn as a speck."""

    name: str
    words: str
    step_ms: int
    spans_ms: tuple[int, ...]


HOUR: Final = Range(name="1h", words="1 h", step_ms=MINUTE_MS, spans_ms=(6 * MINUTE_MS, 20 * MINUTE_MS, HOUR_MS))
DAY: Final = Range(name="24h", words="24 h", step_ms=2 * FIVE_MS, spans_ms=(DAY_MS,))
WEEK: Final = Range(name="7d", words="7 d", step_ms=HOUR_MS, spans_ms=(7 * DAY_MS,))
RANGES: Final = {one.name: one for one in (HOUR, DAY, WEEK)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One step as it is told and drawn. Positions are in the box's own units."""

    from_ms: int
    to_ms: int
    came: int
    went: int
    pending: int
    died: int
    came_per_s: float
    went_per_s: float
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Polylines (`x,y x,y …`), one per unbroken stretch of time, and what the scale is."""

    bars: tuple[Bar, ...]
    came: tuple[str, ...]
    went: tuple[str, ...]
    areas: tuple[str, ...]  # below `came`
    pending: tuple[str, ...]  # areas in the lower box
    died: tuple[tuple[str, str, str, str], ...]  # x, y, width and height there
    spikes: tuple[str, ...]  # triangles where the scale ends
    marks: tuple[tuple[str, str], ...]  # x and width of incidents
    begin_ms: int
    end_ms: int
    top_per_s: float
    peak_in_per_s: float
    peak_out_per_s: float
    peak_pending: int
    dead: int

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to draw yet."""
        return not self.bars


def draw(
    totals: TotalsByTime, route: RouteName, of: Range, *, now_ms: int, incidents: Sequence[tuple[int, int]] = ()
) -> Chart:
    """Draw what is within the range before `now_ms`; `incidents` are their begins and ends."""
    steps = _flows(totals, route, of, now_ms=now_ms)
    age_ms = now_ms - min(steps, default=now_ms)
    span_ms = next((span for span in of.spans_ms if span >= age_ms), of.spans_ms[-1])
    begin_ms = now_ms - span_ms

    def along(at_ms: int) -> float:
        return min(max((at_ms - begin_ms) / span_ms, 0.0), 1.0) * WIDTH

    bars = _bars(steps, of, along, now_ms=now_ms)
    top = _top([rate for bar in bars for rate in (bar.came_per_s, bar.went_per_s)])
    peak_pending = max((bar.pending for bar in bars), default=0)
    most_dead = max((bar.died for bar in bars), default=0)
    stretches = _stretches(bars)

    def line(stretch: Sequence[Bar], rate: Callable[[Bar], float], height: int = HEIGHT, most: float = top) -> str:
        levels = [(bar, height - min(rate(bar) / most, 1.0) * height) for bar in stretch]
        return " ".join(f"{bar.x:.1f},{y:.1f} {bar.x + bar.width:.1f},{y:.1f}" for bar, y in levels)

    def area(stretch: Sequence[Bar], points: str, height: int) -> str:
        return f"{stretch[0].x:.1f},{height} {points} {stretch[-1].x + stretch[-1].width:.1f},{height}"

    came = tuple(line(stretch, lambda bar: bar.came_per_s) for stretch in stretches)
    return Chart(
        bars=tuple(bars),
        came=came,
        went=tuple(line(stretch, lambda bar: bar.went_per_s) for stretch in stretches),
        areas=tuple(area(one, points, HEIGHT) for one, points in zip(stretches, came, strict=True)),
        pending=tuple(
            area(one, line(one, lambda bar: bar.pending, LOW, peak_pending), LOW) for one in stretches if peak_pending
        ),
        died=tuple(_death(bar, most_dead) for bar in bars if bar.died),
        spikes=tuple(_spike(bar) for bar in bars if max(bar.came_per_s, bar.went_per_s) > top),
        marks=tuple(
            (f"{along(began_ms):.1f}", f"{max(along(ended_ms) - along(began_ms), 1.0):.1f}")
            for began_ms, ended_ms in incidents
            if ended_ms > begin_ms
        ),
        begin_ms=begin_ms,
        end_ms=now_ms,
        top_per_s=top,
        peak_in_per_s=max((bar.came_per_s for bar in bars), default=0.0),
        peak_out_per_s=max((bar.went_per_s for bar in bars), default=0.0),
        peak_pending=peak_pending,
        dead=sum(bar.died for bar in bars),
    )


def _flows(totals: TotalsByTime, route: RouteName, of: Range, *, now_ms: int) -> dict[int, Flow]:
    """Return what is known of each step, by its beginning."""
    series = totals.minutes if of.step_ms < FIVE_MS else totals.fives
    found: dict[int, Flow] = {}
    for at_ms, step in series.between(now_ms - of.spans_ms[-1] - of.step_ms, now_ms + 1):
        flow = step.flows.get(route)
        if flow is not None:
            whole = found.setdefault(at_ms - at_ms % of.step_ms, Flow())
            whole.came, whole.went = whole.came + flow.came, whole.went + flow.went
            whole.pending, whole.died = max(whole.pending, flow.pending), whole.died + flow.died
    return found


def _bars(steps: dict[int, Flow], of: Range, along: Callable[[int], float], *, now_ms: int) -> list[Bar]:
    bars: list[Bar] = []
    for at_ms, flow in steps.items():
        to_ms = min(at_ms + of.step_ms, now_ms)
        lasted_ms = to_ms - at_ms
        x, end = along(at_ms), along(to_ms)
        if lasted_ms < _PARTIAL_MS_MIN or end <= 0:
            continue
        bars.append(
            Bar(
                from_ms=at_ms,
                to_ms=to_ms,
                came=flow.came,
                went=flow.went,
                pending=flow.pending,
                died=flow.died,
                came_per_s=flow.came / lasted_ms * 1_000,
                went_per_s=flow.went / lasted_ms * 1_000,
                x=x,
                width=end - x,
            )
        )
    return bars


def _top(rates: Sequence[float]) -> float:
    """Return the rate at the top of the box: the peak, or what all but a few spikes reach, with some air above."""
    ordered = sorted(rates)
    if not ordered:
        return _FLOOR_PER_S
    peak, rest = ordered[-1], ordered[int((len(ordered) - 1) * _REST)]
    return max(rest * _HEADROOM if rest > 0 and peak > rest * _SPIKE else peak, _FLOOR_PER_S)


def _spike(bar: Bar) -> str:
    middle = bar.x + bar.width / 2
    return f"{middle - 3:.1f},7 {middle + 3:.1f},7 {middle:.1f},0"


def _death(bar: Bar, most: int) -> tuple[str, str, str, str]:
    height, width = max(bar.died / most * LOW, 3.0), min(max(bar.width, 2.0), 8.0)
    return f"{bar.x + (bar.width - width) / 2:.1f}", f"{LOW - height:.1f}", f"{width:.1f}", f"{height:.1f}"


def _stretches(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Cut where time is missing (the daemon or the machine slept), so that no line bridges what was not seen."""
    stretches: list[list[Bar]] = []
    for bar in bars:
        if stretches and stretches[-1][-1].to_ms == bar.from_ms:
            stretches[-1].append(bar)
        else:
            stretches.append([bar])
    return stretches
