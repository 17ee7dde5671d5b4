"""What every journey needs: the real daemon as a process between two stand-ins, and its logs kept clean.

At the end of each journey the daemon is ended by its own process id, and its logs are searched for
tracebacks, secrets and payloads.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from forwarder.demo.facts import Ledger
from forwarder.demo.workflow import seen
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess

WRITE_KEY = "journey-write-key-51c7"
WEBHOOK_SECRET = "journey-webhook-secret-9d2a"
API_KEY = "pk_journey_api_key_77e1"
INBOUND_KEY = "journey-inbound-key-3b0f"
EVENTS_KEY = "journey-events-key-c4d8"
SECRETS = (WRITE_KEY, WEBHOOK_SECRET, API_KEY, INBOUND_KEY, EVENTS_KEY)
# What the streams put into payloads and nowhere else.
PAYLOAD_MARKS = ("user-0", "customer-0", "member-0", "@example.com", "vip-eu", "demo_id", "call-", "payload-mark")


@pytest.fixture
async def make_daemon(
    tmp_path: Path, daemon_in: Callable[[Path, dict[str, str]], DaemonProcess]
) -> AsyncIterator[Callable[[dict[str, str]], DaemonProcess]]:
    """Make daemons in folders of their own; end them and search their logs when the journey is over."""
    made: list[DaemonProcess] = []

    def make(settings: dict[str, str]) -> DaemonProcess:
        folder = tmp_path / f"daemon-{len(made)}"
        folder.mkdir()
        made.append(daemon_in(folder, settings))
        return made[-1]

    yield make
    for daemon in made:
        await daemon.kill()
    for daemon in made:
        assert daemon.marks_in_logs(("Traceback", *SECRETS, *PAYLOAD_MARKS)) == [], daemon.folder


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A sender's HTTP client. Of several replicas each request meets the next."""
    connector = aiohttp.TCPConnector(force_close="TEST_REPLICAS" in os.environ)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    """A stand-in data plane that knows the journeys' write key."""
    async with DataPlane(write_keys=[WRITE_KEY]) as running:
        yield running


@pytest.fixture
async def courier() -> AsyncIterator[CourierApi]:
    """A stand-in Courier that knows the journeys' API key."""
    async with CourierApi(api_keys=[API_KEY]) as running:
        yield running


@pytest.fixture
def ledger(plane: DataPlane) -> Ledger:
    """The account of what was acknowledged and what the data plane got."""
    account = Ledger()
    plane.on_stored = lambda event: account.see(seen(event))
    return account


@pytest.fixture
def outbound(plane: DataPlane) -> dict[str, str]:
    """The three variables of the outbound route, and the key of `/events`."""
    return {
        "RUDDERSTACK_WRITE_KEY": WRITE_KEY,
        "RUDDERSTACK_DATA_PLANE_URL": plane.url,
        "COURIER_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "FORWARDER_EVENTS_KEY": EVENTS_KEY,
    }


@pytest.fixture
def inbound(courier: CourierApi) -> dict[str, str]:
    """The variables of the inbound route."""
    return {
        "FORWARDER_INBOUND_KEYS": INBOUND_KEY,
        "COURIER_API_KEY": API_KEY,
        "COURIER_API_URL": courier.url,
    }


@pytest.fixture
def duplicates(http: aiohttp.ClientSession) -> Callable[[DaemonProcess], Awaitable[int]]:
    """Return a function that tells how many events a daemon was sent more than once, on all routes."""

    async def read(daemon: DaemonProcess) -> int:
        counted = 0
        for one in daemon.replicas:
            async with http.get(f"{one.operator_url}/metrics") as response:
                families = {family.name: family for family in text_string_to_metric_families(await response.text())}
            samples = families["forwarder_duplicates"].samples
            counted += sum(int(sample.value) for sample in samples if sample.name.endswith("_total"))
        return counted

    return read
