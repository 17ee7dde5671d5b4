"""What people replay goes beside what arrives: it neither holds it, nor makes it older, nor waits for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from forwarder.clock import SystemClock
from forwarder.delivery.pacing import Backoff
from forwarder.model import Batch, Delivered, Effect, Held, Refused, RouteName, State, TryLater, Verdict
from stand_ins.spool_acts import leased, settle

OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
MANY = 30  # more than may take their place in the line
LATER = TryLater(reason="answered 500", after_s=None, scope="route", effect=Effect.ANSWERED)
SILENT = TryLater(reason="no answer", after_s=None, scope="event", effect=Effect.UNKNOWN)
TROUBLES: dict[str, Verdict] = {
    "400": Refused(reason="400: refused"),
    "401": Held(reason="401: the key", scope="route"),
    "500": LATER,
    "silence": SILENT,
}


async def _bury(spool: Any, route: RouteName) -> list[int]:
    """Make everything that is pending dead, as if it had been refused long ago."""
    buried: list[int] = []
    while leases := await leased(spool, route):
        sequences = [lease.sequence for lease in leases]
        await settle(spool, sequences, State.DEAD, reason="refused")
        buried += sequences
    spool.settlements.clear()
    return buried


def _is_of(batch: Batch, words: bytes | str) -> bool:
    text = words.encode() if isinstance(words, str) else words
    return any(text in delivery.body for delivery in batch.deliveries)


async def _live_pass(run: Any, route: RouteName, payloads: Sequence[bytes], user: str = "") -> None:
    """See each of these delivered as it arrives, with the route running all the time."""
    for number, payload in enumerate(payloads):
        sequence = run.spool.add(payload, partition_key=user or (f"l{number}" if route is IN else ""), route=route)
        await run.until(lambda sequence=sequence: run.spool.rows[sequence].state is State.DELIVERED, within_s=20)
        assert run.route.status().state == "running"


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("route", [OUT, IN], ids=["batches", "calls"])
async def test_dead_letters_whose_cause_remains_disturb_nobody(
    bench: Any, call_bench: Any, spool: Any, route: RouteName, trouble: str
) -> None:
    """However the destination answers to them: what arrives is delivered at once, and nothing holds or backs it off."""
    for number in range(MANY):
        spool.add(b"send:old%d" % number, partition_key=f"u{number % 7}" if route is IN else "", route=route)
    dead = await _bury(spool, route)
    is_wrong = True

    def judge(batch: Batch) -> Verdict:
        return TROUBLES[trouble] if is_wrong and _is_of(batch, "old") else Delivered()

    run = (bench if route is OUT else call_bench)(judge)
    async with run.running():
        await _live_pass(run, route, [b"send:a"])
        await spool.requeue(dead)
        await run.until(lambda: any(_is_of(batch, "old") for batch in run.sink.batches))
        await _live_pass(run, route, [b"send:%d" % number for number in range(40)])
        assert run.route.status().stop is None
        assert all(stop.scope.startswith("replays") for stop in run.route.status().families)
        told = [line for line in run.reporter.lines if line["event"] in {"route.held", "route.backing_off"}]
        assert all(str(line["scope"]).startswith("replays") for line in told)
        if trouble == "400":
            await run.until(lambda: spool.counts()[State.DEAD] == MANY)
            await spool.requeue(dead)
        is_wrong = False
        await run.settled()
        assert run.route.status().families == ()
    assert spool.counts() == {State.DELIVERED: MANY + 41}


@pytest.mark.parametrize(("route", "most"), [(OUT, 1), (IN, 2)], ids=["batches", "calls"])
async def test_replays_that_hang_starve_nobody(
    bench: Any, call_bench: Any, spool: Any, route: RouteName, most: int
) -> None:
    """At most one batch, or two calls, of replays are under way, and take nobody's slot."""
    for number in range(MANY):
        spool.add(b"send:old%d" % number, partition_key=f"u{number}" if route is IN else "", route=route)
    dead = await _bury(spool, route)
    gate = asyncio.Event()
    under_way: list[int] = [0]
    seen: list[int] = []

    async def judge(batch: Batch) -> Verdict:
        if _is_of(batch, "old"):
            under_way[0] += 1
            seen.append(under_way[0])
            await gate.wait()
            under_way[0] -= 1
        return Delivered()

    run = (bench if route is OUT else call_bench)(judge, concurrency_max=1)
    async with run.running():
        await spool.requeue(dead)
        await run.until(lambda: under_way[0] == most)
        await _live_pass(run, route, [b"send:%d" % number for number in range(20)])
        gate.set()
        await run.settled()
    assert max(seen) == most
    assert spool.counts() == {State.DELIVERED: MANY + 20}


async def test_a_flood_does_not_starve_replays(bench: Any, spool: Any) -> None:
    """Replays go on while more arrives than the destination takes."""
    for number in range(MANY):
        spool.add(b"old%d" % number)
    dead = await _bury(spool, OUT)
    gate = asyncio.Event()

    async def judge(batch: Batch) -> Verdict:
        if not _is_of(batch, "old"):
            await gate.wait()
        return Delivered()

    run = bench(judge, concurrency_max=2)
    for number in range(2_000):
        spool.add(b"new%d" % number)
    async with run.running():
        await run.until(lambda: run.sink.in_flight >= 1)
        await spool.requeue(dead)
        await run.until(lambda: spool.counts()[State.DELIVERED] == MANY)
        gate.set()
        await run.settled()


async def test_a_user_waits_for_no_mass_of_replays(call_bench: Any, spool: Any) -> None:
    """Where many of one user's events are replayed, and fail, those that arrive for him go on, one at a time."""
    for number in range(MANY):
        spool.add(b"send:old%d" % number, partition_key="u", route=IN)
    dead = await _bury(spool, IN)
    under_way: list[int] = [0]
    seen: list[int] = []

    async def judge(batch: Batch) -> Verdict:
        under_way[0] += 1
        seen.append(under_way[0])
        await asyncio.sleep(0.001)
        under_way[0] -= 1
        return SILENT if _is_of(batch, "old") else Delivered()

    run = call_bench(judge)
    async with run.running():
        await spool.requeue(dead)
        await run.until(lambda: len(seen) > 0)
        await _live_pass(run, IN, [b"send:%d" % number for number in range(10)], user="u")
    assert max(seen) == 1


@pytest.mark.parametrize("trouble", [None, SILENT, Held(reason="401: the key", scope="route")])
async def test_a_few_replays_go_before_what_waits_of_their_user(
    call_bench: Any, spool: Any, trouble: Verdict | None
) -> None:
    """An older event that is replayed comes first, once; what it meets says nothing of what waits behind it."""
    first = spool.add(b"send:first", partition_key="u", route=IN)
    await _bury(spool, IN)
    second = spool.add(b"send:second", partition_key="u", route=IN)
    await spool.requeue([first])
    run = call_bench(lambda batch: trouble if trouble is not None and _is_of(batch, "first") else Delivered())
    async with run.running():
        await run.until(lambda: spool.rows[second].state is State.DELIVERED)
        assert run.route.status().state == "running"
    assert [batch.deliveries[0].operation for batch in run.sink.batches][:2] == [
        "POST /send/first",
        "POST /send/second",
    ]
    assert (spool.rows[first].state is State.DELIVERED) is (trouble is None)
    assert spool.rows[first].attempts <= 1


async def test_replays_heed_what_arrives(bench: Any, spool: Any) -> None:
    """While what arrives is held nothing is replayed, and nothing of it ends dead."""
    for number in range(MANY):
        spool.add(b"old%d" % number)
    dead = await _bury(spool, OUT)
    is_wrong = True

    def judge(batch: Batch) -> Verdict:
        if _is_of(batch, "old"):
            return Refused(reason="400: refused") if is_wrong else Delivered()
        return Held(reason="401: the key", scope="route") if is_wrong else Delivered()

    run = bench(judge)
    spool.add(b"new")
    async with run.running():
        await run.until(lambda: run.route.status().state == "held")
        await spool.requeue(dead)
        probes = len(run.sink.batches)
        await run.until(lambda: len(run.sink.batches) > probes + 5)
        assert not any(_is_of(batch, "old") for batch in run.sink.batches)
        is_wrong = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: MANY + 1}


async def test_replays_heed_a_limit_of_a_group(call_bench: Any, spool: Any) -> None:
    """Where the destination asked for a pause of one group, replays of that group pause as well; others go."""
    for number in range(MANY):
        spool.add(b"lists:old%d" % number, partition_key=f"u{number}", route=IN)
        spool.add(b"send:old%d" % number, partition_key=f"v{number}", route=IN)
    dead = await _bury(spool, IN)
    is_limited = True

    def judge(batch: Batch) -> Verdict:
        if batch.deliveries[0].group == "lists" and is_limited:
            return TryLater(reason="answered 429", after_s=300.0, scope="lists", effect=Effect.NONE)
        return Delivered()

    run = call_bench(judge)
    async with run.running():
        spool.add(b"lists:new", partition_key="n", route=IN)
        await run.until(lambda: run.route.status().families != ())
        await spool.requeue(dead)
        await run.until(lambda: spool.counts()[State.DELIVERED] == MANY)
        assert sum(batch.deliveries[0].group == "lists" for batch in run.sink.batches) == 1


async def test_nobody_waits_for_the_turn_of_a_replay_that_left(call_bench: Any, spool: Any) -> None:
    """A replay that found its group held goes on with the replays: it is not its turn to ask whether that is over.

    Between two probes there is half a minute, so that no turn lapses meanwhile.
    """
    old = spool.add(b"lists:old", partition_key="u", route=IN)
    await _bury(spool, IN)
    first = spool.add(b"send:first", partition_key="u", route=IN)
    second = spool.add(b"send:second", partition_key="u", route=IN)
    held = spool.add(b"lists:held", partition_key="h", route=IN)
    is_wrong, gate = True, asyncio.Event()

    async def judge(batch: Batch) -> Verdict:
        if _is_of(batch, "first"):
            await gate.wait()
        return Held(reason="403", scope="lists") if is_wrong and _is_of(batch, "lists") else Delivered()

    run = call_bench(judge, probe_every_s=30.0)
    async with run.running():
        await run.until(lambda: run.route.status().families != ())
        await spool.requeue([old])
        gate.set()
        await run.until(lambda: {spool.rows[one].state for one in (first, second)} == {State.DELIVERED})
        is_wrong = False
        await run.until(lambda: spool.rows[held].state is State.DELIVERED, within_s=20)


@pytest.mark.parametrize("after_s", [None, 0.5])
async def test_a_replay_that_asked_in_its_place_puts_the_next_probe_off(
    call_bench: Any, spool: Any, after_s: float | None
) -> None:
    """Where the route backs off, or is asked to by that very answer, nothing else is sent at once."""
    old = spool.add(b"send:old", partition_key="u", route=IN)
    await _bury(spool, IN)
    behind = spool.add(b"send:behind", partition_key="u", route=IN)
    asked: list[str] = []

    def judge(batch: Batch) -> Verdict:
        asked.append(batch.deliveries[0].operation)
        return replace(LATER, after_s=0.3 if _is_of(batch, "new") else after_s)

    run = call_bench(judge, backoff=Backoff(first_s=30.0, max_s=30.0), concurrency_max=1)
    await spool.requeue([old])
    if after_s is None:  # the replay is the probe
        spool.rows[old].is_leased = spool.rows[behind].is_leased = True
        spool.add(b"send:new", partition_key="n", route=IN)
    async with run.running():
        if after_s is None:
            await run.until(lambda: run.route.status().state == "backing_off")
            spool.rows[old].is_leased = spool.rows[behind].is_leased = False
        await run.until(lambda: "POST /send/old" in asked)
        await asyncio.sleep(0.1)  # time in which a probe too many would go
        assert asked[-1] == "POST /send/old"
        assert run.route.status().state == "backing_off"
    assert spool.rows[behind].state is State.PENDING


async def test_one_replay_that_is_to_blame_keeps_no_other_waiting(bench: Any, spool: Any) -> None:
    """A replay that is answered with a hold's status goes behind the others: the next probe is another one."""
    for number in range(MANY):
        spool.add(b"old%d!" % number)
    dead = await _bury(spool, OUT)
    run = bench(lambda batch: Held(reason="403", scope="route") if _is_of(batch, "old0!") else Delivered())
    async with run.running():
        await spool.requeue(dead)
        await run.until(lambda: spool.counts()[State.DELIVERED] == MANY - 1)


@pytest.mark.parametrize("trouble", ["500", "silence"])
@pytest.mark.parametrize("route", [OUT, IN], ids=["batches", "calls"])
async def test_replays_that_keep_failing_are_given_up(
    bench: Any, call_bench: Any, spool: Any, route: RouteName, trouble: str
) -> None:
    """Where what arrives passes, a replay that fails is to blame, though no other replay passes."""
    for number in range(4):
        spool.add(b"send:old%d" % number, partition_key=f"u{number}" if route is IN else "", route=route)
    dead = await _bury(spool, route)
    run = (bench if route is OUT else call_bench)(
        lambda batch: TROUBLES[trouble] if _is_of(batch, "old") else Delivered(), backoff=Backoff(first_s=0.01, max_s=0)
    )
    rows = [spool.rows[sequence] for sequence in dead]
    async with run.running():
        await _live_pass(run, route, [b"send:a"])
        await spool.requeue(dead)
        for row in rows:  # as if it had failed for long
            row.attempts, row.first_failed_ms = 18, SystemClock().wall_ms() - 3 * 3_600_000
        for number in range(1_000):
            await _live_pass(run, route, [b"send:%d" % number])
            if all(row.state is State.DEAD for row in rows):
                break
            await asyncio.sleep(0.02)
        assert {row.reason.split(":")[0] for row in rows} == {"keeps failing"}
        assert run.route.status().families == ()


async def test_a_lone_replay_with_a_holds_status_holds_no_replays(call_bench: Any, spool: Any) -> None:
    """Where calls of its group passed within the minute it is set aside, as one that arrives would be."""
    old = spool.add(b"lists:old", partition_key="u", route=IN)
    dead = await _bury(spool, IN)
    run = call_bench(lambda batch: Held(reason="403", scope="lists") if _is_of(batch, "old") else Delivered())
    async with run.running():
        await _live_pass(run, IN, [b"lists:a"])
        await spool.requeue(dead)
        await run.until(lambda: spool.rows[old].attempts > 0)
        assert run.route.status().families == ()
        assert "route.held" not in run.reporter.events()


async def test_a_pause_stops_replays_too(bench: Any, spool: Any) -> None:
    """Nothing is replayed while the route is paused."""
    for number in range(MANY):
        spool.add(b"old%d" % number)
    dead = await _bury(spool, OUT)
    run = bench(lambda _batch: Delivered())
    async with run.running():
        await run.route.pause(who="ops")
        await spool.requeue(dead)
        await asyncio.sleep(0.05)  # it had time to begin
        assert run.sink.batches == []
        await run.route.resume(who="ops")
        await run.settled()
