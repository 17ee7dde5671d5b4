"""RudderStack's own Python SDK, pointed at the daemon as its data plane."""

import asyncio
import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from forwarder.ingress.listener import PublicListener


@pytest.fixture
def make_client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what makes a client of the SDK, imported without its habit of loading a `.env`."""
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    client: Callable[..., Any] = importlib.import_module("rudderstack.analytics.client").Client
    return client


@pytest.mark.parametrize("is_packed", [True, False])
async def test_the_sdk_delivers(
    build_house: Callable[..., Any], make_client: Callable[..., Any], *, is_packed: bool
) -> None:
    """What the SDK sends arrives whole and in order, packed or not; with a wrong key it hears why."""
    house = build_house()
    listener = PublicListener(
        addresses=[("127.0.0.1", 0)],
        receiver=house.receiver,
        health=house.health,
        spool=house.spool,
        reporter=house.reporter,
    )
    await listener.start()
    task = asyncio.create_task(listener.run())

    def send(key: str) -> list[str]:
        errors: list[str] = []
        client = make_client(
            key,
            host=f"http://127.0.0.1:{listener.ports[0]}/",
            gzip=is_packed,
            max_retries=0,
            on_error=lambda error, _batch: errors.append(str(error)),
        )
        client.identify("u1", {"email": "maya.okafor@example.com"})
        for number in range(150):
            client.track("u1", "Order Completed", {"number": number})
        client.group("u1", "g1", {"name": "Acme"})
        client.flush()
        client.shutdown()
        return errors

    try:
        assert await asyncio.to_thread(send, "key-of-the-source") == []
        assert "invalid write key" in (await asyncio.to_thread(send, "key-of-somebody"))[0]
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    stored = [json.loads(payload) for payload in house.payloads()]
    assert [event["type"] for event in stored] == ["identify", *["track"] * 150, "group"]
    assert [event["properties"]["number"] for event in stored[1:-1]] == list(range(150))
    assert {envelope.partition_key for envelope in house.spool.kept} == {"u1"}
