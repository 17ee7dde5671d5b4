"""The route by calls as a whole, between a fake spool and a scripted destination."""

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest

from forwarder.clock import SystemClock
from forwarder.delivery.pacing import Backoff
from forwarder.model import Batch, Delivered, Effect, Filtered, Held, Refused, RouteName, State, TryLater, Verdict
from forwarder.spool.held_leases import RETRY

IN = RouteName.RUDDERSTACK_TO_COURIER


def _later(scope: str = "event", *, effect: Effect = Effect.ANSWERED, after_s: float | None = None) -> TryLater:
    return TryLater(reason="answered 500", after_s=after_s, scope=scope, effect=effect)


def _yes(_batch: Batch) -> Verdict:
    return Delivered()


def _add(spool: Any, calls: str, user: str) -> int:
    return int(spool.add(calls.encode(), partition_key=user, route=IN))


def _operations(run: Any) -> list[str]:
    return [batch.deliveries[0].operation for batch in run.sink.batches]


async def test_calls_of_an_event_go_in_order(call_bench: Any, spool: Any) -> None:
    """An event's calls are made one after the other, and it is settled when all are done."""
    _add(spool, "profiles:u send:a send:b", "u")
    run = call_bench(_yes)
    async with run.running():
        await run.settled()
    assert _operations(run) == ["POST /profiles/u", "POST /send/a", "POST /send/b"]
    assert run.sink.in_flight_max == 1
    assert spool.counts() == {State.DELIVERED: 1}


async def test_order_per_user_across_retries(call_bench: Any, spool: Any) -> None:
    """A user's events apply in the order they arrived, whatever fails in between, and each takes effect once."""
    for number in range(6):
        for user in range(12):
            _add(spool, f"profiles:{user}-{number} send:{user}-{number}", f"user{user}")
    dice = random.Random(11)  # noqa: S311 - a test's dice
    applied: dict[str, str] = {}
    stored: dict[str, Verdict] = {}
    order: dict[str, list[str]] = defaultdict(list)

    def courier(batch: Batch) -> Verdict:
        """Apply once per key, store every 5xx under its key, and sometimes lose the answer."""
        delivery = batch.deliveries[0]
        if delivery.idempotency_key in stored:
            return stored[delivery.idempotency_key]
        roll = dice.random()
        if roll < 0.1:
            return _later(delivery.group, effect=Effect.NONE, after_s=0.01)
        if roll < 0.2:
            stored[delivery.idempotency_key] = _later()
            return _later()
        if delivery.operation not in applied:
            order[delivery.operation.split("/")[2].split("-")[0]].append(delivery.operation)
        assert applied.setdefault(delivery.operation, delivery.idempotency_key) == delivery.idempotency_key
        stored[delivery.idempotency_key] = Delivered()
        return _later(effect=Effect.UNKNOWN) if roll < 0.3 else Delivered()

    run = call_bench(courier, backoff=Backoff(first_s=0.002, max_s=0.01))
    async with run.running():
        await run.settled(within_s=60)
    assert spool.counts() == {State.DELIVERED: 72}
    for user in range(12):
        assert order[str(user)] == [
            f"POST /{group}/{user}-{number}" for number in range(6) for group in ("profiles", "send")
        ]


async def test_retry_repeats_nothing_and_a_link_does_not_shift_it(
    call_bench: Any, spool: Any, plan_mapper: Any
) -> None:
    """The plan of the first attempt holds: done calls are not repeated, a changed mapping changes nothing."""
    plan_mapper.table[b"x"] = "profiles:u send:old"
    _add(spool, "x", "u")

    def judge(batch: Batch) -> Verdict:
        if batch.deliveries[0].group == "send" and len(run.sink.batches) == 2:
            plan_mapper.table[b"x"] = "profiles:u send:new"
            return _later()
        return Delivered()

    run = call_bench(judge, mapper=plan_mapper)
    async with run.running():
        await run.settled()
    assert _operations(run) == ["POST /profiles/u", "POST /send/old", "POST /send/old"]
    keys = [batch.deliveries[0].idempotency_key for batch in run.sink.batches]
    assert keys[1] != keys[2]


async def test_time_out_keeps_the_key(call_bench: Any, spool: Any) -> None:
    """A call whose outcome is unknown is repeated under the same key."""
    _add(spool, "send:a", "u")
    script: list[Verdict] = [_later(effect=Effect.UNKNOWN), _later(effect=Effect.NONE)]
    run = call_bench(lambda _batch: script.pop(0) if script else Delivered())
    async with run.running():
        await run.settled()
    assert len({batch.deliveries[0].idempotency_key for batch in run.sink.batches}) == 1
    assert len(run.sink.batches) == 3


async def test_refused_call_lets_the_others_be_made(call_bench: Any, spool: Any) -> None:
    """Where one call is refused the others are still made; the dead event says which were done."""
    _add(spool, "profiles:u send:bad lists:l", "u")
    run = call_bench(
        lambda batch: (
            Refused(reason="404: Courier knows no such template", words='template "bad"')
            if batch.deliveries[0].operation.endswith("bad")
            else Delivered()
        )
    )
    async with run.running():
        await run.settled()
    row = spool.rows[1]
    assert row.state is State.DEAD
    assert row.reason == '404: Courier knows no such template: template "bad"; done: lists, profiles'
    assert _operations(run)[-1] == "POST /lists/l"
    assert [attempt.outcome for attempt in row.tries] == ["delivered", "refused", "delivered"]
    assert all("bad" not in str(line) for line in run.reporter.lines)


async def test_a_link_that_is_mended_in_a_pause_counts(call_bench: Any, spool: Any, plan_mapper: Any) -> None:
    """What waits in hand when a route is paused is planned anew when it goes on."""
    for number in range(40):
        plan_mapper.table[b"%d" % number] = "send:wrong"
        _add(spool, str(number), f"u{number}")
    answer = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await answer.wait()
        return Delivered()

    run = call_bench(slow, mapper=plan_mapper, concurrency_max=8)
    async with run.running():
        await run.until(lambda: run.route.status().in_hand == 10 and run.sink.in_flight == 8)
        await run.until(lambda: len(spool.notes) == 10)
        await run.route.pause(who="ops")
        for payload in plan_mapper.table:
            plan_mapper.table[payload] = "send:right"
        answer.set()
        await run.until(lambda: spool.leased() == 0)
        await run.route.resume(who="ops")
        await run.settled()
    assert _operations(run).count("POST /send/wrong") == 8
    assert _operations(run).count("POST /send/right") == 32


async def test_replay_makes_only_what_was_not_done(call_bench: Any, spool: Any, plan_mapper: Any) -> None:
    """A replay plans anew, skips the done calls, and uses a new key for the refused one."""
    plan_mapper.table[b"x"] = "profiles:u send:bad"
    _add(spool, "x", "u")
    run = call_bench(
        lambda batch: Refused(reason="400: refused") if batch.deliveries[0].operation.endswith("bad") else Delivered(),
        mapper=plan_mapper,
    )
    async with run.running():
        await run.settled()
        plan_mapper.table[b"x"] = "profiles:u send:good"
        await spool.requeue([1])
        await run.settled()
    assert _operations(run) == ["POST /profiles/u", "POST /send/bad", "POST /send/good"]
    assert spool.counts() == {State.DELIVERED: 1}


@pytest.mark.parametrize("everything", [False, True])
async def test_replay_of_a_delivered_event(call_bench: Any, spool: Any, *, everything: bool) -> None:
    """A delivered event has nothing left to do; asked for everything it makes every call again, under new keys."""
    _add(spool, "profiles:u send:a", "u")
    run = call_bench(_yes)
    async with run.running():
        await run.settled()
        for _ in range(2):
            await spool.requeue([1], everything=everything)
            await run.settled()
    assert spool.counts() == {State.DELIVERED: 1}
    assert _operations(run) == ["POST /profiles/u", "POST /send/a"] * (3 if everything else 1)
    keys = [batch.deliveries[0].idempotency_key for batch in run.sink.batches]
    assert len(set(keys)) == len(keys)
    assert b"e30" not in spool.rows[1].progress  # bodies are not kept once all is done


async def test_each_call_shows(call_bench: Any, spool: Any) -> None:
    """Every answer of a plan is kept with its event, in order, also when it waits in between."""
    _add(spool, "profiles:u lists:l send:a", "u")
    script: list[Verdict] = [Delivered(), _later("lists", effect=Effect.NONE, after_s=0.01), Delivered(), Delivered()]
    run = call_bench(lambda _batch: script.pop(0))
    async with run.running():
        await run.settled()
    assert [attempt.outcome for attempt in spool.rows[1].tries] == [
        "delivered",
        "trylater",
        "delivered",
        "delivered",
    ]


async def test_filtered(call_bench: Any, spool: Any) -> None:
    """An event whose every call was filtered is filtered; with another done it is delivered."""
    _add(spool, "journeys:j", "u")
    _add(spool, "journeys:j send:a", "v")
    run = call_bench(
        lambda batch: Filtered(reason="422: its conditions") if batch.deliveries[0].group == "journeys" else Delivered()
    )
    async with run.running():
        await run.settled()
    assert (spool.rows[1].state, spool.rows[1].reason) == (State.FILTERED, "422: its conditions")
    assert spool.rows[2].state is State.DELIVERED


async def test_what_goes_nowhere(call_bench: Any, spool: Any) -> None:
    """Unmapped and mis-mapped events are settled without a call."""
    _add(spool, "unlinked", "u")
    _add(spool, "crash-me", "v")
    run = call_bench(_yes)
    async with run.running():
        await run.settled()
    assert [row.state for row in spool.rows.values()] == [State.UNMAPPED, State.DEAD]
    assert run.sink.batches == []


async def test_rate_limit_on_one_family_stops_no_other(call_bench: Any, spool: Any) -> None:
    """A 429 lets its group wait as long as it asks for; other groups go on, and nobody waits in a slot."""
    for number in range(40):
        _add(spool, f"lists:{number}", f"l{number}")
    is_limited = True

    def judge(batch: Batch) -> Verdict:
        if batch.deliveries[0].group == "lists" and is_limited:
            return _later("lists", effect=Effect.NONE, after_s=2.0)
        return Delivered()

    run = call_bench(judge)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 1)
        for number in range(40):
            _add(spool, f"profiles:{number}", f"p{number}")
        await run.until(lambda: spool.counts()[State.DELIVERED] == 40)
        (stop,) = run.route.status().families
        assert (stop.scope, stop.state) == ("lists", "backing_off")
        assert run.route.status().state == "running"
        limited = sum(operation.startswith("POST /lists") for operation in _operations(run))
        assert limited <= 8
        is_limited = False
        await run.settled()
    assert {row.attempts for row in spool.rows.values()} <= {0, 1}  # counted once settled


async def test_held_group(call_bench: Any, spool: Any) -> None:
    """A 403 holds its group only, is probed, buries nothing, and ends by itself."""
    for number in range(10):
        _add(spool, f"lists:{number}", f"l{number}")
        _add(spool, f"profiles:{number}", f"p{number}")
    is_forbidden = True

    def judge(batch: Batch) -> Verdict:
        if batch.deliveries[0].group == "lists" and is_forbidden:
            return Held(reason="403: lists", scope="lists")
        return Delivered()

    run = call_bench(judge)
    async with run.running():
        await run.until(lambda: spool.counts()[State.DELIVERED] == 10)
        await asyncio.sleep(0.15)  # several probes' worth
        assert [stop.state for stop in run.route.status().families] == ["held"]
        is_forbidden = False
        await run.settled()
        assert run.route.status().families == ()
    assert spool.counts() == {State.DELIVERED: 20}
    assert run.reporter.events().count("route.held") == 1
    assert run.reporter.events().count("route.hold_ended") == 1


async def test_unauthorised_holds_the_route(call_bench: Any, spool: Any) -> None:
    """A 401 holds everything, also the events between two calls; all is delivered afterwards."""
    for number in range(20):
        _add(spool, f"profiles:{number} send:{number}", f"u{number}")
    is_wrong = False

    def judge(_batch: Batch) -> Verdict:
        return Held(reason="401: the key", scope="route") if is_wrong else Delivered()

    run = call_bench(judge)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) >= 10)
        is_wrong = True
        await run.until(lambda: run.route.status().state == "held")
        await run.until(lambda: spool.leased() <= 1)
        await asyncio.sleep(0.1)  # several probes' worth
        is_wrong = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 20}
    delivered = [
        batch.deliveries[0].operation
        for batch, verdict in zip(run.sink.batches, run.sink.verdicts, strict=True)
        if isinstance(verdict, Delivered)
    ]
    assert len(delivered) == len(set(delivered)) == 40


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        (_later(), "backing_off"),
        (_later(effect=Effect.UNKNOWN), "backing_off"),
        (Held(reason="401: the key", scope="route"), "held"),
        (Held(reason="403: the key", scope="send"), "held"),
    ],
    ids=["500", "no answer", "401", "403"],
)
async def test_a_group_that_is_down_is_nobodys_fault(call_bench: Any, spool: Any, trouble: Verdict, state: str) -> None:
    """Where `/send` alone is away for hours while profiles pass, it waits alone, and no event of it is given up."""
    is_down = True

    def judge(batch: Batch) -> Verdict:
        return trouble if is_down and batch.deliveries[0].group == "send" else Delivered()

    run = call_bench(judge)
    old = [_add(spool, f"send:{number}", f"s{number}") for number in range(6)]
    for sequence in old:
        row = spool.rows[sequence]
        row.attempts, row.first_failed_ms = 30, SystemClock().wall_ms() - 4 * 3_600_000
    async with run.running():
        for number in range(40):
            passing = _add(spool, f"profiles:{number}", f"p{number}")
            await run.until(lambda passing=passing: spool.rows[passing].state is State.DELIVERED)
            calls = len(run.sink.batches)
            if number < 25:
                await run.until(lambda calls=calls: len(run.sink.batches) > calls)
        assert [(stop.scope, stop.state) for stop in run.route.status().families] == [("send", state)]
        assert run.route.status().state == "running"
        assert spool.counts() == {State.DELIVERED: 40, State.PENDING: 6}
        is_down = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 46}


async def test_silence_does_not_end_a_hold(call_bench: Any, spool: Any) -> None:
    """A probe without an answer puts the next one off; one with another answer ends the hold."""
    _add(spool, "send:a", "u")
    script: list[Verdict] = [
        Held(reason="401: the key", scope="route"),
        _later(effect=Effect.UNKNOWN),
        _later(effect=Effect.ANSWERED),
    ]
    run = call_bench(lambda _batch: script.pop(0) if script else Delivered())
    async with run.running():
        await run.until(lambda: len(run.sink.verdicts) == 2)
        assert run.route.status().state == "held"
        await run.settled()
    assert run.reporter.events().count("route.hold_ended") == 1


async def test_failing_user_delays_no_other(call_bench: Any, spool: Any) -> None:
    """A user whose calls fail blocks himself alone, also when nobody else is about for a while."""
    _add(spool, "send:bad", "sick")
    _add(spool, "send:bad2", "sick")
    run = call_bench(lambda batch: _later() if "bad" in batch.deliveries[0].operation else Delivered())
    async with run.running():
        await run.until(lambda: spool.rows[1].attempts >= 1)
        await run.until(lambda: _operations(run).count("POST /send/bad") >= 6)
        assert run.route.status().state == "running"
        healthy = _add(spool, "send:good", "well")
        await run.until(lambda: spool.rows[healthy].state is State.DELIVERED)
    assert "POST /send/bad2" not in _operations(run)


async def test_failures_while_nobody_passes_are_not_counted(call_bench: Any, spool: Any) -> None:
    """An event that fails alone is not brought nearer to its end by it: what it knows survives its way back."""
    _add(spool, "send:bad", "sick")
    run = call_bench(lambda _batch: _later())
    async with run.running():
        await run.until(lambda: len(run.sink.verdicts) >= 6)
    assert spool.rows[1].attempts <= 1


async def test_outage(call_bench: Any, spool: Any) -> None:
    """When several users fail and nothing succeeds the whole route backs off, and recovers by itself."""
    for number in range(50):
        _add(spool, f"send:{number}", f"u{number}")
    is_down = True
    run = call_bench(lambda _batch: _later(effect=Effect.NONE) if is_down else Delivered())
    async with run.running():
        await run.until(lambda: run.route.status().state == "backing_off")
        await run.until(lambda: run.sink.in_flight == 0)
        assert spool.leased() <= 16
        before = len(run.sink.batches)
        await asyncio.sleep(0.1)  # what is counted below needs time to happen
        assert len(run.sink.batches) - before < 50
        is_down = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 50}
    assert max(row.attempts for row in spool.rows.values()) <= 2


async def test_retries_use_at_most_half_of_the_slots(call_bench: Any, spool: Any) -> None:
    """However many events are on a retry, half of the slots are left for fresh ones."""
    for number in range(30):
        sequence = _add(spool, f"send:old{number}", f"o{number}")
        spool.rows[sequence].attempts = 1
        spool.rows[sequence].kind = RETRY
    gate = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await gate.wait()
        return Delivered()

    run = call_bench(slow)
    async with run.running():
        await run.until(lambda: run.sink.in_flight == 4)
        await asyncio.sleep(0.02)  # a fifth one has time to start
        assert run.sink.in_flight == 4
        _add(spool, "send:new", "n")
        await run.until(lambda: "POST /send/new" in _operations(run))
        gate.set()
        await run.settled()


async def test_event_that_keeps_failing_is_given_up(call_bench: Any, spool: Any) -> None:
    """After twenty failures over three hours while others succeeded, the event is dead and frees its user."""
    _add(spool, "send:good", "well")
    sequence = _add(spool, "send:bad", "sick")
    follower = _add(spool, "send:next", "sick")
    row = spool.rows[sequence]
    row.attempts, row.first_failed_ms = 19, SystemClock().wall_ms() - 3 * 3_600_000
    run = call_bench(lambda batch: _later() if "bad" in batch.deliveries[0].operation else Delivered())
    async with run.running():
        await run.settled()
    assert (row.state, row.reason) == (State.DEAD, "keeps failing: 500")
    assert spool.rows[follower].state is State.DELIVERED


def _forbids_bad(batch: Batch) -> Verdict:
    operation = batch.deliveries[0].operation
    return Held(reason="403: lists", scope="lists") if "bad" in operation else Delivered()


async def test_a_culprit_among_others_holds_nobody(call_bench: Any, spool: Any) -> None:
    """A lone event with a hold's status, while others of its group pass, is set aside at once; nobody waits."""
    _add(spool, "lists:first", "first")
    run = call_bench(_forbids_bad, probe_every_s=30.0)
    async with run.running():
        await run.settled()
        for number in range(3):
            _add(spool, f"lists:bad{number}", f"b{number}")
        for number in range(74):
            _add(spool, f"lists:{number}", f"u{number}")
        await run.until(lambda: spool.counts()[State.DELIVERED] == 75)
        assert run.route.status().families == ()
        await run.until(lambda: spool.rows[2].attempts >= 2)  # it has a retry of its own
    assert "route.held" not in run.reporter.events()


async def test_culprits_that_begin_a_hold_are_found_by_asking_others(call_bench: Any, spool: Any) -> None:
    """Where nobody passed before, other users are probed soon: three culprits do not make 74 users wait for long."""
    for number in range(3):
        _add(spool, f"lists:bad{number}", f"b{number}")
    run = call_bench(_forbids_bad, probe_every_s=30.0)
    async with run.running():
        await run.until(lambda: "route.held" in run.reporter.events())
        for number in range(74):
            _add(spool, f"lists:{number}", f"u{number}")
        await run.until(lambda: spool.counts()[State.DELIVERED] == 74, within_s=60)
    assert run.reporter.events().count("route.held") == 1


async def test_a_group_that_is_forbidden_to_all_is_held_in_spite_of_what_passed(call_bench: Any, spool: Any) -> None:
    """Ten different events with a hold's status in a row are no culprits: the permission is gone."""
    _add(spool, "lists:first", "first")
    is_forbidden = False
    run = call_bench(lambda _batch: Held(reason="403: lists", scope="lists") if is_forbidden else Delivered())
    async with run.running():
        await run.settled()
        is_forbidden = True
        for number in range(40):
            _add(spool, f"lists:{number}", f"u{number}")
        await run.until(lambda: "route.held" in run.reporter.events())
        is_forbidden = False
        await run.settled()
    assert spool.counts() == {State.DELIVERED: 41}


async def test_drain_ends_between_two_calls(call_bench: Any, spool: Any) -> None:
    """A drain lets the call under way finish, keeps what was done, and begins no other."""
    _add(spool, "profiles:u send:a", "u")
    gate = asyncio.Event()

    async def slow(_batch: Batch) -> Verdict:
        await gate.wait()
        return Delivered()

    run = call_bench(slow)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.route.run())
        await run.until(lambda: len(run.sink.batches) == 1)
        drain = tasks.create_task(run.route.drain())
        await asyncio.sleep(0.02)  # the drain has begun
        gate.set()
        await drain
        await task
    assert (spool.leased(), spool.counts()) == (0, {State.PENDING: 1})
    again = call_bench(_yes)
    async with again.running():
        await again.settled()
    assert _operations(again) == ["POST /send/a"]


async def test_crash_in_a_call_leaves_its_outcome_unknown(call_bench: Any, spool: Any) -> None:
    """After a crash the call is repeated under its key, and one 5xx does not change it."""
    _add(spool, "send:a", "u")
    forever = asyncio.Event()

    async def hang(_batch: Batch) -> Verdict:
        await forever.wait()
        return Delivered()

    run = call_bench(hang)
    task = asyncio.get_running_loop().create_task(run.route.run())
    await run.until(lambda: len(run.sink.batches) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    spool.rows[1].is_leased = False
    script: list[Verdict] = [_later(), _later()]
    again = call_bench(lambda _batch: script.pop(0) if script else Delivered())
    async with again.running():
        await again.settled()
    keys = [batch.deliveries[0].idempotency_key for batch in (*run.sink.batches, *again.sink.batches)]
    assert keys[0] == keys[1] == keys[2] != keys[3]


async def test_memory_is_flat(call_bench: Any, spool: Any) -> None:
    """Whatever the backlog, no more events are leased than there are slots for, and as many that are being settled."""
    for number in range(500):
        _add(spool, f"send:{number}", f"u{number}")
    run = call_bench(_yes, concurrency_max=8)
    async with run.running():
        await run.settled()
    assert spool.leased_max <= 2 * (8 + 1)
    assert run.sink.in_flight_max <= 8


async def test_all_slots_are_used_soon(call_bench: Any, spool: Any) -> None:
    """Against a destination that answers steadily the limit grows to its maximum within a few rounds."""
    for number in range(400):
        _add(spool, f"send:{number}", f"u{number}")

    async def steady(_batch: Batch) -> Verdict:
        await asyncio.sleep(0.1)
        return Delivered()

    run = call_bench(steady, concurrency_max=32)
    async with run.running():
        await run.until(lambda: run.route.status().concurrency_limit == 32)
        assert len(run.sink.verdicts) <= 80
        await run.settled()
    assert run.sink.in_flight_max == 32


async def test_a_call_costs_two_commits(call_bench: Any, spool: Any) -> None:
    """The plan is on disk before its first call; what came of it all is written once, with the settlement."""
    _add(spool, "profiles:u send:a lists:l", "u")
    run = call_bench(_yes)
    async with run.running():
        await run.settled()
    assert len(spool.notes) == 2
    assert b'"is_under_way":true' in spool.notes[0]
    assert b'"is_over":true' in spool.notes[1]
    assert [attempt.operation for attempt in spool.rows[1].tries] == ["POST /v1/batch"] * 3


async def test_a_bug_in_the_sink_blocks_one_user(call_bench: Any, spool: Any) -> None:
    """A call that nobody can make waits with an unknown outcome; the other users go on."""
    _add(spool, "send:bad", "u")
    for number in range(5):
        _add(spool, f"send:{number}", f"v{number}")

    def judge(batch: Batch) -> Verdict:
        if batch.deliveries[0].operation.endswith("bad"):
            raise UnicodeError
        return Delivered()

    run = call_bench(judge)
    async with run.running():
        await run.until(lambda: spool.counts()[State.DELIVERED] == 5)
        await run.until(lambda: len(spool.rows[1].tries) >= 3)
    keys = {batch.deliveries[0].idempotency_key for batch in run.sink.batches if "bad" in str(batch)}
    assert len(keys) == 1
    assert spool.rows[1].state is State.PENDING


async def test_an_outage_is_probed_by_one_event_at_a_time(call_bench: Any, spool: Any) -> None:
    """While the route backs off one event at a time is tried, fresh or on a retry; then all is delivered."""
    for number in range(30):
        _add(spool, f"send:{number}", f"u{number}")
    is_down = True
    run = call_bench(lambda _batch: _later() if is_down else Delivered())
    async with run.running():
        await run.until(lambda: run.route.status().state == "backing_off" and not run.sink.in_flight)
        run.sink.in_flight_max = 0
        seen = len(run.sink.batches)
        await run.until(lambda: len(run.sink.batches) >= seen + 8)
        assert run.sink.in_flight_max == 1
        is_down = False
        await run.settled(within_s=60)
    assert spool.counts() == {State.DELIVERED: 30}


async def test_event_is_leased_again_before_its_settler_heard(call_bench: Any, replayed_at_once: Any) -> None:
    """An event that is replayed as it settles is delivered again, and what is in hand is counted right."""
    spool = replayed_at_once
    _add(spool, "send:a", "u")
    run = call_bench(_yes, spool=spool)
    spool.until_leased_again = lambda: run.until(lambda: len(run.sink.batches) == 2)
    async with run.running():
        await run.until(lambda: len(run.sink.batches) == 2)
        await run.settled()
        await run.until(lambda: run.route.status().in_hand == 0)
    assert spool.counts() == {State.DELIVERED: 1}
    assert run.route.status().in_flight == 0
