"""The batch route as a whole, between a fake spool and a scripted destination."""

import asyncio
import json
import math
import time
from functools import partial
from typing import Any

import pytest

from forwarder.clock import SystemClock
from forwarder.delivery.flights import BatchLimits
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.pacing import Backoff
from forwarder.errors import SpoolFull
from forwarder.model import Batch, Delivered, Effect, Filtered, Held, Refused, Settled, State, TryLater, Verdict

POISON = b'{"poison":1}'


def _later(*, after_s: float | None = None, effect: Effect = Effect.ANSWERED) -> TryLater:
    return TryLater(reason="answered 500", after_s=after_s, scope="route", effect=effect)


def _has_poison(batch: Batch) -> bool:
    return any(delivery.body == POISON for delivery in batch.deliveries)


def _yes(_batch: Batch) -> Verdict:
    return Delivered()


def _fill(spool: Any, count: int) -> None:
    for number in range(count):
        spool.add(b'{"n":%d}' % number)


async def test_everything_is_delivered_once(bench: Any, spool: Any) -> None:
    """A backlog is delivered in full batches, and every event is settled exactly once."""
    _fill(spool, 1_000)
    run = bench(_yes)
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 1_000}
    assert set(spool.settlements.values()) == {1}
    assert sorted(run.sink.sent()) == sorted(row.envelope.payload for row in spool.rows.values())
    assert len(run.sink.batches) == 10


async def test_lone_event_leaves_at_once(bench: Any, spool: Any) -> None:
    """A lone event on an idle route does not wait for company."""
    limits = RequestLimits(
        batch=BatchLimits(deliveries_max=100, bytes_max=100_000, wait_max_s=60.0), delivery_bytes_max=200_000
    )
    run = bench(_yes, limits=limits)
    async with run.running():
        await asyncio.sleep(0.05)  # the route has gone to sleep
        spool.add(b"{}")
        await run.until(lambda: bool(run.sink.batches))
        await run.settled()


async def test_company_gathers_while_a_request_is_under_way(bench: Any, spool: Any) -> None:
    """Events that arrive while a request is in flight travel together."""
    answer = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await answer.wait()
        return Delivered()

    run = bench(slow)
    async with run.running():
        spool.add(b"{}")
        await run.until(lambda: len(run.sink.batches) == 1)
        for _ in range(5):
            spool.add(b"{}")
            await asyncio.sleep(0.01)
        assert len(run.sink.batches) == 1
        answer.set()
        await run.settled()
    assert [len(batch.deliveries) for batch in run.sink.batches] == [1, 5]


async def test_under_load_company_gathers_for_a_moment(bench: Any, spool: Any) -> None:
    """Requests that are not full keep ten milliseconds between them, though each is answered at once."""
    run = bench(_yes)
    async with run.running():
        began_s = asyncio.get_running_loop().time()
        for _ in range(60):
            spool.add(b"{}")
            await asyncio.sleep(0.001)
        await run.settled()
        took_s = asyncio.get_running_loop().time() - began_s
    assert len(run.sink.batches) <= took_s / 0.01 + 2
    assert spool.counts() == {State.DELIVERED: 60}


async def test_one_poison_among_a_hundred(bench: Any, spool: Any) -> None:
    """One refused event costs at most 2·log2(n)+4 requests, and only it is buried."""
    _fill(spool, 63)
    spool.add(POISON)
    _fill(spool, 36)
    run = bench(lambda batch: Refused(reason="400: refused") if _has_poison(batch) else Delivered())
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 99, State.DEAD: 1}
    assert spool.rows[64].reason == "400: refused"
    assert len(run.sink.batches) <= 2 * math.log2(100) + 4
    assert "route.held" not in run.reporter.events()


async def test_unauthorised_for_a_while(bench: Any, spool: Any) -> None:
    """A wrong key holds the route, buries nothing, probes with one event, and ends by itself."""
    _fill(spool, 250)
    is_wrong = True
    run = bench(lambda _batch: Held(reason="401: the write key", scope="route") if is_wrong else Delivered())
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 5)
        assert run.route.status().state == "held"
        assert run.route.status().stop.reason == "401: the write key"
        assert [len(batch.deliveries) for batch in run.sink.batches[1:]] == [1] * (len(run.sink.batches) - 1)
        probes = [batch.deliveries[0].sequence for batch in run.sink.batches[1:5]]
        assert probes == [1, 250, 1, 250]
        is_wrong = False
        await run.settled()
        assert run.route.status().state == "running"
    assert spool.counts() == {State.DELIVERED: 250}
    assert {row.attempts for row in spool.rows.values()} <= {0, 1}  # counted once settled
    assert run.reporter.events().count("route.held") == 1
    assert run.reporter.events().count("route.hold_ended") == 1


async def test_outage_ends_a_hold(bench: Any, spool: Any) -> None:
    """An answer outside the hold's class ends it; none at all does not."""
    spool.add(b"{}")
    script: list[Verdict] = [
        Held(reason="403: forbidden", scope="route"),
        _later(effect=Effect.UNKNOWN),
        _later(effect=Effect.ANSWERED),
    ]
    run = bench(lambda _batch: script.pop(0) if script else Delivered())
    async with run.running():
        await run.until(lambda: len(run.sink.verdicts) == 2)
        assert run.route.status().state == "held"
        await run.until(lambda: len(run.sink.verdicts) == 3)
        await run.settled()
    assert "route.backing_off" in run.reporter.events()
    assert spool.counts() == {State.DELIVERED: 1}


async def test_refusal_ends_a_hold_for_the_set_up(bench: Any, spool: Any) -> None:
    """A refused probe shows that the set-up is right, and its event is buried like any other."""
    spool.add(POISON)
    script: list[Verdict] = [Held(reason="403: forbidden", scope="route")]
    run = bench(lambda _batch: script.pop(0) if script else Refused(reason="400: refused"))
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DEAD: 1}
    assert "route.hold_ended" in run.reporter.events()


async def test_ten_refusals_in_a_row_hold_the_route(bench: Any, spool: Any) -> None:
    """Ten single refusals in a row bury nothing for good: the route is held until something is accepted."""
    for _ in range(30):
        spool.add(POISON)
    run = bench(lambda batch: Refused(reason="400: refused") if _has_poison(batch) else Delivered())
    async with run.running():
        await run.until(lambda: "route.held" in run.reporter.events())
        await run.until(lambda: spool.leased() == 0)
        assert spool.counts() == {State.PENDING: 30}
        spool.add(b'{"good":1}')
        await run.until(lambda: "route.hold_ended" in run.reporter.events())
        # The ten are tried once more alone and buried; the others begin a row of their own.
        await run.until(lambda: spool.counts()[State.DEAD] >= 10)
        spool.add(b'{"good":2}')
        await run.until(lambda: spool.counts()[State.DELIVERED] == 2)
    holds = run.reporter.events().count("route.held")
    assert 1 <= holds <= 3


async def test_a_slow_disk_leaves_nothing_of_a_row_of_refusals_dead(bench: Any, spool: Any) -> None:
    """Refused while many are under way, and the disk takes its time: nothing is dead, and no death goes unrecorded."""
    writer = asyncio.Lock()  # first come, first served, as the one writer of a spool is
    kept: set[int] = set()
    put, settle, requeue = spool.put, spool.settle, spool.requeue

    async def in_turn(work: Any, *args: Any, **how: Any) -> Any:
        async with writer:
            await asyncio.sleep(0.003)
            if work == put:
                kept.update(json.loads(args[1]))
            for settled in args[0] if work == settle else ():
                is_death = isinstance(settled, Settled) and settled.state is State.DEAD
                assert not is_death or kept.issuperset(settled.sequences)
            return await work(*args, **how)

    spool.put, spool.settle, spool.requeue = (partial(in_turn, work) for work in (put, settle, requeue))
    limits = RequestLimits(
        batch=BatchLimits(deliveries_max=1, bytes_max=100_000, wait_max_s=0.2), delivery_bytes_max=200_000
    )
    is_mad = False
    run = bench(lambda _batch: Refused(reason="400") if is_mad else Delivered(), limits=limits, concurrency_max=16)
    async with run.running():
        _fill(spool, 200)
        await run.settled()
        assert run.route.status().concurrency_limit >= 8
        is_mad = True
        _fill(spool, 60)
        await run.until(lambda: run.route.status().state == "held")
        await run.until(lambda: spool.leased() == 0)
        assert spool.counts() == {State.DELIVERED: 200, State.PENDING: 60}


async def test_replaying_dead_letters_whose_cause_remains_holds_nobody(bench: Any, spool: Any) -> None:
    """Dead letters that are replayed and refused again count towards no hold, however many they are."""
    for _ in range(30):
        spool.add(POISON)
        spool.add(b'{"good":1}')
    run = bench(lambda batch: Refused(reason="400: refused") if _has_poison(batch) else Delivered())
    async with run.running():
        await run.settled()
        held = run.reporter.events().count("route.held")
        await spool.requeue([sequence for sequence, row in spool.rows.items() if row.state is State.DEAD])
        await run.settled()
        assert run.reporter.events().count("route.held") == held
    assert spool.counts() == {State.DEAD: 30, State.DELIVERED: 30}


async def test_ten_refusals_after_a_hold_bury(bench: Any, spool: Any) -> None:
    """After the hold each of the ten is tried once alone; a refusal then buries and begins no new hold."""
    for _ in range(10):
        spool.add(POISON)
    run = bench(lambda batch: Refused(reason="400: refused") if _has_poison(batch) else Delivered())
    async with run.running():
        await run.until(lambda: "route.held" in run.reporter.events())
        spool.add(b'{"good":1}')
        await run.settled()
    assert spool.counts() == {State.DEAD: 10, State.DELIVERED: 1}
    assert run.reporter.events().count("route.held") == 1


async def test_false_refusals_are_delivered_after_the_hold(bench: Any, spool: Any) -> None:
    """When a proxy refused everything for a while, nothing is lost."""
    _fill(spool, 40)
    is_mad = True
    run = bench(lambda _batch: Refused(reason="400: refused") if is_mad else Delivered())
    async with run.running():
        await run.until(lambda: "route.held" in run.reporter.events())
        await asyncio.sleep(0.1)  # several probes' worth
        is_mad = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 40}


async def test_outage_backs_the_whole_route_off(bench: Any, spool: Any) -> None:
    """While nothing succeeds one request at a time goes out, nothing is released, all is delivered afterwards."""
    _fill(spool, 350)
    is_down = True
    run = bench(lambda _batch: _later() if is_down else Delivered())
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 8)
        assert run.route.status().state == "backing_off"
        assert all(row.attempts == 0 for row in spool.rows.values())
        is_down = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 350}
    assert run.sink.in_flight_max <= 4


async def test_retry_after_is_obeyed(bench: Any, spool: Any) -> None:
    """Nothing is sent before the time that the destination asked for."""
    spool.add(b"{}")
    times: list[float] = []

    def judge(_batch: Batch) -> Verdict:
        times.append(asyncio.get_running_loop().time())
        return _later(after_s=0.3) if len(times) == 1 else Delivered()

    run = bench(judge)
    async with run.running():
        await run.until(lambda: len(times) == 1)
        spool.add(b"{}")
        await run.settled()
    assert times[1] - times[0] >= 0.29
    assert run.sink.batches[1].deliveries


async def test_poison_that_looks_like_an_outage_is_cut_out(bench: Any, spool: Any) -> None:
    """A batch that keeps failing while others succeed is split; its innocents are delivered."""
    _fill(spool, 50)
    spool.add(POISON)
    _fill(spool, 50)
    run = bench(lambda batch: _later() if _has_poison(batch) else Delivered())
    async with run.running():
        await run.until(lambda: spool.counts()[State.DELIVERED] >= 1)

        def feed() -> bool:
            spool.add(b'{"more":1}')
            return bool(spool.rows[51].attempts > 0)

        await run.until(feed)
        others = [row.state for sequence, row in spool.rows.items() if sequence <= 101 and sequence != 51]
        await run.until(lambda: spool.counts()[State.PENDING] == 1)
        assert len(others) == 100
    assert spool.rows[51].state is State.PENDING
    assert spool.rows[51].progress == b""


async def test_event_that_keeps_failing_is_given_up(bench: Any, spool: Any) -> None:
    """After twenty failures over three hours, while others succeeded, a lone event is dead."""
    sequence = spool.add(POISON)
    row = spool.rows[sequence]
    row.attempts, row.first_failed_ms = 19, SystemClock().wall_ms() - 3 * 3_600_000
    run = bench(lambda batch: _later() if _has_poison(batch) else Delivered())
    async with run.running():

        def feed() -> bool:
            spool.add(b'{"more":1}')
            return bool(row.state is State.DEAD)

        await run.until(feed)
        await run.settled()
    assert row.reason == "keeps failing: 500"


async def test_lone_failing_event_is_never_given_up_in_an_outage(bench: Any, spool: Any) -> None:
    """When nothing else succeeds a failing event waits, however often it failed."""
    sequence = spool.add(POISON)
    row = spool.rows[sequence]
    row.attempts, row.first_failed_ms = 499, 1
    run = bench(lambda _batch: _later())
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 10)
    assert row.state is State.PENDING
    assert row.attempts == 499


async def test_event_that_keeps_holding_the_route_is_found_out(bench: Any, spool: Any) -> None:
    """One event whose content makes a proxy answer 403 is isolated and, in the end, buried; nobody else is."""
    _fill(spool, 20)
    sequence = spool.add(POISON)
    run = bench(
        lambda batch: Held(reason="403: forbidden", scope="route") if _has_poison(batch) else Delivered(),
        probe_every_s=0.004,
        backoff=Backoff(first_s=0.002, max_s=0.004),
    )
    async with run.running():

        def feed() -> bool:
            spool.add(b'{"more":1}')
            return bool(spool.rows[sequence].state is State.DEAD)

        await run.until(feed, within_s=60)
        await run.settled()
    assert spool.counts()[State.DEAD] == 1
    assert spool.rows[sequence].reason == "keeps holding the route: 401"


async def test_a_note_is_kept_with_its_event_alone(bench: Any, spool: Any) -> None:
    """What people shall know of a delivered event stands with it, and with no other of its batch."""
    _fill(spool, 3)
    spool.add(b"note-me")
    run = bench(_yes)
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 4}
    assert [row.reason for row in spool.rows.values()] == ["", "", "", "left changed"]
    assert len(run.sink.batches) == 1


async def test_sizes(bench: Any, spool: Any) -> None:
    """What no batch takes travels alone; what the destination never takes is buried; limits hold for the rest."""
    big, too_big = b"x" * 1_500, b"x" * 5_001
    for body in (b"a" * 400, big, b"b" * 400, too_big, b"c" * 400):
        spool.add(body)
    limits = RequestLimits(
        batch=BatchLimits(deliveries_max=100, bytes_max=1_000, wait_max_s=0.01), delivery_bytes_max=5_000
    )
    run = bench(_yes, limits=limits)
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 4, State.DEAD: 1}
    assert spool.rows[4].reason == "too large: 5001 bytes, the destination takes 5000"
    assert all(batch.size_bytes <= 1_000 or len(batch.deliveries) == 1 for batch in run.sink.batches)


async def test_later_batches_keep_below_what_was_refused(bench: Any, spool: Any) -> None:
    """A proxy that takes less than the set limit refuses a few batches, not every one; nothing is given up."""
    proxy_bytes_max = 3_000
    run = bench(
        lambda batch: Refused(reason="413: too large") if batch.size_bytes > proxy_bytes_max else Delivered(),
        concurrency_max=1,
    )
    run.sink.statuses[Refused] = 413
    for _ in range(1_000):
        spool.add(b"x" * 100)
    async with run.running():
        await run.settled(within_s=60)
    assert spool.counts() == {State.DELIVERED: 1_000}
    refused = [batch for batch in run.sink.batches if batch.size_bytes > proxy_bytes_max]
    assert len(refused) <= 20  # of those that were gathered before the first answer, and their halves
    assert all(batch.size_bytes <= proxy_bytes_max for batch in run.sink.batches[-20:])


async def test_what_goes_nowhere_is_settled_without_a_request(bench: Any, spool: Any) -> None:
    """Filtered, unmapped and mis-mapped events are settled by state and take no batch along."""
    for payload in (b"filter-me", b"unlinked", b"crash-me", b"{}", b"filter-me", b"hopeless"):
        spool.add(payload)
    run = bench(_yes)
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.FILTERED: 2, State.UNMAPPED: 1, State.DEAD: 2, State.DELIVERED: 1}
    assert spool.rows[3].reason == "a bug in the mapping: KeyError"
    assert spool.rows[6].reason == "no type"
    assert run.sink.sent() == [b"{}"]


async def test_pause_survives_a_restart(bench: Any, spool: Any) -> None:
    """A paused route leases nothing, also after a restart, until it is resumed."""
    run = bench(_yes)
    async with run.running():
        await run.route.pause(who="ops")
        spool.add(b"{}")
        await asyncio.sleep(0.05)  # what must not happen has time to
        assert run.sink.batches == []
        assert run.route.status().state == "paused"
    again = bench(_yes)
    async with again.running():
        await asyncio.sleep(0.05)  # what must not happen has time to
        assert again.route.status().state == "paused"
        assert spool.leased() == 0
        await again.route.resume(who="ops")
        await again.settled()


async def test_a_pause_ends_by_itself(bench: Any, spool: Any) -> None:
    """A pause with an end is over then, over a restart, too, and says until then who paused it, why and until when."""
    run, ends_ms = bench(_yes), time.time_ns() // 1_000_000 + 400
    async with run.running():
        await run.route.pause(who="ops", reason="a move", until_ms=ends_ms)
        spool.add(b"{}")
        status = run.route.status()
        assert (status.state, status.reason) == ("paused", "a move")
        assert (status.pause.who, status.pause.until_ms) == ("ops", ends_ms)
    again = bench(_yes)
    async with again.running():
        await again.settled()  # nobody resumed it
        assert time.time_ns() // 1_000_000 >= ends_ms
        assert (again.route.status().state, again.route.status().pause) == ("running", None)
    spool.add(b"{}")
    third = bench(_yes)
    async with third.running():
        await third.settled()


async def test_a_pause_of_an_earlier_version_is_one(bench: Any, spool: Any) -> None:
    """What an earlier version kept of a pause still pauses."""
    await spool.put(f"route.{bench(_yes).route.name}.paused", b"1")
    run = bench(_yes)
    async with run.running():
        await asyncio.sleep(0)
        assert run.route.status().state == "paused"
        await run.route.resume(who="ops")
        await run.settled()


async def test_a_resume_survives_a_restart(bench: Any, spool: Any) -> None:
    """A route that was resumed goes on after a restart as well."""
    run = bench(_yes)
    async with run.running():
        await run.route.pause(who="ops")
        await run.route.resume(who="ops")
    spool.add(b"{}")
    again = bench(_yes)
    async with again.running():
        await again.settled()
        assert again.route.status().state == "running"


async def test_memory_is_bounded_in_bytes(bench: Any, spool: Any) -> None:
    """Whatever their number, no more than 32 MiB of payloads are leased, and 8 MiB at a time."""
    for number in range(60):
        spool.add(b"%02d" % number + b"x" * 1_048_574)
    answer = asyncio.Event()
    held: list[int] = []

    async def slow(_batch: Batch) -> Verdict:
        await answer.wait()
        return Delivered()

    limits = RequestLimits(
        batch=BatchLimits(deliveries_max=100, bytes_max=100_000_000, wait_max_s=60.0), delivery_bytes_max=4_000_000
    )
    lease = spool.lease

    def watched(route: Any, demand: Any) -> Any:
        leases = lease(route, demand)
        held.append(sum(len(one.envelope.payload) for one in leases))
        return leases

    spool.lease = watched
    run = bench(slow, limits=limits, concurrency_max=32)
    async with run.running():
        await run.until(lambda: run.route.status().in_hand >= 32)
        await asyncio.sleep(0.05)  # more would have been leased by now
        assert sum(held) == 33_554_432
        assert max(held) <= 8_388_608
        answer.set()
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 60}


async def test_pause_gives_back_what_waits(bench: Any, spool: Any) -> None:
    """A pause in an outage returns what was leased."""
    _fill(spool, 150)
    run = bench(lambda _batch: _later())
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 3)
        await run.route.pause(who="ops")
        await run.until(lambda: spool.leased() == 0)
    assert spool.counts() == {State.PENDING: 150}


async def test_drain_awaits_flight_and_releases_the_rest(bench: Any, spool: Any) -> None:
    """A drain settles what is in flight, gives the rest back uncounted, and makes `run` return."""
    _fill(spool, 350)
    answer = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await answer.wait()
        return Delivered()

    run = bench(slow)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.route.run())
        await run.until(lambda: spool.leased() > 100)
        drain = tasks.create_task(run.route.drain())
        await run.until(lambda: spool.leased() == 100)
        answer.set()
        await drain
        await task
    assert spool.counts() == {State.DELIVERED: 100, State.PENDING: 250}
    assert {row.attempts for row in spool.rows.values()} <= {0, 1}  # counted once settled
    assert spool.leased() == 0


async def test_drain_in_an_outage_skips_the_backoff(bench: Any, spool: Any) -> None:
    """A drain does not wait for a timer."""
    _fill(spool, 5)
    run = bench(lambda _batch: _later(after_s=300.0))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.route.run())
        await run.until(lambda: len(run.sink.verdicts) == 1)
        await run.route.drain()
        await task
    assert spool.counts() == {State.PENDING: 5}
    assert spool.leased() == 0


async def test_answer_after_the_drain_began_is_not_queued(bench: Any, spool: Any) -> None:
    """What fails during a drain goes back to the spool."""
    _fill(spool, 5)
    answer = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await answer.wait()
        return _later()

    run = bench(slow)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.route.run())
        await run.until(lambda: len(run.sink.batches) == 1)
        drain = tasks.create_task(run.route.drain())
        await asyncio.sleep(0.02)  # the drain has begun
        answer.set()
        await drain
        await task
    assert spool.leased() == 0
    assert len(run.sink.batches) == 1


async def test_hung_destination_can_be_cancelled(bench: Any, spool: Any) -> None:
    """Cancelling a route whose destination hangs ends it at once; its events stay pending."""
    _fill(spool, 5)
    forever = asyncio.Event()

    async def hang(_batch: Batch) -> Verdict:
        await forever.wait()
        return Delivered()

    run = bench(hang)
    task = asyncio.get_running_loop().create_task(run.route.run())
    await run.until(lambda: len(run.sink.batches) == 1)
    drain = asyncio.get_running_loop().create_task(run.route.drain())
    await asyncio.sleep(0.02)  # the drain has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(drain, 1)
    assert spool.counts() == {State.PENDING: 5}


async def test_memory_is_flat_in_an_outage(bench: Any, spool: Any) -> None:
    """Whatever the backlog, no more than a few batches are leased."""
    _fill(spool, 5_000)
    run = bench(lambda _batch: _later(), concurrency_max=4)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 10)
    assert spool.leased_max <= 2 * (4 + 1) * 100


async def test_concurrency_grows_with_success(bench: Any, spool: Any) -> None:
    """A destination that answers well gets more requests at a time, never more than the limit."""
    _fill(spool, 3_000)

    async def steady(_batch: Batch) -> Verdict:
        await asyncio.sleep(0.01)
        return Delivered()

    run = bench(steady)
    async with run.running():
        await run.settled()
    assert 2 <= run.sink.in_flight_max <= 4
    assert not any("x" in str(line) and "payload" in str(line) for line in run.reporter.lines)


async def test_concurrency_falls_with_an_outage(bench: Any, spool: Any) -> None:
    """A destination that fails for all gets fewer requests at a time."""
    _fill(spool, 2_000)
    is_down = False

    async def steady(_batch: Batch) -> Verdict:
        await asyncio.sleep(0.01)
        return _later() if is_down else Delivered()

    run = bench(steady)
    async with run.running():
        await run.until(lambda: run.route.status().concurrency_limit == 4)
        is_down = True
        await run.until(lambda: run.route.status().concurrency_limit == 1)
        is_down = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 2_000}


async def test_alive(bench: Any) -> None:
    """The watchdog sees a loop that turns, and one that does not."""
    run = bench(_yes)
    async with run.running():
        await asyncio.sleep(0.02)  # the loop has turned
        now_s = asyncio.get_running_loop().time()
        assert run.route.is_alive(now_s=now_s, within_s=10)
        assert not run.route.is_alive(now_s=now_s + 60, within_s=10)
        assert "running" in repr(run.route)


async def test_filtered_by_the_destination(bench: Any, spool: Any) -> None:
    """A verdict of filtered settles the whole batch as such."""
    _fill(spool, 3)
    run = bench(lambda _batch: Filtered(reason="not wanted there"))
    async with run.running():
        await run.settled()
    assert {(row.state, row.reason) for row in spool.rows.values()} == {(State.FILTERED, "not wanted there")}


async def test_refusals_and_failures_between_holds(bench: Any, spool: Any) -> None:
    """A batch that is refused while the route is held for another reason ends that hold and is bisected."""
    _fill(spool, 4)
    script: list[Verdict] = [Held(reason="403: forbidden", scope="route"), Refused(reason="400: refused")]
    run = bench(lambda _batch: script.pop(0) if script else Delivered())
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 3, State.DEAD: 1}


async def test_hold_for_refusals_is_not_ended_by_an_outage(bench: Any, spool: Any) -> None:
    """Only an acceptance ends a hold that refusals began: a 500 in between buries nobody."""
    for _ in range(12):
        spool.add(POISON)
    is_out = False
    run = bench(lambda _batch: _later() if is_out else Refused(reason="400: refused"))
    async with run.running():
        await run.until(lambda: "route.held" in run.reporter.events())
        is_out = True
        await run.until(lambda: isinstance(run.sink.verdicts[-1], TryLater))
        assert run.route.status().state == "held"
        is_out = False
        await asyncio.sleep(0.1)  # several probes' worth
        assert run.route.status().state == "held"
    assert spool.counts() == {State.PENDING: 12}


async def test_unwanted_work_does_not_spin(bench: Any, spool: Any) -> None:
    """A spool that keeps calling to work which it then does not lease costs little."""
    calls = 0

    async def always(*_args: object, **_kwargs: object) -> bool:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return True

    spool.wait_for_work = always
    run = bench(_yes)
    async with run.running():
        await asyncio.sleep(0.3)  # what is counted below needs time to happen
    assert calls < 40


async def test_many_failing_batches_wait_in_the_spool(bench: Any, spool: Any) -> None:
    """Batches that fail while others succeed do not fill the memory: beyond a limit they wait in the spool."""
    _fill(spool, 3_000)
    is_sick = True

    def judge(batch: Batch) -> Verdict:
        first = batch.deliveries[0].sequence
        is_bad = first % 400 > 100 and first < 2_900
        return _later() if is_sick and is_bad else Delivered()

    run = bench(judge, backoff=Backoff(first_s=0.5, max_s=0.5))
    async with run.running():
        await run.until(lambda: any(row.attempts > 0 for row in spool.rows.values()), within_s=60)
        is_sick = False
        await run.settled(within_s=60)
    assert spool.counts() == {State.DELIVERED: 3_000}
    assert spool.leased_max <= 2 * (4 + 1) * 100 + 1_100


async def test_failures_of_what_stays_in_hand_show(bench: Any, spool: Any) -> None:
    """An outage's answers, and those of a batch that is cut, are kept with each event before it is settled."""
    _fill(spool, 3)
    spool.add(POISON)
    is_away = True

    def judge(batch: Batch) -> Verdict:
        if is_away:
            return _later(effect=Effect.ANSWERED)
        return Refused(reason="400: refused") if _has_poison(batch) else Delivered()

    run = bench(judge)
    async with run.running():
        await run.until(lambda: len(spool.rows[1].tries) >= 2)
        assert {attempt.outcome for attempt in spool.rows[1].tries} == {"trylater"}
        is_away = False
        await run.settled()
    assert len([a for a in spool.rows[4].tries if a.outcome == "refused"]) == 3
    assert spool.counts() == {State.DELIVERED: 3, State.DEAD: 1}


async def test_a_full_disk_does_not_end_a_hold_for_refusals(bench: Any, spool: Any) -> None:
    """Ten refused events return to pending though the spool says that it is full at that moment."""
    _fill(spool, 10)
    refusals = 1
    requeue = spool.requeue

    async def full_once(sequences: Any, **how: bool) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolFull("the disk is full", retry_after_s=10)
        return int(await requeue(sequences, **how))

    spool.requeue = full_once
    is_mad = True
    run = bench(lambda _batch: Refused(reason="400: refused") if is_mad else Delivered())
    async with run.running():
        await run.until(lambda: run.route.status().state == "held")
        await run.until(lambda: spool.counts() == {State.PENDING: 10})
        is_mad = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 10}


async def test_a_probe_that_cannot_be_read_is_asked_for_again(bench: Any, spool: Any) -> None:
    """A hold goes on probing from the other end while the spool cannot read the newest event."""
    _fill(spool, 5)

    async def unreadable(_route: Any) -> None:
        raise SpoolFull("the spool cannot write (BusyError)", retry_after_s=10)

    spool.lease_newest = unreadable
    is_wrong = True
    run = bench(lambda _batch: Held(reason="401", scope="route") if is_wrong else Delivered())
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 4)
        is_wrong = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 5}


async def test_a_bug_in_the_sink_costs_one_event_time(bench: Any, spool: Any) -> None:
    """An error that nobody thought of ends nothing: the others get through, and its text is not logged."""
    _fill(spool, 7)
    spool.add(POISON)

    def judge(batch: Batch) -> Verdict:
        if _has_poison(batch):
            raise KeyError(POISON)
        return Delivered()

    run = bench(judge)
    async with run.running():
        async with asyncio.timeout(60):
            while any(spool.rows[sequence].state is State.PENDING for sequence in range(1, 8)):
                spool.add(b"{}")
                await asyncio.sleep(0.01)  # others pass, which tells the batch from an outage
    assert spool.rows[8].state is State.PENDING
    assert spool.rows[8].tries[-1].reason == "a bug in the sink: KeyError"
    assert not any("poison" in str(line) for line in run.reporter.lines)


async def test_event_is_leased_again_before_its_settler_heard(bench: Any, replayed_at_once: Any) -> None:
    """An event that is replayed as it settles is delivered again, and what is in hand is counted right."""
    spool = replayed_at_once
    spool.add(b"{}")
    run = bench(_yes, spool=spool)
    spool.until_leased_again = lambda: run.until(lambda: len(run.sink.batches) == 2)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) == 2)
        await run.settled()
        await run.until(lambda: run.route.status().in_hand == 0)
    assert spool.counts() == {State.DELIVERED: 1}
    assert run.route.status().in_flight == 0


async def test_probes_of_an_outage_do_not_stay_in_hand(bench: Any, spool: Any) -> None:
    """An event that is leased only to ask whether the destination is back is given back: memory stays flat."""
    _fill(spool, 100)
    limits = RequestLimits(
        batch=BatchLimits(deliveries_max=2, bytes_max=1_000, wait_max_s=0.0), delivery_bytes_max=1_000
    )
    run = bench(lambda _batch: _later(), limits=limits, backoff=Backoff(first_s=0.001, max_s=0.001), concurrency_max=1)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) > 60, within_s=60)
        assert spool.leased() <= 2 * (1 + 1) * 2 + 1
    assert spool.counts() == {State.PENDING: 100}


async def test_a_restart_in_a_row_of_refusals_buries_nothing(bench: Any, spool: Any) -> None:
    """Nine refused in a row before a restart, and one after it, hold the route, and all ten return to pending."""
    for _ in range(9):
        spool.add(POISON)
    run = bench(lambda _batch: Refused(reason="400: refused"))
    async with run.running():
        await run.settled()
    assert spool.counts() == {State.DEAD: 9}
    spool.add(POISON)
    again = bench(lambda _batch: Refused(reason="400: refused"))
    async with again.running():
        await again.until(lambda: again.route.status().state == "held")
        await again.until(lambda: spool.counts() == {State.PENDING: 10})


async def test_a_row_of_refusals_that_ended_is_not_known_after_a_restart(bench: Any, spool: Any) -> None:
    """What was accepted between ends the row, for good."""
    for payload in (*[POISON] * 9, b"good"):
        spool.add(payload)
        run = bench(lambda batch: Refused(reason="400: refused") if _has_poison(batch) else Delivered())
        async with run.running():
            await run.settled()
    spool.add(POISON)
    again = bench(lambda _batch: Refused(reason="400: refused"))
    async with again.running():
        await again.settled()
    assert spool.counts() == {State.DEAD: 10, State.DELIVERED: 1}


@pytest.mark.parametrize("stop", ["drain", "pause"])
async def test_a_probe_that_was_read_too_late_is_not_sent(bench: Any, spool: Any, stop: str) -> None:
    """An event that is read for a probe while somebody pauses or stops the route goes back as it was."""
    _fill(spool, 5)
    reading, go_on = asyncio.Event(), asyncio.Event()
    lease_newest = spool.lease_newest

    async def slow(route: Any) -> Any:
        reading.set()
        await go_on.wait()
        return await lease_newest(route)

    spool.lease_newest = slow
    run = bench(lambda _batch: Held(reason="401: the key", scope="route"))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.route.run())
        await reading.wait()
        sent = len(run.sink.batches)
        ending = tasks.create_task(run.route.drain() if stop == "drain" else run.route.pause(who="ops"))
        await asyncio.sleep(0)
        go_on.set()
        await ending
        if stop == "pause":
            await run.until(lambda: spool.leased() == 0)
            await run.route.drain()
        await task
    assert len(run.sink.batches) == sent
    assert (spool.leased(), spool.counts()) == (0, {State.PENDING: 5})
