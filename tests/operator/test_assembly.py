"""The acting pages of the real daemon: what the assembly gives them."""

import asyncio
from pathlib import Path

import aiohttp

from forwarder.app import run_until
from forwarder.settings import Settings
from stand_ins.listener import free_port

TOKEN = "a-token-long-enough-to-be-taken"


async def _until_up(http: aiohttp.ClientSession) -> None:
    for _ in range(500):
        try:
            async with http.get("/login"):
                return
        except OSError:
            await asyncio.sleep(0.02)


async def test_the_daemon_serves_every_page_to_whoever_logs_in(tmp_path: Path) -> None:
    """With a token set, the login opens every page, and the checks look at the daemon's own settings."""
    port = free_port()
    settings = Settings.model_validate(
        {
            "COURIER_API_KEY": "ck",
            "COURIER_API_URL": "http://127.0.0.1:1",
            "FORWARDER_INBOUND_KEYS": "ik",
            "FORWARDER_DATA_DIR": str(tmp_path / "data"),
            "FORWARDER_LISTEN": f"127.0.0.1:{free_port()}",
            "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{port}",
            "FORWARDER_OPERATOR_TOKEN": TOKEN,
            "FORWARDER_LOG_LEVEL": "error",
        }
    )
    stop = asyncio.Event()
    running = asyncio.create_task(run_until(settings, stop))
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", cookie_jar=jar) as http, asyncio.timeout(60):
            await _until_up(http)
            async with http.get("/", headers={"Accept": "text/html"}, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/login")
            async with http.post("/login", data={"token": TOKEN}) as answer:
                assert answer.status == 200
            for path in ("/", "/events", "/destination-events", "/dead-letters", "/settings", "/audit"):
                async with http.get(path) as answer:
                    text = await answer.text()
                    assert (answer.status, "Log out" in text) == (200, True), path
            async with http.post("/settings/check") as answer:
                text = await answer.text()
                assert "sound, SQLite" in text
                assert TOKEN not in text
    finally:
        stop.set()
        await running
