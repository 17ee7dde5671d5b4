"""The last minutes, up to an hour, as a drawing: points of two lines in a box that is stretched to its place. Pure.

Text stays outside the drawing, so that it is never stretched. Deliberately absent: colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from forwarder.telemetry.rates import HOUR_S, STEP_S, Step

WIDTH: Final = 600
HEIGHT: Final = 100
_GAP_MS: Final = 2.5 * STEP_S * 1000
_SPANS_MIN: Final = (6, 20, HOUR_S // 60)  # a daemon that has just started is not drawn as a speck
_FLOOR_PER_S: Final = 1.0  # a trickle is not drawn as a mountain


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Polylines (`x,y x,y …`), one per unbroken stretch of time, and the rate at the top of the box."""

    came: tuple[str, ...]
    went: tuple[str, ...]
    areas: tuple[str, ...]  # below `came`
    marks: tuple[tuple[str, str], ...]  # x and width of what stood still
    minutes: int  # how far back the left edge is
    top_per_s: float
    peak_in_per_s: float
    peak_out_per_s: float

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to draw yet."""
        return not self.came


def hour_chart(steps: Sequence[Step], *, now_ms: int, stood_still: Sequence[tuple[int, int]] = ()) -> Chart:
    """Draw what is within the hour before `now_ms`; less, as long as there is less.

    `stood_still` are begins and ends of incidents.
    """
    age_ms = now_ms - min((step.at_ms for step in steps), default=now_ms)
    minutes = next((span for span in _SPANS_MIN if span * 60_000 >= age_ms), _SPANS_MIN[-1])
    begin_ms = now_ms - minutes * 60_000
    shown = [step for step in steps if begin_ms <= step.at_ms <= now_ms]
    peak_in = max((step.in_per_s for step in shown), default=0.0)
    peak_out = max((step.out_per_s for step in shown), default=0.0)
    top = max(peak_in, peak_out, _FLOOR_PER_S)

    def along(at_ms: int) -> float:
        return min(max((at_ms - begin_ms) / (minutes * 60_000), 0.0), 1.0) * WIDTH

    def x(step: Step) -> str:
        return f"{along(step.at_ms):.1f}"

    def line(stretch: Sequence[Step], values: Sequence[float]) -> str:
        return " ".join(
            f"{x(step)},{HEIGHT - value / top * HEIGHT:.1f}" for step, value in zip(stretch, values, strict=True)
        )

    stretches = _stretches(shown)
    came = tuple(line(stretch, [step.in_per_s for step in stretch]) for stretch in stretches)
    return Chart(
        came=came,
        went=tuple(line(stretch, [step.out_per_s for step in stretch]) for stretch in stretches),
        areas=tuple(
            f"{x(stretch[0])},{HEIGHT} {points} {x(stretch[-1])},{HEIGHT}"
            for stretch, points in zip(stretches, came, strict=True)
        ),
        marks=tuple(
            (f"{along(began_ms):.1f}", f"{max(along(ended_ms) - along(began_ms), 1.0):.1f}")
            for began_ms, ended_ms in stood_still
            if ended_ms > begin_ms
        ),
        minutes=minutes,
        top_per_s=top,
        peak_in_per_s=peak_in,
        peak_out_per_s=peak_out,
    )


def _stretches(steps: Sequence[Step]) -> list[list[Step]]:
    """Cut where time is missing (the machine slept), so that no line bridges what was not seen."""
    stretches: list[list[Step]] = []
    for step in steps:
        if stretches and step.at_ms - stretches[-1][-1].at_ms <= _GAP_MS:
            stretches[-1].append(step)
        else:
            stretches.append([step])
    return [stretch for stretch in stretches if len(stretch) > 1]
