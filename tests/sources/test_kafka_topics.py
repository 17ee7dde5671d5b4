"""What the Kafka consumer promises, on a real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.group_coordinator import GroupCoordinator

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.sources.kafka_connection import KafkaSettings
from forwarder.sources.kafka_topics import KafkaTopics
from forwarder.sources.port import Message
from stand_ins.kafka_server import IS_HERE, MISSING, KafkaServer
from stand_ins.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not IS_HERE, reason=MISSING),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

_MIB = 1_048_576


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaServer]:
    """Yield a running server; topics come to be when they are written to."""
    server = KafkaServer(folder=tmp_path_factory.mktemp("kafka"))
    await server.start()
    yield server
    await server.kill()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def producer(server: KafkaServer) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer of the tests' own."""
    async with AIOKafkaProducer(bootstrap_servers=server.address, acks="all") as producer:
        yield producer


@pytest.fixture
def topic() -> str:
    """Return a topic of the test's own."""
    return uuid4().hex


Publish = Callable[..., Awaitable[None]]


@pytest.fixture
def publish(producer: AIOKafkaProducer, topic: str) -> Publish:
    """Return what writes bodies to the topic, with the key that decides the partition."""

    async def publish(*bodies: bytes, key: bytes = b"one", **more: Any) -> None:
        for body in bodies:
            await producer.send_and_wait(topic, body, key=key, **more)

    return publish


Members = Callable[..., KafkaTopics]


@pytest_asyncio.fixture(loop_scope="module")
async def members(server: KafkaServer, topic: str) -> AsyncIterator[Members]:
    """Yield what makes members of one group and closes them at the end."""
    async with AsyncExitStack() as stack:

        def make(**changed: Any) -> KafkaTopics:
            settings: dict[str, Any] = {"brokers": [server.address], "topics": [topic], "group": f"of-{topic}"}
            made = KafkaTopics(KafkaSettings(**settings | changed), clock=SystemClock(), wait_s=0.2)
            stack.push_async_callback(made.close)
            return made

        yield make


async def _fetch(member: KafkaTopics, *, messages_max: int = 100) -> Sequence[Message]:
    return (await member.fetch(messages_max=messages_max, bytes_max=_MIB)).messages


async def _fetch_to(member: KafkaTopics, *bodies: bytes) -> list[Message]:
    """Fetch until these bodies have come; return all messages that did."""
    found: list[Message] = []

    async def are_there() -> bool:
        found.extend(await _fetch(member))
        return set(bodies) <= {message.body for message in found}

    await wait_until(are_there)
    return found


def _generation(member: KafkaTopics) -> int:
    """Return how often the group has dealt, as the member knows it; less than 0: it is in no group."""
    found: int = member._member._coordinator.generation  # type: ignore[union-attr]  # noqa: SLF001 - nothing public tells
    return found


def _bodies(messages: Sequence[Message]) -> list[bytes]:
    return [message.body for message in messages]


async def test_what_was_not_acknowledged_comes_again(publish: Publish, members: Members) -> None:
    """What was there before the group is read in order; what was acknowledged is over, and the rest comes again."""
    await publish(*(b"%d" % number for number in range(5)), headers=[("CE_Type", b"track")])
    first = members()
    messages = await _fetch_to(first, b"4")
    assert _bodies(messages) == [b"0", b"1", b"2", b"3", b"4"]
    assert messages[0].headers == {"ce_type": "track"}
    assert await first.lag() == 5
    await first.acknowledge(messages[:3])
    assert await first.lag() == 2
    await first.close()
    assert _bodies(await _fetch_to(members(), b"4")) == [b"3", b"4"]


async def test_a_cancelled_fetch_loses_nothing(
    publish: Publish, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fetch had taken when it was cancelled comes again, and is not committed with what comes after it.

    The library is held up at that moment: as it is, it gives what it took without another turn of the loop.
    """
    await publish(b"0")
    member = members()
    await member.acknowledge(await _fetch_to(member, b"0"))
    has_taken = asyncio.Event()
    getmany = AIOKafkaConsumer.getmany

    async def held_up(*args: Any, **named: Any) -> Any:
        found = await getmany(*args, **named)
        if found:
            has_taken.set()
            await asyncio.Event().wait()
        return found

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", held_up)
    await publish(b"1")
    fetching = asyncio.create_task(_fetch(member, messages_max=1))

    async def is_taken() -> bool:
        nonlocal fetching
        if fetching.done():
            fetching = asyncio.create_task(_fetch(member, messages_max=1))
        return has_taken.is_set()

    await wait_until(is_taken)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    monkeypatch.undo()
    await publish(b"2")
    messages = await _fetch_to(member, b"2")
    assert _bodies(messages) == [b"1", b"2"]


async def test_two_members_share_the_partitions(publish: Publish, members: Members) -> None:
    """What was in hand of a partition that went to another member comes to that one; nothing is lost in between.

    An acknowledgement that comes too late leaves the other's place alone.
    """
    before = [b"%03d" % number for number in range(60)]
    for number, body in enumerate(before):
        await publish(body, key=b"%d" % number)
    first, second = members(), members()
    in_hand = await _fetch_to(first, *before)
    come: list[bytes] = []

    async def take(member: KafkaTopics, *, but_first: Sequence[Message] = ()) -> None:
        if but_first:
            await member.acknowledge(but_first)
        while messages := await _fetch(member):
            come.extend(_bodies(messages))
            await member.acknowledge(messages)

    async def is_dealt() -> bool:
        await take(second)
        return bool(come)

    await wait_until(is_dealt)  # the second one has some of what the first has in hand
    dealt = set(come)
    assert dealt < set(before)
    await take(first, but_first=in_hand)
    after = [b"%03d" % number for number in range(60, 120)]
    for number, body in enumerate(after):
        await publish(body, key=b"%d" % number)

    async def is_all() -> bool:
        await asyncio.gather(take(first), take(second))
        return set(after) <= set(come)

    await wait_until(is_all)
    assert sorted(body for body in come if body in after) == after
    assert sorted(body for body in come if body in dealt) == sorted(dealt)
    assert await first.lag() == 0


async def test_a_member_that_is_gone_is_taken_over(publish: Publish, members: Members) -> None:
    """What one had in hand as it left comes to the other."""
    await publish(b"0")
    first, second = members(), members()
    await _fetch_to(first, b"0")
    await first.close()
    assert await _fetch_to(second, b"0")


@pytest.mark.parametrize("is_kept", [True, False], ids=["as it is", "control: with a limit"])
async def test_what_is_in_hand_is_kept_for_long(
    publish: Publish, members: Members, monkeypatch: pytest.MonkeyPatch, *, is_kept: bool
) -> None:
    """A member that fetches nothing, as under a full spool, stays in the group; a limit to a pause would end that."""
    if not is_kept:
        monkeypatch.setattr("forwarder.sources.kafka_topics._POLL_MAX_MS", 1)
    beats = 0
    beat = GroupCoordinator._do_heartbeat  # noqa: SLF001 - it counts them

    async def counted(self: GroupCoordinator) -> bool:
        nonlocal beats
        beats += 1
        alive: bool = await beat(self)
        return alive

    await publish(b"0")
    member = members()
    in_hand = await _fetch_to(member, b"0")
    monkeypatch.setattr(GroupCoordinator, "_do_heartbeat", counted)
    generation = _generation(member)

    async def is_over() -> bool:
        await member.keep(in_hand)
        return beats >= 2 or _generation(member) != generation

    await wait_until(is_over)
    assert (_generation(member) == generation) is is_kept


async def test_a_proof_takes_nothing_and_moves_nobody(publish: Publish, members: Members, topic: str) -> None:
    """A member at work keeps what it has; a group that was never there begins at the first message afterwards."""
    await publish(b"0", b"1")
    one = members()
    waiting = await one.prove()
    assert waiting.endswith("(3 partitions); 2 messages wait")
    in_hand = await _fetch_to(one, b"1")
    assert _bodies(in_hand) == [b"0", b"1"]
    generation = _generation(one)
    assert (await members().prove()) == waiting
    await one.acknowledge(in_hand)
    assert (await members().prove()).endswith("0 messages wait")
    assert _generation(one) == generation
    other = members(group=f"other-{topic}")
    assert await other.prove() == waiting.replace("group of-", "group other-")
    assert _bodies(await _fetch_to(other, b"1")) == [b"0", b"1"]


async def test_a_topic_that_cannot_be_is_told(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first fetch, and by a proof."""
    monkeypatch.setattr("forwarder.sources.kafka_topics.ANSWER_MAX_S", 1.0)
    member = members(topics=["no topic"])
    with pytest.raises(SourceAway, match="Kafka has not all of the topics"):
        await _fetch(member)
    with pytest.raises(SourceAway, match="Kafka has no topic no topic"):
        await member.prove()


async def test_a_server_that_is_not_there_is_told(members: Members) -> None:
    """Where nobody listens, the first fetch says so."""
    with pytest.raises(SourceAway, match="cannot be reached"):
        await _fetch(members(brokers=["127.0.0.1:1"]))


async def test_a_server_that_was_killed_is_found_again(tmp_path: Path, members: Members, topic: str) -> None:
    """While Kafka is away that is said; when it is back, what was in hand comes again."""
    server = KafkaServer(folder=tmp_path)
    await server.start()
    try:
        async with AIOKafkaProducer(bootstrap_servers=server.address, acks="all") as producer:
            await producer.send_and_wait(topic, b"0")
        member = members(brokers=[server.address])
        in_hand = await _fetch_to(member, b"0")
        await server.kill()
        come: set[bytes] = set()

        async def is_away() -> bool:
            try:
                come.update(_bodies(await _fetch(member)))
            except SourceAway:
                return True
            return False

        await wait_until(is_away)
        with pytest.raises(SourceAway):
            await member.acknowledge(in_hand)
        await server.start()

        async def is_here() -> bool:
            return not await is_away() and b"0" in come

        await wait_until(is_here)
    finally:
        await server.kill()
