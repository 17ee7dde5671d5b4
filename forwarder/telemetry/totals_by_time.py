"""What came and went, minute by minute for two hours and by five minutes for nine days: kept on disk over restarts.

Differences of the daemon's own counters, read now and then and never with an event, so that keeping them costs delivery
nothing; those of several replicas add up. They are put down under the wall clock's minute: one that is set back adds to
what is there, one that jumps leaves a gap.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from forwarder.archive_port import SpoolFacts
from forwarder.model import RouteName
from forwarder.ports import Clock, Spool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import read_counts
from forwarder.telemetry.reporter import OTHERS
from forwarder.telemetry.series import NETWORKS_MAX, Flow, Rejections, Series, add_rejections

MINUTE_MS: Final = 60_000
FIVE_MS: Final = 300_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_SHOWN_MAX: Final = 100
_READ_EVERY_MS: Final = 10_000


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests an endpoint turned away for one reason, from one network ("" where that is not known)."""

    endpoint: str
    reason: str
    network: str
    last_hour: int
    last_day: int


class TotalsByTime:
    """Both series, and what fills them. For the event loop's thread."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.minutes = Series("minutes", step_ms=MINUTE_MS, per_slot=60, slots=3)
        self.fives = Series("fives", step_ms=FIVE_MS, per_slot=72, slots=38)
        self._counts: dict[RouteName, tuple[int, int]] = {}
        self._senders: dict[str, int] = {}
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._facts: SpoolFacts | None = None
        self._read_ms: int | None = None
        self._saved_minute: int | None = None

    def read(self) -> None:
        """Add what the counters have counted since the last time."""
        self._read_ms = now_ms = self._clock.wall_ms()
        counts = {route: (int(one.received), int(one.delivered)) for route, one in read_counts(self._metrics).items()}
        senders = {name: count for name, count in self._metrics.answers.accepted().items() if name.startswith("/")}
        rejected = _rejected(self._metrics)
        came = {name: more for name, count in senders.items() if (more := count - self._senders.get(name, 0))}
        turned_away = self._by_network(rejected - self._rejected)
        for step in (*self.minutes.both(now_ms), *self.fives.both(now_ms)):
            for route, (received, delivered) in counts.items():
                before = self._counts.get(route, (0, 0))
                flow = step.flows.setdefault(route, Flow())
                flow.came += received - before[0]
                flow.went += delivered - before[1]
            for name, more in came.items():
                step.senders[name] = step.senders.get(name, 0) + more
            add_rejections(step.rejected, turned_away, keys_max=NETWORKS_MAX)
        self._counts, self._senders, self._rejected = counts, senders, rejected

    def look(self, facts: SpoolFacts, *, leads: bool = True) -> None:
        """Note how much is pending and dead; each second. Reads the counters now and then.

        All replicas see the same facts: only the one that `leads` keeps what they say.
        """
        now_ms = self._clock.wall_ms()
        if self._read_ms is None or abs(now_ms - self._read_ms) >= _READ_EVERY_MS or self._is_new_minute(now_ms):
            self.read()
        pairs = self.minutes.both(now_ms), self.fives.both(now_ms)
        steps = [step for pair in pairs for step in (pair if leads else pair[:1])]
        before = self._facts or facts
        self._facts = facts
        for route, totals in facts.totals.items():
            erased = erased_between(before, facts, route)
            dead_before = before.totals[route].dead if route in before.totals else totals.dead
            died = max(0, totals.dead - dead_before - erased)  # a replay takes some back: none died then
            for step in steps:
                flow = step.flows.setdefault(route, Flow())
                flow.pending, flow.dead = max(flow.pending, totals.pending), totals.dead
                flow.died, flow.erased = flow.died + died, flow.erased + erased

    def lately(self) -> Sequence[Rejected]:
        """Return what was turned away within the day, most of the last hour first."""
        self.read()
        now_ms = self._clock.wall_ms()
        hour = self._rejected_since(self.minutes, now_ms - HOUR_MS, now_ms)
        day = self._rejected_since(self.fives, now_ms - DAY_MS, now_ms)
        shown: Rejections = {}
        add_rejections(shown, dict(sorted(day.items(), key=lambda one: -one[1])), keys_max=_SHOWN_MAX)
        of_hour: Rejections = {}
        for key, count in hour.items():
            add_rejections(of_hour, {key if key in shown else (*key[:2], OTHERS): count})
        found = [
            Rejected(endpoint=key[0], reason=key[1], network=key[2], last_hour=of_hour.get(key, 0), last_day=count)
            for key, count in shown.items()
        ]
        return sorted(found, key=lambda one: (-one.last_hour, -one.last_day, one.endpoint, one.reason, one.network))

    async def load(self, spool: Spool) -> None:
        """Read what was kept before the start."""
        for series in (self.minutes, self.fives):
            await series.load(spool)

    async def save(self, spool: Spool, *, is_last: bool = False) -> None:
        """Keep it on disk, once a minute and at the end."""
        minute = self._clock.wall_ms() // MINUTE_MS
        if minute == self._saved_minute and not is_last:
            return
        self._saved_minute = minute
        for series in (self.minutes, self.fives):
            await series.save(spool, now_ms=self._clock.wall_ms())

    def _is_new_minute(self, now_ms: int) -> bool:
        return self._read_ms is not None and now_ms // MINUTE_MS != self._read_ms // MINUTE_MS

    def _by_network(self, more: Counter[tuple[str, str]]) -> Rejections:
        """Return these with the networks that they came from, which are known of some."""
        found: Rejections = {}
        for (endpoint, reason, network), count in self._metrics.take_rejected_from().items():
            found[endpoint, reason, network] = count
            more[endpoint, reason] -= count
        return found | {(*key, ""): count for key, count in more.items() if count > 0}

    @staticmethod
    def _rejected_since(series: Series, from_ms: int, now_ms: int) -> Rejections:
        found: Rejections = {}
        for _, step in series.between(from_ms - series.step_ms + 1, now_ms + 1):
            add_rejections(found, step.rejected)
        return found


def erased_between(before: SpoolFacts, after: SpoolFacts, route: RouteName) -> int:
    """Return how many of a route became dead by being erased while they waited: discarded at once, never open.

    What died within the same second in which dead ones were discarded is taken for erased, too, at most as many.
    """
    discarded = after.discarded.get(route, 0) - before.discarded.get(route, 0)
    were_open = max(0, before.open_dead.get(route, 0) - after.open_dead.get(route, 0))
    return max(0, discarded - were_open)


def _rejected(metrics: Metrics) -> Counter[tuple[str, str]]:
    """Return how many requests were turned away since the start, by endpoint and reason."""
    return Counter(
        {
            (sample.labels["endpoint"], sample.labels["reason"]): int(sample.value)
            for metric in metrics.rejected.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        }
    )
