"""The daemon reads events from a real bus, over the death of either: nothing lost, nothing sent twice for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import aiohttp
import nats
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from forwarder.demo.facts import Ledger
from forwarder.demo.workflow import Workflow, WorkflowEvent
from stand_ins import kafka_server, nats_server, redis_server
from stand_ins.listener import HOST, free_port
from stand_ins.process import DaemonProcess
from stand_ins.waiting import wait_until

_OUTBOUND = "courier_to_rudderstack"
_PASSWORD = "journey-webhook-secret-9d2a"  # one of those that the logs are searched for


class Server(Protocol):
    """A bus' server."""

    async def start(self) -> None:
        """Start it again."""

    async def kill(self) -> None:
        """End it as a power cut would."""


class Bus(Protocol):
    """A bus with a login."""

    name: str
    server: Server

    def settings(self) -> dict[str, str]:
        """Return those of a daemon that reads it."""

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Return once the bus has all of them."""


class Nats:
    """A stream, and a durable that gives again after a second what a killed daemon had in hand."""

    name = "nats"

    def __init__(self, folder: Path) -> None:
        login = {"authorization": {"user": "u", "password": _PASSWORD}}
        self.server = nats_server.NatsServer(folder=folder, options=login)
        self.url = f"nats://u:{_PASSWORD}@{self.server.address}"

    async def make(self) -> None:
        """Start the server and make both."""
        await self.server.start()
        client = await nats.connect(self.url)
        stream = client.jetstream()
        await stream.add_stream(name="EVENTS", subjects=["workflow.>"])
        await stream.add_consumer("EVENTS", durable_name="forwarder", ack_policy="explicit", ack_wait=1)
        await client.close()

    def settings(self) -> dict[str, str]:
        """See `Bus`."""
        return {"FORWARDER_NATS_URL": self.url, "FORWARDER_NATS_STREAM": "EVENTS"}

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Bus`."""
        client = await nats.connect(self.url)
        for body in bodies:
            await client.jetstream().publish("workflow.event", body)
        await client.close()


class RedisStream:
    """A stream that the daemon makes."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        self.server = redis_server.RedisServer(folder=folder, options=["--requirepass", _PASSWORD])
        self.url = f"redis://:{_PASSWORD}@{self.server.address}"

    async def make(self) -> None:
        """Start the server."""
        await self.server.start()

    def settings(self) -> dict[str, str]:
        """See `Bus`."""
        return {"FORWARDER_REDIS_URL": self.url, "FORWARDER_REDIS_STREAMS": "workflow"}

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Bus`."""
        async with Redis.from_url(self.url, protocol=2) as redis:
            for body in bodies:
                await redis.xadd("workflow", {"data": body})


class Kafka:
    """A topic that is there once it was written to. A group's dead member is noticed early."""

    name = "kafka"

    def __init__(self, folder: Path) -> None:
        port = free_port()
        jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        option = "listener.name.sasl_plaintext.plain.sasl.jaas.config"
        self.server = kafka_server.KafkaServer(
            folder=folder,
            secure={"SASL_PLAINTEXT": port},
            options={"sasl.enabled.mechanisms": "PLAIN", option: f'{jaas} user_u="{_PASSWORD}";'},
        )
        self.address = f"{HOST}:{port}"

    async def make(self) -> None:
        """Start the server."""
        await self.server.start()

    def settings(self) -> dict[str, str]:
        """See `Bus`."""
        return {
            "FORWARDER_KAFKA_BROKERS": self.address,
            "FORWARDER_KAFKA_TOPICS": "workflow",
            "FORWARDER_KAFKA_SECURITY": "sasl_plaintext",
            "FORWARDER_KAFKA_USERNAME": "u",
            "FORWARDER_KAFKA_PASSWORD": _PASSWORD,
        }

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Bus`."""
        async with AIOKafkaProducer(bootstrap_servers=self.server.address, acks="all") as producer:
            await asyncio.gather(*[await producer.send("workflow", body) for body in bodies])


@pytest.fixture(
    params=[
        pytest.param(Nats, marks=pytest.mark.skipif(nats_server.PROGRAM is None, reason=nats_server.MISSING)),
        pytest.param(
            Kafka,
            marks=[
                pytest.mark.skipif(not kafka_server.IS_HERE, reason=kafka_server.MISSING),
                pytest.mark.slow,
            ],
        ),
        pytest.param(RedisStream, marks=pytest.mark.skipif(redis_server.PROGRAM is None, reason=redis_server.MISSING)),
    ]
)
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    """Each kind of bus, with its real server."""
    folder = tmp_path / "bus"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        bus = request.param(folder)
        stack.push_async_callback(bus.server.kill)
        await bus.make()
        yield bus


@pytest.fixture
def settings(outbound: dict[str, str], bus: Bus) -> dict[str, str]:
    """Those of a daemon whose only source the bus is."""
    return {name: value for name, value in outbound.items() if name.startswith("RUDDERSTACK_")} | bus.settings()


def _events(ledger: Ledger, workflow: Workflow, count: int) -> list[WorkflowEvent]:
    found = [workflow.sample("SENT", 1_700_000_000_000 + number) for number in range(count)]
    for event in found:
        ledger.post(event.facts)
    return found


async def _add(bus: Bus, ledger: Ledger, workflow: Workflow, count: int) -> None:
    """Publish so many; once the bus has them, each that does not arrive is missing."""
    events = _events(ledger, workflow, count)
    await bus.publish([event.body for event in events])
    for event in events:
        ledger.acknowledge(event.facts.key)


async def _source(http: aiohttp.ClientSession, daemon: DaemonProcess) -> dict[str, object]:
    """Return what the daemon says of its only source."""
    async with http.get(f"{daemon.operator_url}/api/status") as response:
        (found,) = (await response.json())["sources"]
    return dict(found)


async def test_no_message_is_lost_over_the_death_of_either(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    ledger: Ledger,
    bus: Bus,
    settings: dict[str, str],
) -> None:
    """What was published before the start, meanwhile, while the bus or the daemon is dead: all of it is delivered."""
    workflow = Workflow(seed=1, users=5)

    async def is_away() -> bool:
        return (await _source(http, daemon))["state"] == "away"

    await _add(bus, ledger, workflow, 700)
    daemon = make_daemon(settings)
    await daemon.start()
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 700)
    await bus.server.kill()
    await wait_until(is_away)
    await bus.server.start()
    await _add(bus, ledger, workflow, 300)
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 1_000)
    await _add(bus, ledger, workflow, 1_000)
    await daemon.kill()
    await _add(bus, ledger, workflow, 100)
    await daemon.start()
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["accepted"] == 2_100 and totals["pending"] == 0)

    assert list(ledger.missing()) == []
    assert (ledger.delivered, list(ledger.wrong)) == (2_100, [])

    async def is_read() -> bool:
        one = await _source(http, daemon)
        return (one["name"], one["state"], one["lag"]) == (bus.name, "connected", 0)

    await wait_until(is_read)
    assert await daemon.stop() == 0


async def test_what_is_no_json_is_dead_and_a_second_copy_is_a_duplicate(
    *,
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    ledger: Ledger,
    bus: Bus,
    settings: dict[str, str],
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """Neither stands in the way of what follows; the page shows the source."""
    events = [event.body for event in _events(ledger, Workflow(seed=2, users=2), 2)]
    daemon = make_daemon(settings)
    await daemon.start()
    await bus.publish([events[0], b"no json", events[0], events[1]])

    totals = await daemon.wait_for_totals(_OUTBOUND, lambda totals: (totals["accepted"], totals["pending"]) == (3, 0))

    assert (totals["delivered"], totals["dead"]) == (2, 1)
    assert await duplicates(daemon) == 1
    async with http.get(f"{daemon.operator_url}/") as response:
        assert "Your own bus" in await response.text()
    async with http.get(f"{daemon.operator_url}/api/events", params={"state": "dead"}) as response:
        (dead,) = (await response.json())["events"]
    assert (dead["source"], dead["reason"]) == (bus.name, "not JSON: Expecting value at character 0")


def _own(bus: Bus) -> list[dict[str, str]]:
    """Return what each of two daemons has for itself."""
    return [{"FORWARDER_REDIS_CONSUMER": name} if bus.name == "redis" else {} for name in ("one", "other")]


@pytest.mark.one_daemon("two daemons of its own")
async def test_two_daemons_share_the_messages_over_the_death_of_one(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], ledger: Ledger, bus: Bus, settings: dict[str, str]
) -> None:
    """Both take some; what one had in hand as it was killed is lost to neither, and all of it is delivered."""
    workflow = Workflow(seed=3, users=5)

    async def accepted(daemon: DaemonProcess) -> int:
        return int((await daemon.totals(_OUTBOUND))["accepted"])

    async def both_take() -> bool:
        await _add(bus, ledger, workflow, 50)
        return min(await accepted(pair[0]), await accepted(pair[1])) > 0

    pair = [make_daemon(settings | own) for own in _own(bus)]
    for daemon in pair:
        await daemon.start()
    await wait_until(both_take)
    await _add(bus, ledger, workflow, 500)
    await pair[0].kill()
    await _add(bus, ledger, workflow, 200)
    await pair[0].start()

    async def are_all_delivered() -> bool:
        return not list(ledger.missing())

    await wait_until(are_all_delivered)
    assert list(ledger.wrong) == []
    for daemon in pair:
        assert await daemon.stop() == 0


@pytest.mark.one_daemon("starts replicas of its own")
async def test_two_replicas_on_one_bus_and_one_database(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    ledger: Ledger,
    bus: Bus,
    settings: dict[str, str],
    postgres_url: str,
) -> None:
    """What one had in hand as it was killed comes to the other: kept once, however often it came, and delivered."""
    workflow, published = Workflow(seed=5, users=5), 1_200
    database = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": postgres_url}
    pair = [make_daemon(settings | database | own) for own in _own(bus)]
    try:
        await asyncio.gather(*(daemon.start() for daemon in pair))
        await _add(bus, ledger, workflow, 500)
        await pair[1].wait_for_totals(_OUTBOUND, lambda totals: totals["accepted"] > 0)
        await _add(bus, ledger, workflow, 500)
        await pair[0].kill()
        await _add(bus, ledger, workflow, 200)
        await pair[0].start()  # the same name in the group gets what was in hand; else it comes to the other, later
        totals = await pair[1].wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] >= published)

        assert totals["accepted"] == published
        assert (list(ledger.missing()), list(ledger.wrong)) == ([], [])
    finally:
        for daemon in pair:
            await daemon.kill()  # before the database goes


async def test_a_full_spool_leaves_the_messages_on_the_bus(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    ledger: Ledger,
    bus: Bus,
    settings: dict[str, str],
) -> None:
    """It fetches no more than it has in hand, acknowledges nothing and says why; with room all of it is delivered."""
    await _add(bus, ledger, Workflow(seed=4, users=5), 1_200)
    full = make_daemon(settings | {"FORWARDER_SPOOL_BYTES_MAX": "1"})
    await full.start()

    async def is_waiting() -> bool:
        one = await _source(http, full)
        return (one["state"], one["lag"], one["reason"]) == ("waiting", 1_200, "the spool has no room")

    await wait_until(is_waiting)
    assert await full.stop() == 0
    daemon = make_daemon(settings)
    await daemon.start()
    totals = await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 1_200)

    assert totals["accepted"] == 1_200
    assert (list(ledger.missing()), list(ledger.wrong)) == ([], [])
