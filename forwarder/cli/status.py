"""`forwarder status`: how both routes, the books and the spool are, once or again and again."""

import asyncio
import json
import sys
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, URL, command_settings

_CLEAR = "\x1b[H\x1b[2J"


@click.command(
    epilog=ending(
        "forwarder status",
        "forwarder status --watch",
        "forwarder status --json | jq '.routes[].books'",
    )
)
@click.option("--watch", is_flag=True, help="Show it again every second, with rates, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3_600),
    default=1.0,
    show_default=True,
    help="Seconds between, with --watch.",
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many, with --watch.")
@AS_JSON
@URL
def status(*, watch: bool, interval: float, count: int | None, as_json: bool, url: str | None) -> None:
    """Show the state of both routes, the books and the spool.

    Asks the running daemon, and with --watch waits for it when it restarts; when it is stopped, reads its
    data folder. With --json one object per line.
    """
    times = count or (None if watch else 1)
    try:
        asyncio.run(_show(times if watch else 1, interval_s=interval, as_json=as_json, url=url))
    except KeyboardInterrupt:
        return


async def _show(times: int | None, *, interval_s: float, as_json: bool, url: str | None) -> None:
    earlier: dict[str, Any] | None = None
    shown = 0
    async with operator(command_settings(), url, waits=times != 1) as client:
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
