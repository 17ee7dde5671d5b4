"""What the JetStream consumer promises, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.sources.jetstream import JetStream
from forwarder.sources.nats_connection import NatsSettings
from forwarder.sources.port import Fetched, Message
from stand_ins.nats_server import MISSING, PROGRAM, NatsServer
from stand_ins.waiting import wait_until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

_MIB = 1_048_576


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Yield a running server."""
    server = NatsServer(folder=tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def stream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """Yield JetStream, with a stream EVENTS of `events.>`."""
    client = await nats.connect(server.url)
    stream = client.jetstream()
    await stream.add_stream(name="EVENTS", subjects=["events.>"])
    yield stream
    await client.close()


Consumers = Callable[..., JetStream]


@pytest.fixture
async def consumers(server: NatsServer) -> AsyncIterator[Consumers]:
    """Yield what makes consumers and closes them at the end."""
    async with AsyncExitStack() as stack:

        def make(**changed: object) -> JetStream:
            settings = NatsSettings(urls=[server.url], stream="EVENTS")
            made = JetStream(replace(settings, **changed), clock=SystemClock())  # type: ignore[arg-type]  # of whatever field a test names
            stack.push_async_callback(made.close)
            return made

        yield make


async def _fetch(bus: JetStream, *, messages_max: int = 100, bytes_max: int = _MIB) -> Fetched:
    return await bus.fetch(messages_max=messages_max, bytes_max=bytes_max)


async def _some(bus: JetStream, count: int, *, messages_max: int = 100, bytes_max: int = _MIB) -> list[Message]:
    """Fetch until so many came, over lost connections."""
    found: list[Message] = []

    async def is_there() -> bool:
        try:
            found.extend((await _fetch(bus, messages_max=messages_max, bytes_max=bytes_max)).messages)
        except SourceAway:
            return False
        return len(found) >= count

    await wait_until(is_there)
    return found


def _bodies(messages: Sequence[Message]) -> list[bytes]:
    return [one.body for one in messages]


async def test_messages_come_in_order_with_their_headers(stream: JetStreamContext, consumers: Consumers) -> None:
    """What was published before the first start comes, oldest first; header names are in lower case."""
    for number in range(5):
        await stream.publish("events.a", b"%d" % number, headers={"Ce-Id": "x"})

    found = await _some(consumers(), 5)

    assert _bodies(found) == [b"0", b"1", b"2", b"3", b"4"]
    assert found[0].headers == {"ce-id": "x"}


async def test_a_header_of_the_senders_own_is_no_status(stream: JetStreamContext, consumers: Consumers) -> None:
    """A message is one whatever its headers are called; it does not end the reading."""
    await stream.publish("events.a", b"1", headers={"Status": "500", "Description": "of an order"})

    assert _bodies(await _some(consumers(), 1)) == [b"1"]


async def test_a_lone_message_does_not_wait_for_others(
    stream: JetStreamContext, consumers: Consumers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is returned as it comes, not when the waiting is over, while the request for many more stays open."""
    bus = consumers()
    assert not (await _fetch(bus)).messages
    monkeypatch.setattr("forwarder.sources.jetstream._WAIT_S", 600.0)
    fetching = asyncio.create_task(_fetch(bus))
    await asyncio.sleep(0)
    await stream.publish("events.a", b"1")

    async with asyncio.timeout(60):
        assert _bodies((await fetching).messages) == [b"1"]


async def test_what_was_acknowledged_comes_no_more(stream: JetStreamContext, consumers: Consumers) -> None:
    """The next consumer gets only what was not acknowledged, once the first one is gone."""
    bus = consumers()
    for number in range(2):
        await stream.publish("events.a", b"%d" % number)
    found = await _some(bus, 2)
    await bus.acknowledge(found[:1])
    await _let_go_at_once(stream)

    assert _bodies(await _some(consumers(), 1)) == [b"1"]


async def test_what_was_in_hand_at_the_close_comes_again_at_once(
    stream: JetStreamContext, consumers: Consumers
) -> None:
    """A restart does not wait until JetStream has given up the one before (control: the time it waits is 30 s)."""
    bus = consumers()
    for number in range(3):
        await stream.publish("events.a", b"%d" % number)
    await _some(bus, 1, messages_max=1)
    await bus.close()

    async with asyncio.timeout(10):
        assert sorted(_bodies(await _some(consumers(), 3))) == [b"0", b"1", b"2"]
    assert (await stream.consumer_info("EVENTS", "forwarder")).config.ack_wait == 30


async def test_the_server_may_be_killed(server: NatsServer, stream: JetStreamContext, consumers: Consumers) -> None:
    """Reading goes on over its restart, and what was not acknowledged is there again."""
    bus = consumers()
    await stream.publish("events.a", b"1")
    found = await _some(bus, 1)
    await _let_go_at_once(stream)
    await server.kill()
    with pytest.raises(SourceAway):
        await wait_until(lambda: _never(bus))
    with pytest.raises(SourceAway):
        await bus.acknowledge(found)
    await server.start()

    assert _bodies(await _some(bus, 1)) == [b"1"]


async def test_a_cancelled_fetch_loses_nothing(stream: JetStreamContext, consumers: Consumers) -> None:
    """What was on its way to it comes again."""
    bus = consumers()
    await _fetch(bus)
    await _let_go_at_once(stream)
    fetching = asyncio.create_task(_fetch(bus))
    await stream.publish("events.a", b"1")
    fetching.cancel()
    await asyncio.wait((fetching,))

    assert _bodies(await _some(bus, 1)) == [b"1"]


async def test_lag_counts_what_is_not_acknowledged(stream: JetStreamContext, consumers: Consumers) -> None:
    """Both what nobody fetched and what is in hand."""
    bus = consumers()
    for number in range(3):
        await stream.publish("events.a", b"%d" % number)
    found = await _some(bus, 3)
    assert await bus.lag() == 3
    await bus.acknowledge(found[:2])

    async def is_one() -> bool:
        return await bus.lag() == 1

    await wait_until(is_one)


async def test_bytes_bound_a_fetch_and_a_larger_message_comes_alone(
    stream: JetStreamContext, consumers: Consumers
) -> None:
    """No more than was asked for is in memory; one that is larger than that is no reason to stop."""
    bus = consumers()
    await _fetch(bus)
    for body in (b"a" * 900, b"b" * 5_000, b"c" * 900):
        await stream.publish("events.a", body)

    found = await _some(bus, 3, bytes_max=2_000)

    assert [one.body[:1] for one in found] == [b"a", b"b", b"c"]


async def test_only_the_subjects_asked_for_come_and_they_may_change(
    stream: JetStreamContext, consumers: Consumers
) -> None:
    """The durable takes the subjects that are set from now on, also when it was made with others."""
    first = consumers(subjects=("events.a",))
    await _fetch(first)
    await first.close()
    second = consumers(subjects=("events.a", "events.c"))
    await _fetch(second)
    for subject in ("b", "c", "a"):
        await stream.publish(f"events.{subject}", subject.encode())

    assert _bodies(await _some(second, 2)) == [b"c", b"a"]


async def test_keeping_puts_off_the_redelivery(stream: JetStreamContext, consumers: Consumers) -> None:
    """A message in hand is given to nobody else while it is told to be; once it is not, it is."""
    bus, other = consumers(), consumers()
    await _fetch(bus)
    await _let_go_at_once(stream)
    await stream.publish("events.a", b"1")
    found = await _some(bus, 1)
    fetching = asyncio.create_task(_fetch(other))  # waits for five times as long as it takes
    while not fetching.done():
        await bus.keep(found)
        await asyncio.wait((fetching,), timeout=0.02)

    assert not (await fetching).messages
    assert _bodies(await _some(other, 1)) == [b"1"]


async def test_no_stream_and_a_consumer_of_another_kind_are_said(
    stream: JetStreamContext, consumers: Consumers
) -> None:
    """The words name what to change."""
    with pytest.raises(SourceAway, match="there is no stream ELSE"):
        await _fetch(consumers(stream="ELSE"))
    await stream.add_consumer("EVENTS", durable_name="pushed", deliver_subject="x", ack_policy="explicit")
    with pytest.raises(SourceAway, match="FORWARDER_NATS_DURABLE"):
        await _fetch(consumers(durable="pushed"))


@pytest.mark.parametrize("lossy", [{"max_deliver": 3}, {"headers_only": True}])
async def test_a_consumer_that_would_lose_events_is_not_used(
    stream: JetStreamContext, consumers: Consumers, lossy: dict[str, Any]
) -> None:
    """One that gives up after some tries, or leaves out what the event is: nothing is taken from it."""
    await stream.add_consumer("EVENTS", durable_name="forwarder", ack_policy="explicit", **lossy)

    with pytest.raises(SourceAway, match="would lose events"):
        await _fetch(consumers())


async def test_a_consumer_that_is_deleted_is_made_again(stream: JetStreamContext, consumers: Consumers) -> None:
    """It is told, and reading goes on."""
    bus = consumers()
    await _fetch(bus)
    await stream.delete_consumer("EVENTS", "forwarder")
    with pytest.raises(SourceAway, match=r"Consumer Deleted|is gone"):
        await wait_until(lambda: _never(bus))
    await stream.publish("events.a", b"1")

    assert _bodies(await _some(bus, 1)) == [b"1"]


async def test_proving_takes_nothing(stream: JetStreamContext, consumers: Consumers) -> None:
    """What waits is told, and waits on with no delivery counted."""
    await stream.publish("events.a", b"1")

    assert "1 messages wait" in await consumers().prove()

    info = await stream.consumer_info("EVENTS", "forwarder")
    assert (info.num_pending, info.num_ack_pending, info.delivered and info.delivered.consumer_seq) == (1, 0, 0)


@pytest.mark.usefixtures("stream")
async def test_what_is_sent_is_fetched(consumers: Consumers) -> None:
    """A sample goes to a subject that the source reads, a wildcard among them filled."""
    bus = consumers(subjects=("events.*.>",))

    assert await bus.send(b"{}") == "subject events.sample.sample, message 1 of stream EVENTS"
    assert _bodies(await _some(bus, 1)) == [b"{}"]
    assert await consumers().send(b"{}") == "subject events.sample, message 2 of stream EVENTS"


async def test_nobody_there_is_said_without_the_url(consumers: Consumers) -> None:
    """The words hold no password."""
    with pytest.raises(SourceAway) as raised:
        await _fetch(consumers(urls=("nats://user:sesame@127.0.0.1:1",)))

    assert str(raised.value) == "NATS cannot be reached"


async def test_of_several_servers_one_is_enough(
    server: NatsServer, stream: JetStreamContext, consumers: Consumers
) -> None:
    """One that is away is passed over at the next try."""
    await stream.publish("events.a", b"1")

    assert _bodies(await _some(consumers(urls=("nats://127.0.0.1:1", server.url)), 1)) == [b"1"]


async def _never(bus: JetStream) -> bool:
    await _fetch(bus)
    return False


async def _let_go_at_once(stream: JetStreamContext) -> None:
    """Let the durable give again soon what was not acknowledged; it takes half a minute as it is made."""
    config = (await stream.consumer_info("EVENTS", "forwarder")).config
    await stream.add_consumer("EVENTS", config.evolve(name="forwarder", ack_wait=0.2))
