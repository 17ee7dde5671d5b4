"""How the demo looks: a live frame on a terminal, one plain line now and then without one, a summary at the end.

Pure but for `Screen`, which owns the stream. Plain ANSI, ASCII only, `NO_COLOR` respected.
"""

import os
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

_WINDOW_S = 2.0  # of rates
_BAR = 8  # characters
_WIDTH = 80  # columns that a frame needs; a line that wraps would break the count of lines to go up
_PLAIN_EVERY_S = 2.0
_CODES = {"bold": "1", "dim": "2", "green": "32", "yellow": "33", "red": "31"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One route in numbers. Counts are events since the start."""

    title: str
    accepted: int  # acknowledged to the sender, so on disk
    delivered: int  # seen at the destination
    ended: int  # rightly going nowhere: filtered or unmapped
    waiting: int  # on disk, not delivered yet
    resent: int  # posts of events that were accepted before: the daemon suppresses them
    duplicates: int  # copies that the destination got beyond the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One moment of the demo."""

    elapsed_s: float
    page_url: str
    is_outage: bool
    flows: tuple[Flow, ...]
    rates: Mapping[str, tuple[float, float]]  # title → accepted and delivered per second, lately
    latest: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it all, counted at both ends."""

    flows: tuple[Flow, ...]
    lost: int  # acknowledged, not arrived, and not waiting on disk either
    waiting: int
    wrong: tuple[str, ...]  # arrived, but not as it was sent
    outages: int

    @property
    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        return self.lost == 0 and not self.wrong


class Paint:
    """Colour, or none."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on

    def __call__(self, text: str, *styles: str) -> str:
        """Return the text in these styles."""
        if not self._is_on or not styles:
            return text
        return f"\x1b[{';'.join(_CODES[style] for style in styles)}m{text}\x1b[0m"


def frame(moment: Moment, paint: Paint) -> list[str]:
    """Return the live view, line by line."""
    lines = [
        f"{paint('forwarder demo', 'bold')}   {_clock(moment.elapsed_s)}   page: {paint(moment.page_url, 'bold')}",
        "",
        paint(f"  {'':<24}{'in/s':>7}{'out/s':>7}{'accepted':>10}{'delivered':>11}{'waiting':>9}", "dim"),
    ]
    lines += [_flow_line(flow, moment.rates[flow.title], paint) for flow in moment.flows]
    lines += ["", f"  data plane: {_plane(moment, paint)}", ""]
    lines += [paint(f"  {latest}"[: _WIDTH - 1], "dim") for latest in moment.latest]
    return [*lines, "", paint("  Ctrl-C ends it with a summary.", "dim")]


def plain_line(moment: Moment) -> str:
    """Return the same on one line, for logs and pipes."""
    flows = "  ".join(
        f"{flow.title}: accepted {flow.accepted}, delivered {flow.delivered}, waiting {flow.waiting}"
        for flow in moment.flows
    )
    outage = "  [outage: the data plane answers 503]" if moment.is_outage else ""
    return f"{_clock(moment.elapsed_s)}  {flows}{outage}"


def summary(result: Result, paint: Paint) -> list[str]:
    """Return what came of it: per route, then in one line."""
    lines = [paint("Summary, from what the senders were told and what the destinations really got", "bold")]
    lines += [
        f"  {flow.title}: accepted {flow.accepted}, delivered {flow.delivered}, "
        f"filtered or unmapped {flow.ended}, resends suppressed {flow.resent}, duplicates {flow.duplicates}"
        for flow in result.flows
    ]
    lines.append(f"  outages of the data plane on the way: {result.outages}")
    if result.waiting:
        lines.append(f"  still waiting on disk when the demo ended: {result.waiting}")
    lines += [paint(f"  wrong: {wrong}", "red") for wrong in result.wrong]
    accepted, delivered, duplicates = (
        sum(getattr(flow, name) for flow in result.flows) for name in ("accepted", "delivered", "duplicates")
    )
    text = f"accepted {accepted}, delivered {delivered}, duplicates {duplicates}, lost {result.lost}"
    return [*lines, paint(text, "bold", "green" if result.is_good else "red")]


class Screen:
    """Where the demo is shown. Frames on a terminal, lines elsewhere."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        is_wide = shutil.get_terminal_size().columns >= _WIDTH
        self.is_live = stream.isatty() and is_wide and environ.get("TERM") != "dumb"
        self.paint = Paint(is_on=self.is_live and not environ.get("NO_COLOR"))
        self._height = 0
        self._line_due_s = 0.0

    def say(self, *lines: str) -> None:
        """Write lines that stay; a frame that is shown goes above them."""
        self._write("".join(f"{line}\n" for line in lines))
        self._height = 0

    def show(self, moment: Moment) -> None:
        """Draw the moment over the one before; without a terminal write a line every two seconds."""
        if not self.is_live:
            if moment.elapsed_s >= self._line_due_s:
                self._line_due_s = moment.elapsed_s + _PLAIN_EVERY_S
                self.say(plain_line(moment))
            return
        lines = frame(moment, self.paint)
        back = f"\x1b[{self._height}A" if self._height else ""
        self._write(back + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        self._height = len(lines)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _flow_line(flow: Flow, rates: tuple[float, float], paint: Paint) -> str:
    numbers = f"{rates[0]:>7.0f}{rates[1]:>7.0f}{flow.accepted:>10}{flow.delivered:>11}"
    waiting = paint(f"{flow.waiting:>9}", *(["yellow"] if flow.waiting else []))
    bar = "#" * min(_BAR, flow.waiting // 5)
    return f"  {flow.title:<24}{numbers}{waiting} {paint(bar, 'yellow')}"


def _plane(moment: Moment, paint: Paint) -> str:
    if moment.is_outage:
        return paint("DOWN, it answers 503: events wait on disk, none is lost", "red", "bold")
    return paint("up", "green")


def _clock(elapsed_s: float) -> str:
    minutes, seconds = divmod(int(elapsed_s), 60)
    return f"{minutes:02d}:{seconds:02d}"


class Rates:
    """Keep the last counts and tell how much a second they have grown lately."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Mapping[str, tuple[int, int]]]] = deque()

    def at(self, now_s: float, counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[float, float]]:
        """Note the counts of this moment and return, per name, how many a second each has grown."""
        while self._kept and self._kept[0][0] < now_s - _WINDOW_S:
            self._kept.popleft()
        self._kept.append((now_s, counts))
        then_s, then = self._kept[0]
        span_s = now_s - then_s
        if span_s <= 0:
            return dict.fromkeys(counts, (0.0, 0.0))
        return {
            name: ((one - then[name][0]) / span_s, (other - then[name][1]) / span_s)
            for name, (one, other) in counts.items()
        }
