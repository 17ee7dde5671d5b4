"""How much a second, over the last few seconds, from counts that only grow. Pure: time is given."""

from collections import deque
from collections.abc import Mapping

_WINDOW_S = 2.0


class Rates:
    """Keep the last counts and tell how fast they grow."""

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
