"""What came and went, minute by minute for two hours and by five minutes for nine days: kept on disk over restarts.

Differences of the daemon's own counters, read now and then and never with an event, so that keeping them costs delivery
nothing. They are put down under the wall clock's minute: one that is set back adds to what is there, one that jumps
leaves a gap.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from forwarder.model import RouteName
from forwarder.ports import Clock, Spool, SpoolFacts
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import read_counts

MINUTE_MS: Final = 60_000
FIVE_MS: Final = 300_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_READ_EVERY_MS: Final = 10_000

Rejections = Counter[tuple[str, str, str]]  # endpoint, reason, network


class Flow(msgspec.Struct, array_like=True, omit_defaults=True):
    """One route in one step. `pending`: the most at once; `dead`: the durable total at its end, `died`: its growth."""

    came: int = 0
    went: int = 0
    pending: int = 0
    dead: int = 0
    died: int = 0


class Step(msgspec.Struct, array_like=True, omit_defaults=True):
    """Everything in one step. `senders`: requests that were accepted, by endpoint."""

    flows: dict[RouteName, Flow] = {}
    senders: dict[str, int] = {}
    rejected: dict[tuple[str, str, str], int] = {}


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests an endpoint turned away for one reason, from one network ("" where that is not known)."""

    endpoint: str
    reason: str
    network: str
    last_hour: int
    last_day: int


class Series:
    """Steps of one length in a ring of slots; memory and disk hold `slots` times `per_slot` of them at most."""

    def __init__(self, name: str, *, step_ms: int, per_slot: int, slots: int) -> None:
        self.step_ms = step_ms
        self._name, self._per_slot, self._slots = name, per_slot, slots
        self._ring: dict[int, tuple[int, dict[int, Step]]] = {}  # slot's place → its number, its steps by number
        self._changed: set[int] = set()

    def at(self, at_ms: int) -> Step:
        """Return the step of that moment, to be added to."""
        number = at_ms // self.step_ms
        slot = number // self._per_slot
        place = slot % self._slots
        if self._ring.get(place, (None,))[0] != slot:
            self._ring[place] = slot, {}
        self._changed.add(place)
        return self._ring[place][1].setdefault(number, Step())

    def get(self, at_ms: int) -> Step | None:
        """Return the step of that moment, if anything is known of it."""
        number = at_ms // self.step_ms
        slot, steps = self._ring.get(number // self._per_slot % self._slots, (None, {}))
        return steps.get(number) if slot == number // self._per_slot else None

    def between(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, Step]]:
        """Yield the steps that begin in there, oldest first, with their beginnings."""
        for slot, steps in sorted(self._ring.values(), key=lambda one: one[0]):
            if slot * self._per_slot * self.step_ms >= to_ms or (slot + 1) * self._per_slot * self.step_ms <= from_ms:
                continue
            for number in sorted(steps):
                if from_ms <= number * self.step_ms < to_ms:
                    yield number * self.step_ms, steps[number]

    async def save(self, spool: Spool) -> None:
        """Keep the slots that changed."""
        for place in sorted(self._changed):
            self._changed.discard(place)
            await spool.put(self._key(place), msgspec.msgpack.encode(self._ring[place]))

    async def load(self, spool: Spool) -> None:
        """Read what was kept; what cannot be read is left behind."""
        for place in range(self._slots):
            kept = await spool.get(self._key(place))
            try:
                if kept:
                    self._ring[place] = msgspec.msgpack.decode(kept, type=tuple[int, dict[int, Step]])
            except msgspec.MsgspecError:
                continue

    def _key(self, place: int) -> str:
        return f"totals {self._name} {place}"


class TotalsByTime:
    """Both series, and what fills them. For the event loop's thread."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.minutes = Series("minutes", step_ms=MINUTE_MS, per_slot=60, slots=3)
        self.fives = Series("fives", step_ms=FIVE_MS, per_slot=72, slots=38)
        self._counts: dict[RouteName, tuple[int, int]] = {}
        self._senders: dict[str, int] = {}
        self._rejected: Rejections = Counter()
        self._dead: dict[RouteName, int] = {}
        self._read_ms: int | None = None
        self._saved_minute: int | None = None

    def read(self) -> None:
        """Add what the counters have counted since the last time."""
        self._read_ms = now_ms = self._clock.wall_ms()
        counts = {route: (int(one.received), int(one.delivered)) for route, one in read_counts(self._metrics).items()}
        senders = {name: count for name, count in self._metrics.answers.accepted().items() if name.startswith("/")}
        rejected = read_rejected(self._metrics)
        came = {name: more for name, count in senders.items() if (more := count - self._senders.get(name, 0))}
        turned_away = rejected - self._rejected
        for step in (self.minutes.at(now_ms), self.fives.at(now_ms)):
            for route, (received, delivered) in counts.items():
                before = self._counts.get(route, (0, 0))
                flow = step.flows.setdefault(route, Flow())
                flow.came += received - before[0]
                flow.went += delivered - before[1]
            for name, more in came.items():
                step.senders[name] = step.senders.get(name, 0) + more
            for key, more in turned_away.items():
                step.rejected[key] = step.rejected.get(key, 0) + more
        self._counts, self._senders, self._rejected = counts, senders, rejected

    def look(self, facts: SpoolFacts) -> None:
        """Note how much is pending and dead; each second. Reads the counters now and then."""
        now_ms = self._clock.wall_ms()
        if self._read_ms is None or abs(now_ms - self._read_ms) >= _READ_EVERY_MS or self._is_new_minute(now_ms):
            self.read()
        steps = self.minutes.at(now_ms), self.fives.at(now_ms)
        for route, totals in facts.totals.items():
            died = max(0, totals.dead - self._dead.get(route, totals.dead))  # a replay takes some back: none died then
            self._dead[route] = totals.dead
            for step in steps:
                flow = step.flows.setdefault(route, Flow())
                flow.pending, flow.dead, flow.died = max(flow.pending, totals.pending), totals.dead, flow.died + died

    def lately(self) -> Sequence[Rejected]:
        """Return what was turned away within the day, most of the last hour first."""
        self.read()
        now_ms = self._clock.wall_ms()
        hour = self._rejected_since(self.minutes, now_ms - HOUR_MS, now_ms)
        day = self._rejected_since(self.fives, now_ms - DAY_MS, now_ms)
        found = [
            Rejected(endpoint=endpoint, reason=reason, network=network, last_hour=hour[key], last_day=count)
            for key, count in day.items()
            for endpoint, reason, network in (key,)
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
            await series.save(spool)

    def _is_new_minute(self, now_ms: int) -> bool:
        return self._read_ms is not None and now_ms // MINUTE_MS != self._read_ms // MINUTE_MS

    @staticmethod
    def _rejected_since(series: Series, from_ms: int, now_ms: int) -> Rejections:
        found: Rejections = Counter()
        for _, step in series.between(from_ms - series.step_ms + 1, now_ms + 1):
            found.update(step.rejected)
        return found


def read_rejected(metrics: Metrics) -> Rejections:
    """Return how many requests were turned away since the start; where their networks are known, by these."""
    by_reason = {
        (sample.labels["endpoint"], sample.labels["reason"]): int(sample.value)
        for metric in metrics.rejected.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.value
    }
    found: Rejections = Counter(metrics.rejected_from)
    for (endpoint, reason, _), count in metrics.rejected_from.items():
        by_reason[endpoint, reason] -= count
    found.update({(endpoint, reason, ""): count for (endpoint, reason), count in by_reason.items() if count > 0})
    return found
