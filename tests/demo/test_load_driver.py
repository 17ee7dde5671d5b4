"""The driver posts as the vendors do: retries what may heal, gives up on the rest, notes what was promised."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from forwarder.demo.call_stream import CallStream
from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, LoadDriver
from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow
from stand_ins.behaviour import HangsUp, Says, Script
from stand_ins.listener import Asked, Listener, Said

NOW_MS = 1_767_225_600_000


class Endpoint:
    """A receiver that says 200 and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script = Script()
        self.listener = Listener(self.answer, self.script)

    async def answer(self, asked: Asked) -> Said:
        """Take it."""
        self.asked.append(asked)
        return Said(status=200, body=b"{}")


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on loopback."""
    one = Endpoint()
    await one.listener.listen()
    yield one
    await one.listener.refuse()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_webhook_is_signed_and_retried_until_it_is_taken(
    endpoint: Endpoint, http: aiohttp.ClientSession
) -> None:
    """5xx, 429 and silence are retried; the acknowledgement is written down once."""
    ledger, event = Ledger(), Workflow(seed=1).message(NOW_MS)[0]
    driver = LoadDriver(http, endpoint.listener.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0)
    endpoint.script.once(Says(status=503), Says(status=429), HangsUp(), Says(status=408))

    assert await driver.webhook(event, "s3cret")

    (asked,) = endpoint.asked
    stamp = int(asked.headers["courier-signature"].split(",")[0][2:])
    assert asked.headers["courier-signature"] == signed(event.body, "s3cret", stamp)["courier-signature"]
    assert asked.path == "/webhooks/courier"
    assert (ledger.acknowledged, driver.statuses) == (1, {503: 1, 429: 1, 0: 1, 408: 1, 200: 1})


@pytest.mark.parametrize("status", [400, 401, 404, 302], ids=str)
async def test_any_other_answer_is_final(endpoint: Endpoint, http: aiohttp.ClientSession, status: int) -> None:
    """Courier gives up at once on any other 4xx, and so does the driver; nothing was promised then."""
    ledger = Ledger()
    driver = LoadDriver(http, endpoint.listener.url, ledger, schedule_s=(1,), scale=0)
    endpoint.script.once(Says(status=status))

    assert not await driver.webhook(Workflow(seed=1).message(NOW_MS)[0], "s3cret")
    assert (ledger.acknowledged, driver.given_up) == (0, 1)


async def test_calls_carry_x_credential(endpoint: Endpoint, http: aiohttp.ClientSession) -> None:
    """Basic with the key as user on `/v1`, Bearer on `/inbound`."""
    ledger = Ledger()
    driver = LoadDriver(http, endpoint.listener.url, ledger, schedule_s=(1,), scale=0)
    for path in ("/v1/batch", "/inbound/segment"):
        assert await driver.call(CallStream(seed=1, endpoints=[path]).identify(NOW_MS), "key")
    endpoint.script.once(Says(status=401))
    assert not await driver.call(CallStream(seed=2).page(NOW_MS), "key")

    assert [asked.headers["authorization"] for asked in endpoint.asked] == ["Basic a2V5Og==", "Bearer key"]
    assert [asked.path for asked in endpoint.asked] == ["/v1/batch", "/inbound/segment"]
