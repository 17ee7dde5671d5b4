"""What `forwarder status` shows: asked of the daemon once, or again and again."""

import asyncio
import json
import sys
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.operator_client import OperatorClient, operator

_CLEAR = "\x1b[H\x1b[2J"


def show_status(times: int | None, *, interval_s: float, as_json: bool, url: str | None) -> None:
    """Print the status so many times (None: until Ctrl-C), with `interval_s` between."""
    asyncio.run(_show(times, interval_s=interval_s, as_json=as_json, url=url))


async def _show(times: int | None, *, interval_s: float, as_json: bool, url: str | None) -> None:
    earlier: dict[str, Any] | None = None
    shown = 0
    async with operator(url, waits=times != 1) as client:
        while True:
            now = await _status(client)
            if as_json:
                click.echo(json.dumps(now))
            else:
                is_screen = times != 1 and sys.stdout.isatty()
                click.echo((_CLEAR if is_screen else "") + "\n".join(show.status_lines(now, earlier)))
            earlier, shown = now, shown + 1
            if times is not None and shown >= times:
                return
            client.must_run("watch")
            await asyncio.sleep(interval_s)


async def _status(client: OperatorClient) -> dict[str, Any]:
    told: dict[str, Any] = await client.get("/api/status")
    return told | {"is_running": client.is_running}
