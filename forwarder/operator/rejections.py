"""Requests that were turned away, by endpoint and reason, in the last hour and day: the counters, read each minute."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from prometheus_client import Counter as Metric

_MINUTE_MS: Final = 60_000
_HOUR: Final = 60
_DAY: Final = 1_440

Counts = Counter[tuple[str, str]]


class Rejected(Struct, frozen=True, kw_only=True):
    """How many requests an endpoint turned away for one reason."""

    endpoint: str
    reason: str
    last_hour: int
    last_day: int


class Rejections:
    """A day of samples, in memory: of what was before the start nothing is known."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._samples: deque[tuple[int, Counts]] = deque(maxlen=_DAY + 1)

    def sample(self, *, now_ms: int) -> None:
        """Read the counters, if a minute has passed."""
        if not self._samples:
            self._samples.append((now_ms - _MINUTE_MS, Counter()))
        if now_ms - self._samples[-1][0] >= _MINUTE_MS:
            self._samples.append((now_ms, self._read()))

    def lately(self) -> Sequence[Rejected]:
        """Return what was turned away within the day, most of the last hour first."""
        now = self._read()
        hour, day = (now - self._before(minutes) for minutes in (_HOUR, _DAY))
        found = [Rejected(endpoint=e, reason=r, last_hour=hour[e, r], last_day=count) for (e, r), count in day.items()]
        return sorted(found, key=lambda one: (-one.last_hour, -one.last_day, one.endpoint, one.reason))

    def _before(self, minutes: int) -> Counts:
        return self._samples[-min(minutes + 1, len(self._samples))][1] if self._samples else Counter()

    def _read(self) -> Counts:
        samples = [sample for metric in self._metric.collect() for sample in metric.samples]
        return Counter(
            {
                (sample.labels["endpoint"], sample.labels["reason"]): int(sample.value)
                for sample in samples
                if sample.name.endswith("_total") and sample.value  # most are 0, and a day of samples is kept
            }
        )
