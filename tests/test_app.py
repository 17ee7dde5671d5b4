"""The assembled daemon, where the database goes away while it starts."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from forwarder.app import run_until
from forwarder.settings import Settings
from stand_ins.gate import Gate
from stand_ins.listener import free_port


@pytest.fixture
async def gate_port(postgres_url: str) -> AsyncIterator[int]:
    """Return the port of a database that is away for a moment when the spool has been opened."""
    numbers = itertools.count(1)
    async with Gate(lambda: None if next(numbers) in range(5, 9) else urlsplit(postgres_url).port) as gate:
        yield gate.port


async def test_a_database_that_goes_away_during_the_start_is_waited_for(
    gate_port: int, postgres_url: str, tmp_path: Path
) -> None:
    """Also when the spool was open already: the daemon comes up as soon as the database is back."""
    url = urlsplit(postgres_url)
    port = free_port()
    settings = Settings.model_validate(
        {
            "COURIER_API_KEY": "ck",
            "COURIER_API_URL": "http://127.0.0.1:1",
            "FORWARDER_INBOUND_KEYS": "ik",
            "FORWARDER_DATA_DIR": str(tmp_path / "data"),
            "FORWARDER_LISTEN": f"127.0.0.1:{port}",
            "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{free_port()}",
            "FORWARDER_SPOOL": "postgres",
            "FORWARDER_POSTGRES_URL": url._replace(netloc=url.netloc.replace(f":{url.port}", f":{gate_port}")).geturl(),
            "FORWARDER_LOG_LEVEL": "error",
        }
    )
    stop = asyncio.Event()
    running = asyncio.create_task(run_until(settings, stop))
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            while not running.done():
                with contextlib.suppress(OSError):
                    async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        assert answer.status == 200
                        break
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await running
