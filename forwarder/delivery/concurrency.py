"""How many requests may be in flight: additive increase, multiplicative decrease.

Pure: times are arguments. Who is in flight is counted by the caller; a limit that fell below it is
reached as requests finish.
"""

from typing import Final

_FAILURE_FACTOR: Final = 0.5
_SLOWNESS_FACTOR: Final = 0.9
_SLOW_RATIO: Final = 2.0  # against what is usual …
_SLOW_MARGIN_S: Final = 0.02  # … and by more than a scheduler's hiccup
_USUAL_WEIGHT: Final = 0.05  # how much one answer moves what is usual


class ConcurrencyLimit:
    """A limit that feels its way: more after a round of quick answers, fewer on failure or slowness.

    Until the first decrease a round of answers doubles it, afterwards it adds one (as TCP starts, RFC 5681).
    It decreases at most once per round trip: requests that started before the last decrease say
    nothing about the lower limit.
    """

    def __init__(self, *, initial: int, floor: int, ceiling: int) -> None:
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._exact = float(max(min(initial, ceiling), self._floor))
        self._usual_s: float | None = None
        self._decreased_at_s = float("-inf")
        self._reached_at_s = float("-inf")
        self._is_starting = True

    def __repr__(self) -> str:
        """Show the limit and its bounds."""
        return f"ConcurrencyLimit({self.limit} in {self._floor}..{self._ceiling})"

    @property
    def limit(self) -> int:
        """How many requests may be in flight now; at least 1, at most the ceiling."""
        return int(self._exact)

    def sent(self, *, in_flight: int, now_s: float) -> None:
        """Learn that a request started; `in_flight` counts it as well."""
        if in_flight >= self.limit:
            self._reached_at_s = now_s

    def succeeded(self, *, started_s: float, now_s: float) -> None:
        """Learn from an answer that was no failure."""
        latency_s = now_s - started_s
        usual_s = latency_s if self._usual_s is None else self._usual_s
        is_slow = latency_s > usual_s * _SLOW_RATIO + _SLOW_MARGIN_S
        self._usual_s = usual_s + _USUAL_WEIGHT * (latency_s - usual_s)
        if is_slow:
            self._decrease(_SLOWNESS_FACTOR, started_s=started_s, now_s=now_s)
        elif self._reached_at_s >= started_s:  # a limit that nobody reached meanwhile proves nothing
            self._exact = min(self._ceiling, self._exact + (1 if self._is_starting else 1 / self._exact))

    def failed(self, *, started_s: float, now_s: float) -> None:
        """Learn from a failure that may come of load: a time-out, a lost connection, 429 or 5xx."""
        self._decrease(_FAILURE_FACTOR, started_s=started_s, now_s=now_s)

    def _decrease(self, factor: float, *, started_s: float, now_s: float) -> None:
        if started_s < self._decreased_at_s:
            return
        self._is_starting = False
        self._decreased_at_s = now_s
        self._exact = max(self._floor, self._exact * factor)
