"""`forwarder pause` and `forwarder resume`: stop sending on a route, and go on."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.filters import Length, Moment, RouteWord
from forwarder.cli.operator_client import operator
from forwarder.cli.options import AS_JSON, URL

ROUTE = click.argument("route", type=RouteWord())


@click.command(
    epilog=ending(
        'forwarder pause outbound --reason "the data plane moves" --for 2h',
        "forwarder pause inbound --until 2026-01-31T18:00+01:00",
    )
)
@ROUTE
@click.option("--reason", metavar="TEXT", default="", help="Why, for the log and for whoever finds it paused.")
@click.option("--until", type=Moment(), metavar="TIME", help="When it ends by itself; UTC unless the zone is given.")
@click.option("--for", "for_s", type=Length(), metavar="LENGTH", help="After how long it ends by itself: 15m, 2h, 1d.")
@AS_JSON
@URL
def pause(*, route: str, reason: str, until: str | None, for_s: float | None, as_json: bool, url: str | None) -> None:
    """Stop sending on ROUTE (outbound, inbound or its full name) until resumed, or for a time, also over a restart.

    New events are still accepted and kept.
    """
    if until is not None and for_s is not None:
        raise click.UsageError("give either --until or --for")
    if until is not None and int(until) <= time.time_ns() // 1_000_000:
        raise click.UsageError("--until is over already: give a time to come, with its zone, or --for")
    given = {"reason": reason, "until": until, "for_s": for_s}
    _told(asyncio.run(_moved(route, "pause", given, url)), as_json=as_json)


@click.command(epilog=ending("forwarder resume outbound"))
@ROUTE
@AS_JSON
@URL
def resume(*, route: str, as_json: bool, url: str | None) -> None:
    """Go on sending on ROUTE after a pause."""
    _told(asyncio.run(_moved(route, "resume", {}, url)), as_json=as_json)


async def _moved(route: str, act: str, body: Mapping[str, Any], url: str | None) -> Mapping[str, Any]:
    async with operator(url) as client:
        client.must_run(act)
        said: Mapping[str, Any] = await client.post(f"/api/routes/{route}/{act}", body)
        return said


def _told(said: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(said))
        return
    until = f" until {show.local(said['pause']['until'])}" if said["pause"] and said["pause"]["until"] else ""
    click.echo(f"{said['route']}  {show.coloured(said['state'])}{until}")
