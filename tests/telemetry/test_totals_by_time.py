"""What came and went is known for a week, over restarts and whatever the clock does."""

from typing import cast

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as some

from forwarder.archive_port import SpoolFacts
from forwarder.errors import SpoolFull
from forwarder.model import RouteName, Totals
from forwarder.ports import Spool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import NETWORKS_MAX as COUNTED_MAX
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.series import NETWORKS_MAX, Flow, Series
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, HOUR_MS, MINUTE_MS, Rejected, TotalsByTime
from stand_ins.clock import HandClock
from stand_ins.kept_in_memory import KeptInMemory

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
NOW_MS = 1_800_000_000_000


def facts(*, pending: int = 0, dead: int = 0) -> SpoolFacts:
    """Return what a spool would say."""
    totals = Totals(accepted=pending + dead, pending=pending, delivered=0, filtered=0, unmapped=0, dead=dead)
    return SpoolFacts(
        size_bytes=0,
        cap_bytes=1,
        unsettled_bytes={},
        totals={ROUTE: totals},
        oldest_pending_ms={},
        retrying={},
        open_dead={},
        discarded={},
        corrupt_rows=0,
        is_accepting=True,
        refusal="",
        engine="",
    )


class Daemon:
    """The counters of a daemon, and what is made of them."""

    def __init__(self, clock: HandClock) -> None:
        self.clock, self.metrics = clock, Metrics()
        self.by_time = TotalsByTime(self.metrics, clock)

    def flows(self, *, is_fine: bool = True) -> list[tuple[int, Flow]]:
        """Return all that is known of the route: by minute, or by five."""
        series = self.by_time.minutes if is_fine else self.by_time.fives
        return [(at, step.flows[ROUTE]) for at, step in series.between(0, 2 * NOW_MS) if ROUTE in step.flows]


@pytest.fixture
def daemon() -> Daemon:
    """Return a daemon that has just started."""
    return Daemon(HandClock(NOW_MS))


def test_each_minute_knows_what_came_what_went_what_was_pending_and_what_died(daemon: Daemon) -> None:
    """Counters by their difference, pending by its most, dead by its growth; a replay that takes back is no death."""
    for pending, dead in ((3, 7), (9, 7), (2, 10), (5, 4)):
        daemon.metrics.received.labels(ROUTE.value).inc(10)
        daemon.metrics.settled.labels(ROUTE.value, "delivered").inc(4)
        daemon.metrics.settled.labels(ROUTE.value, "dead").inc(1)
        daemon.by_time.look(facts(pending=pending, dead=dead))
        daemon.clock.now_ms += 10_000
    daemon.clock.now_ms += MINUTE_MS
    daemon.by_time.look(facts(pending=1, dead=6))
    assert daemon.flows() == [
        (NOW_MS, Flow(came=40, went=16, pending=9, dead=4, died=3)),
        (NOW_MS + MINUTE_MS, Flow(pending=1, dead=6, died=2)),
    ]
    assert daemon.flows(is_fine=False) == [(NOW_MS, Flow(came=40, went=16, pending=9, dead=6, died=5))]


async def test_a_restart_and_a_second_copy_of_a_minute_add_up(daemon: Daemon) -> None:
    """What was kept goes on in the same minute; a written slot that cannot be read costs that slot alone."""
    kept = KeptInMemory()
    daemon.metrics.received.labels(ROUTE.value).inc(5)
    daemon.by_time.look(facts(dead=2))
    await daemon.by_time.save(cast("Spool", kept))
    again = Daemon(daemon.clock)
    await again.by_time.load(cast("Spool", kept))
    again.metrics.received.labels(ROUTE.value).inc(7)
    again.by_time.look(facts(dead=2))
    assert again.flows() == [(NOW_MS, Flow(came=12, dead=2))]
    for key in kept.values:
        kept.values[key] = kept.values[key] if "fives" in key else b"\xff"
    other = Daemon(daemon.clock)
    await other.by_time.load(cast("Spool", kept))
    assert (other.flows(), other.flows(is_fine=False)) == ([], [(NOW_MS, Flow(came=5, dead=2))])


async def test_the_disk_is_written_once_a_minute(daemon: Daemon) -> None:
    """Two small values a minute and at the end, however often it is looked."""
    kept = KeptInMemory()
    for _ in range(180):
        daemon.by_time.look(facts())
        await daemon.by_time.save(cast("Spool", kept))
        daemon.clock.now_ms += 1_000
    assert kept.changes == 2 * 3
    await daemon.by_time.save(cast("Spool", kept), is_last=True)
    assert kept.changes == 2 * 4


@settings(deadline=None, max_examples=50)
@given(some.lists(some.tuples(some.integers(-3 * DAY_MS, 3 * DAY_MS), some.integers(0, 50)), min_size=1, max_size=40))
def test_nothing_is_counted_twice_or_lost_whatever_the_clock_does(steps: list[tuple[int, int]]) -> None:
    """Within the week that is kept, the sum of the steps is what the counter says, also with the clock set back."""
    daemon = Daemon(HandClock(NOW_MS))
    for offset_ms, more in steps:
        daemon.clock.now_ms = NOW_MS + offset_ms
        daemon.metrics.received.labels(ROUTE.value).inc(more)
        daemon.by_time.read()
    assert sum(flow.came for _, flow in daemon.flows(is_fine=False)) == sum(more for _, more in steps)


def test_memory_is_bounded_by_the_ring() -> None:
    """However long it runs, a series holds so many steps and no more, the newest."""
    series = Series("x", step_ms=1, per_slot=5, slots=3)
    for at_ms in range(1_000):
        series.at(at_ms)
    assert [at_ms for at_ms, _ in series.between(0, 2_000)] == list(range(985, 1_000))
    assert [at_ms for at_ms, _ in series.between(988, 991)] == [988, 989, 990]


def test_the_last_hour_and_day_are_counted(daemon: Daemon) -> None:
    """What is older than an hour counts for the day alone, and what is older than a day for nothing."""
    rejected, clock = daemon.metrics.rejected, daemon.clock
    assert daemon.by_time.lately() == []
    rejected.labels("/webhooks/courier", "signature_mismatch").inc(3)
    rejected.labels("/v1", "key_unknown").inc(1)
    assert [one.last_hour for one in daemon.by_time.lately()] == [3, 1]
    clock.now_ms += HOUR_MS + MINUTE_MS
    rejected.labels("/v1", "key_unknown").inc(2)
    assert daemon.by_time.lately() == [
        Rejected(endpoint="/v1", reason="key_unknown", network="", last_hour=2, last_day=3),
        Rejected(endpoint="/webhooks/courier", reason="signature_mismatch", network="", last_hour=0, last_day=3),
    ]
    clock.now_ms += DAY_MS - HOUR_MS + FIVE_MS - MINUTE_MS
    assert daemon.by_time.lately() == [
        Rejected(endpoint="/v1", reason="key_unknown", network="", last_hour=0, last_day=2)
    ]
    clock.now_ms += HOUR_MS + FIVE_MS
    assert daemon.by_time.lately() == []


def test_networks_are_told_apart_up_to_a_bound(daemon: Daemon) -> None:
    """Each network counts for itself, what has none beside them; a stranger's thousand addresses are one row."""
    reporter = Reporter(daemon.metrics, structlog.get_logger(wrapper_class=structlog.make_filtering_bound_logger(50)))
    for network in ("192.0.2.0/24", "192.0.2.0/24", "2001:db8::/48", ""):
        reporter.request_rejected("/v1", "key_unknown", network)
    told = {one.network: one.last_hour for one in daemon.by_time.lately()}
    assert told == {"192.0.2.0/24": 2, "2001:db8::/48": 1, "": 1}
    for number in range(1_000):
        reporter.request_rejected("/v1", "key_unknown", f"10.{number // 256}.{number % 256}.0/24")
    assert len(daemon.metrics.rejected_from) == COUNTED_MAX + 1
    told = {one.network: one.last_hour for one in daemon.by_time.lately()}
    assert (len(told), sum(told.values())) == (NETWORKS_MAX + 1, 1_004)
    assert max(told, key=lambda network: told[network]) == "others"
    for _ in range(20):
        daemon.clock.now_ms += FIVE_MS
        for number in range(50):
            reporter.request_rejected("/v1", "key_unknown", f"10.{daemon.clock.now_ms % 251}.{number}.0/24")
        daemon.by_time.read()
    told = {one.network: one.last_day for one in daemon.by_time.lately()}
    assert len(told) == 100
    assert sum(told.values()) == 2_004
    assert sum(one.last_hour for one in daemon.by_time.lately()) == 50 * 13


async def test_replicas_add_up(daemon: Daemon) -> None:
    """Each counts what it took in and turned away; what all see alike is counted once; each sees all of it soon."""
    kept = KeptInMemory()
    spools = [cast("Spool", kept), cast("Spool", KeptInMemory(beside=kept))]
    replicas = [daemon, Daemon(daemon.clock)]
    for number, replica in enumerate(replicas):
        replica.metrics.received.labels(ROUTE.value).inc(10 + number)
        replica.metrics.rejected.labels("/v1", "key_unknown").inc(2)
        for dead in (3, 5):
            replica.by_time.look(facts(pending=7, dead=dead), leads=number == 0)
    for replica, spool in (*zip(replicas, spools, strict=True), (replicas[0], spools[0])):
        await replica.by_time.save(spool, is_last=True)
    for replica in replicas:
        assert replica.flows() == [(NOW_MS, Flow(came=21, pending=7, dead=5, died=2))]
        assert sum(one.last_hour for one in replica.by_time.lately()) == 4
    replicas[1].metrics.received.labels(ROUTE.value).inc(1)
    daemon.clock.now_ms += 10_000
    replicas[1].by_time.look(facts(pending=1, dead=5), leads=False)
    assert replicas[1].flows() == [(NOW_MS, Flow(came=22, pending=7, dead=5, died=2))]


async def test_what_could_not_be_kept_is_kept_later(daemon: Daemon) -> None:
    """While nothing can be written, what is counted waits, and is kept once."""
    kept = KeptInMemory()
    daemon.metrics.received.labels(ROUTE.value).inc(3)
    daemon.by_time.look(facts())
    kept.is_full = True
    with pytest.raises(SpoolFull):
        await daemon.by_time.save(cast("Spool", kept))
    daemon.metrics.received.labels(ROUTE.value).inc(4)
    kept.is_full = False
    daemon.by_time.read()
    await daemon.by_time.save(cast("Spool", kept), is_last=True)
    again = Daemon(daemon.clock)
    await again.by_time.load(cast("Spool", kept))
    assert (daemon.flows(), again.flows()) == ([(NOW_MS, Flow(came=7))], [(NOW_MS, Flow(came=7))])
