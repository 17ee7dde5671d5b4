"""`forwarder demo` as a newcomer runs it: no configuration, the real daemon, exit 0 and nothing lost."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from forwarder.demo.totals import Totals, read_totals
from forwarder.model import RouteName
from stand_ins.listener import free_port
from stand_ins.waiting import wait_until

pytestmark = [pytest.mark.journey, pytest.mark.slow]


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Have the command run on free ports in an empty folder; give it and the page's address."""
    ours = ("FORWARDER_", "COURIER_", "RUDDERSTACK_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    page_port = free_port()
    listen = {
        "FORWARDER_LISTEN": f"127.0.0.1:{free_port()}",
        "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{page_port}",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "forwarder", "demo", *arguments),
        cwd=folder,
        env=inherited | listen,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process, f"http://127.0.0.1:{page_port}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def page_is_up(process: asyncio.subprocess.Process, url: str) -> None:
    """Return when the command told the page's address; page and metrics answer then, without a token."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert url in line.decode(), line
    async with aiohttp.ClientSession() as http:
        for path in ("/", "/metrics"):
            async with http.get(f"{url}{path}") as response:
                assert response.status == 200, path


async def ended(process: asyncio.subprocess.Process) -> str:
    """Return the rest of its output; it must have ended well."""
    assert process.stdout is not None
    output = (await asyncio.wait_for(process.stdout.read(), 120)).decode()
    assert await process.wait() == 0, output
    assert "Traceback" not in output
    return output


async def test_it_shows_both_routes_and_an_outage_and_loses_nothing(tmp_path: Path) -> None:
    """Both routes advance within any ten seconds, the outage included; it ends by itself with lost 0."""
    async with started(tmp_path, "--seconds", "16") as (process, url):
        await page_is_up(process, url)
        longest_s = await longest_standstill(process, url, watch_s=14)
        output = await ended(process)

    assert max(longest_s.values()) < 10, longest_s
    last = output.strip().splitlines()[-1]
    numbers = re.fullmatch(r"accepted (\d+), delivered (\d+), duplicates (\d+), lost 0", last)
    assert numbers is not None, output
    assert int(numbers[1]) >= int(numbers[2]) > 0
    assert "outages of the data plane on the way: 1" in output
    assert "[outage" in output
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - after the command has ended nobody waits for this


async def longest_standstill(process: asyncio.subprocess.Process, url: str, *, watch_s: float) -> dict[str, float]:
    """Watch the totals; return per route the longest time in which nothing was delivered."""
    now_s = time.monotonic()
    ends_s, moved_s = now_s + watch_s, dict.fromkeys(RouteName, now_s)
    longest_s, last = dict.fromkeys((route.value for route in RouteName), 0.0), dict[str, Totals]()
    while (now_s := time.monotonic()) < ends_s and process.returncode is None:
        with contextlib.suppress(aiohttp.ClientError):
            totals = await read_totals(url)
            for route in RouteName:
                if totals[route]["delivered"] > last.get(route, {}).get("delivered", 0):
                    moved_s[route] = now_s
                longest_s[route.value] = max(longest_s[route.value], now_s - moved_s[route])
            last = totals
        await asyncio.sleep(0.2)
    return longest_s


async def is_in_full_flow(url: str) -> bool:
    """Tell whether both routes have delivered."""
    return all(states["delivered"] > 0 for states in (await read_totals(url)).values())


async def test_ctrl_c_ends_it_with_the_summary(tmp_path: Path) -> None:
    """Ctrl-C at any time is a good end: what waits is delivered, the summary printed, exit 0."""
    async with started(tmp_path) as (process, url):
        await page_is_up(process, url)
        await wait_until(partial(is_in_full_flow, url))
        process.send_signal(signal.SIGINT)
        output = await ended(process)

    assert output.strip().splitlines()[-1].endswith("lost 0")
