"""The daemon reads events from a real JetStream, over the death of either: nothing lost, nothing sent twice for it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import nats
import pytest

from forwarder.demo.facts import Ledger
from forwarder.demo.workflow import Workflow, WorkflowEvent
from stand_ins.nats_server import MISSING, PROGRAM, NatsServer
from stand_ins.process import DaemonProcess
from stand_ins.waiting import wait_until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

_OUTBOUND = "courier_to_rudderstack"
_PASSWORD = "journey-webhook-secret-9d2a"  # one of those that the logs are searched for


@dataclass(frozen=True, slots=True)
class Bus:
    """A server with a login, and the settings of a daemon whose only source it is."""

    server: NatsServer
    settings: dict[str, str]

    async def publish(self, bodies: list[bytes]) -> None:
        """Return once the stream has all of them."""
        client = await nats.connect(self.settings["FORWARDER_NATS_URL"])
        for body in bodies:
            await client.jetstream().publish("workflow.event", body)
        await client.close()


@pytest.fixture
async def bus(tmp_path: Path, outbound: dict[str, str]) -> AsyncIterator[Bus]:
    """A stream, and a durable that gives again after a second what a killed daemon had in hand."""
    folder = tmp_path / "nats"
    folder.mkdir()
    server = NatsServer(folder=folder, options={"authorization": {"user": "u", "password": _PASSWORD}})
    await server.start()
    url = f"nats://u:{_PASSWORD}@{server.address}"
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="EVENTS", subjects=["workflow.>"])
    await stream.add_consumer("EVENTS", durable_name="forwarder", ack_policy="explicit", ack_wait=1)
    await client.close()
    kept = {name: value for name, value in outbound.items() if name.startswith("RUDDERSTACK_")}
    yield Bus(server, kept | {"FORWARDER_NATS_URL": url, "FORWARDER_NATS_STREAM": "EVENTS"})
    await server.kill()


def _events(ledger: Ledger, workflow: Workflow, count: int) -> list[WorkflowEvent]:
    found = [workflow.sample("SENT", 1_700_000_000_000 + number) for number in range(count)]
    for event in found:
        ledger.post(event.facts)
    return found


async def test_no_message_is_lost_over_the_death_of_either(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    ledger: Ledger,
    bus: Bus,
) -> None:
    """What was published before the start, meanwhile, while NATS or the daemon is dead: all of it is delivered."""
    workflow = Workflow(seed=1, users=5)

    async def add(count: int) -> None:
        await bus.publish([event.body for event in _events(ledger, workflow, count)])

    async def sources() -> list[dict[str, object]]:
        async with http.get(f"{daemon.operator_url}/api/status") as response:
            found: list[dict[str, object]] = (await response.json())["sources"]
        return found

    async def is_away() -> bool:
        return [one["state"] for one in await sources()] == ["away"]

    await add(700)
    daemon = make_daemon(bus.settings)
    await daemon.start()
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 700)
    await bus.server.kill()
    await wait_until(is_away)
    await bus.server.start()
    await add(300)
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 1_000)
    await add(1_000)
    await daemon.kill()
    await add(100)
    await daemon.start()
    await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["accepted"] == 2_100 and totals["pending"] == 0)

    assert list(ledger.missing()) == []
    assert list(ledger.wrong) == []

    async def is_read() -> bool:
        return [(one["name"], one["state"], one["lag"]) for one in await sources()] == [("nats", "connected", 0)]

    await wait_until(is_read)
    assert await daemon.stop() == 0


async def test_what_is_no_json_is_dead_and_a_second_copy_is_a_duplicate(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    http: aiohttp.ClientSession,
    ledger: Ledger,
    bus: Bus,
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """Neither stands in the way of what follows; the page shows the source."""
    events = [event.body for event in _events(ledger, Workflow(seed=2, users=2), 2)]
    daemon = make_daemon(bus.settings)
    await daemon.start()
    await bus.publish([events[0], b"no json", events[0], events[1]])

    totals = await daemon.wait_for_totals(_OUTBOUND, lambda totals: totals["delivered"] == 2)

    assert (totals["accepted"], totals["dead"]) == (3, 1)
    assert await duplicates(daemon) == 1
    async with http.get(f"{daemon.operator_url}/") as response:
        assert "Your own bus" in await response.text()
    async with http.get(f"{daemon.operator_url}/api/events", params={"state": "dead"}) as response:
        (dead,) = (await response.json())["events"]
    assert (dead["source"], dead["reason"]) == ("nats", "not JSON: Expecting value at character 0")
