"""What the Redis Streams consumer promises, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.ports import Clock
from forwarder.sources.port import Bus, Message
from forwarder.sources.redis_connection import RedisSettings
from forwarder.sources.redis_streams import RedisStreams
from stand_ins.clock import HandClock
from stand_ins.redis_server import MISSING, PROGRAM, RedisServer
from stand_ins.waiting import wait_until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

_MIB = 1_048_576


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """Yield a running server."""
    server = RedisServer(folder=tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """Yield a client of the test's own."""
    async with Redis.from_url(f"redis://{server.address}", protocol=2) as redis:
        yield redis


Consumers = Callable[..., RedisStreams]


@pytest.fixture
async def consumers() -> AsyncIterator[Consumers]:
    """Yield what makes consumers and closes them at the end."""
    async with AsyncExitStack() as stack:

        def make(
            server: RedisServer,
            *,
            consumer: str = "a",
            streams: Sequence[str] = ("events",),
            clock: Clock | None = None,
        ) -> RedisStreams:
            settings = RedisSettings(url=f"redis://{server.address}", streams=streams, consumer=consumer)
            made = RedisStreams(settings, clock=clock or SystemClock(), block_s=0.01)
            stack.push_async_callback(made.close)
            return made

        yield make


async def _fetch(consumer: RedisStreams, *, messages_max: int = 100, bytes_max: int = _MIB) -> Sequence[Message]:
    return (await consumer.fetch(messages_max=messages_max, bytes_max=bytes_max)).messages


async def _fetch_some(consumer: RedisStreams) -> Sequence[Message]:
    """Fetch until something comes, over lost connections."""
    found: list[Message] = []

    async def something() -> bool:
        try:
            found.extend(await _fetch(consumer))
        except SourceAway:
            return False
        return bool(found)

    await wait_until(something)
    return found


def _bodies(entries: Sequence[Message]) -> list[bytes]:
    return [entry.body for entry in entries]


async def test_what_was_there_before_the_group_is_read(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """A group that is made begins with the stream's first entry, and each entry comes once, in order."""
    for number in range(40):
        await redis.xadd("events", {"data": b"%d" % number})
    consumer = consumers(server)
    bodies: list[bytes] = []
    while entries := await _fetch(consumer):
        bodies += _bodies(entries)
        await consumer.acknowledge(entries)
    assert bodies == [b"%d" % number for number in range(40)]
    assert (await redis.xpending("events", "forwarder"))["pending"] == 0


async def test_what_was_not_acknowledged_comes_again(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """After a restart the same consumer gets what it had in hand before anything new; what it acknowledged is over."""
    for body in (b"1", b"2"):
        await redis.xadd("events", {"data": body})
    first = consumers(server)
    one, _ = await _fetch(first)
    await first.acknowledge([one])
    await first.close()
    await redis.xadd("events", {"data": b"3"})
    again = consumers(server)
    assert _bodies(await _fetch(again)) == [b"2"]
    assert _bodies(await _fetch(again)) == [b"3"]


async def test_a_cancelled_fetch_loses_nothing(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """What was delivered to a fetch that nobody waits for any more comes with the next one."""
    consumer = consumers(server)
    await _fetch(consumer)
    bodies: set[bytes] = set()
    cancelled = 0
    for number in range(60):
        fetching = asyncio.create_task(_fetch(consumer))
        adding = asyncio.ensure_future(redis.xadd("events", {"data": b"%d" % number}))
        for _ in range(number):  # turns of the loop: it is cancelled at every moment of its way
            await asyncio.sleep(0)
        fetching.cancel()
        await adding
        (result,) = await asyncio.gather(fetching, return_exceptions=True)
        if isinstance(result, BaseException):
            cancelled += 1
        else:
            bodies |= set(_bodies(result))
            await consumer.acknowledge(result)
    while entries := await _fetch(consumer):
        bodies |= set(_bodies(entries))
        await consumer.acknowledge(entries)
    assert bodies == {b"%d" % number for number in range(60)}
    assert cancelled >= 2
    assert (await redis.xpending("events", "forwarder"))["pending"] == 0


async def test_a_server_that_was_killed_is_found_again(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """While Redis is away every call says so; when it is back, what was in hand comes again, and then what is new."""
    consumer = consumers(server)
    await redis.xadd("events", {"data": b"1"})
    entries = await _fetch(consumer)
    await server.kill()
    for _ in range(3):
        with pytest.raises(SourceAway, match="cannot be reached"):
            await _fetch(consumer)
    with pytest.raises(SourceAway, match="cannot be reached"):
        await consumer.acknowledge(entries)
    with pytest.raises(SourceAway, match="cannot be reached"):
        await consumer.lag()
    await server.start()
    assert _bodies(await _fetch_some(consumer)) == [b"1"]
    await redis.xadd("events", {"data": b"2"})
    assert _bodies(await _fetch(consumer)) == [b"2"]


async def test_cut_connections_lose_nothing(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """An answer that is dropped as the server cuts the connection comes again: none of 200 is lost."""
    consumer = consumers(server)
    await _fetch(consumer)
    bodies: set[bytes] = set()
    cuts = 0

    async def is_all() -> bool:
        nonlocal cuts
        try:
            entries = await _fetch(consumer)
            bodies.update(_bodies(entries))
            await consumer.acknowledge(entries)
        except SourceAway:
            cuts += 1
        return len(bodies) == 200

    async def cut() -> None:
        for number in range(200):
            # In one write: the waiting read is served, and cut before its answer leaves.
            pipeline = redis.pipeline(transaction=False)
            pipeline.xadd("events", {"data": b"%d" % number})
            pipeline.client_kill_filter(_type="normal", skipme=True)
            await pipeline.execute()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cut())
        tasks.create_task(wait_until(is_all))
    assert cuts >= 2


async def test_an_acknowledgement_that_was_lost_is_made_up_for(
    server: RedisServer, redis: Redis, consumers: Consumers
) -> None:
    """What could not be acknowledged comes again at once, though the connection that reads was never cut."""
    consumer = consumers(server)
    await redis.xadd("events", {"data": b"1"})
    entries = await _fetch(consumer)
    await redis.acl_setuser("default", enabled=True, commands=["-xack"])
    with pytest.raises(SourceAway, match="xack"):
        await consumer.acknowledge(entries)
    await redis.acl_setuser("default", enabled=True, commands=["+xack"])
    assert _bodies(await _fetch(consumer)) == [b"1"]


async def test_what_is_kept_stays_ours(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """A message that is kept is not taken over by another consumer; one that was acknowledged does not come back."""
    ours: Bus = consumers(server)
    ids = [await redis.xadd("events", {"data": body}) for body in (b"1", b"2")]
    messages = (await ours.fetch(messages_max=10, bytes_max=_MIB)).messages
    await ours.acknowledge(messages[:1])
    await redis.xclaim("events", "forwarder", "a", 0, list[Any](ids), idle=61_000)
    await ours.keep(messages)
    assert not await _fetch(consumers(server, consumer="other", clock=HandClock(0)))
    assert (await redis.xpending("events", "forwarder"))["pending"] == 1


async def test_a_gone_consumers_entries_are_taken_over(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """Another consumer takes what one that is gone did not acknowledge for a minute, and not before."""
    clock = HandClock(0)
    gone, other = consumers(server, consumer="gone"), consumers(server, consumer="other", clock=clock)
    ids = [await redis.xadd("events", {"data": body}) for body in (b"1", b"2")]
    assert len(await _fetch(gone)) == 2
    assert not await _fetch(other)
    await redis.xclaim("events", "forwarder", "gone", 0, list[Any](ids), idle=61_000)
    assert not await _fetch(other)
    clock.now_s = 31.0  # it looks every half minute
    assert _bodies(await _fetch(other)) == [b"1", b"2"]


async def test_trimmed_entries_are_counted_and_forgotten(
    server: RedisServer, redis: Redis, consumers: Consumers
) -> None:
    """Entries that were dropped from the stream while they were in hand do not come for ever, and are told of."""
    for body in (b"1", b"2", b"3"):
        await redis.xadd("events", {"data": body})
    first = consumers(server)
    await _fetch(first)
    await first.close()
    await redis.xtrim("events", maxlen=1, approximate=False)
    fetched = await consumers(server).fetch(messages_max=10, bytes_max=_MIB)
    assert (_bodies(fetched.messages), fetched.lost) == ([b"3"], 2)
    assert (await redis.xpending("events", "forwarder"))["pending"] == 1


async def test_a_group_that_is_gone_is_made_again(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """A Redis that was emptied is read again from the beginning."""
    consumer = consumers(server)
    await _fetch(consumer)
    await redis.flushall()
    with pytest.raises(SourceAway, match="group is gone"):
        await _fetch(consumer)
    await redis.xadd("events", {"data": b"1"})
    assert _bodies(await _fetch(consumer)) == [b"1"]


async def test_the_lag_counts_what_nobody_fetched_and_what_is_in_hand(
    server: RedisServer, redis: Redis, consumers: Consumers
) -> None:
    """It is known over all streams, and falls with each acknowledgement."""
    consumer = consumers(server, streams=("one", "two"))
    await _fetch(consumer)
    for stream, number in (("one", 3), ("two", 4)):
        for _ in range(number):
            await redis.xadd(stream, {"data": b"{}"})
    assert await consumer.lag() == 7
    entries = await _fetch(consumer, messages_max=2)
    assert await consumer.lag() == 7
    await consumer.acknowledge(entries)
    assert await consumer.lag() == 7 - len(entries)


async def test_big_messages_come_in_smaller_numbers(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """The number that is fetched follows the bytes that the last ones had."""
    consumer = consumers(server)
    for _ in range(40):
        await redis.xadd("events", {"data": b"x" * 100_000})
    sizes = []
    while entries := await _fetch(consumer, bytes_max=400_000):
        sizes.append(len(entries))
    assert sizes[0] == 16  # of unknown size
    assert set(sizes[1:]) == {4}


@pytest.mark.parametrize(
    ("fields", "body", "headers"),
    [
        ({"anything": b'{"a":1}'}, b'{"a":1}', {}),
        ({"data": b"{}", "CE_Type": b"track"}, b"{}", {"ce_type": "track"}),
        ({"type": b"track", "userId": b"\xff1"}, '{"type":"track","userId":"\ufffd1"}'.encode(), {}),
    ],
    ids=["an only field is the body", "data is the body, beside headers", "other fields are a flat object"],
)
async def test_where_an_entry_has_its_message(
    server: RedisServer,
    redis: Redis,
    consumers: Consumers,
    *,
    fields: dict[Any, Any],
    body: bytes,
    headers: dict[str, str],
) -> None:
    """The body is found, and the rest is kept beside it."""
    await redis.xadd("events", fields)
    (entry,) = await _fetch(consumers(server))
    assert (entry.body, entry.headers) == (body, headers)


async def test_a_proof_takes_nothing(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """It makes what `fetch` would make and says what waits; whoever fetches next gets that."""
    await redis.xadd("events", {"data": b"1"})
    consumer = consumers(server)
    assert await consumer.prove() == "group forwarder reads events as a; 1 messages wait"
    assert (await redis.xpending("events", "forwarder"))["pending"] == 0
    assert _bodies(await _fetch(consumers(server, consumer="b"))) == [b"1"]


async def test_what_is_sent_is_fetched(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """It says which entry it is."""
    consumer = consumers(server)
    said = await consumer.send(b'{"a":1}')
    info: dict[str, Any] = await redis.xinfo_stream("events")
    assert said == f"entry {info['last-generated-id'].decode()} of stream events"
    assert _bodies(await _fetch(consumer)) == [b'{"a":1}']


async def test_two_consumers_share_a_stream(server: RedisServer, redis: Redis, consumers: Consumers) -> None:
    """Each entry comes to one of them alone, whatever both fetch at once."""
    pair = consumers(server, consumer="a"), consumers(server, consumer="b")
    bodies: list[bytes] = []
    for number in range(100):
        await redis.xadd("events", {"data": b"%03d" % number})

    async def take(consumer: RedisStreams) -> None:
        while entries := await _fetch(consumer, messages_max=7):
            bodies.extend(_bodies(entries))
            await consumer.acknowledge(entries)

    await asyncio.gather(*map(take, pair))
    assert sorted(bodies) == [b"%03d" % number for number in range(100)]
