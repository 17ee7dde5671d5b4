"""`forwarder pause` and `forwarder resume`: stop sending on a route, and go on."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.filters import RouteWord
from forwarder.cli.operator_client import operator
from forwarder.cli.options import AS_JSON, URL, command_settings

ROUTE = click.argument("route", type=RouteWord())


@click.command(epilog=ending('forwarder pause outbound --reason "the data plane moves"'))
@ROUTE
@click.option("--reason", metavar="TEXT", default="", help="Why, for the audit log.")
@AS_JSON
@URL
def pause(*, route: str, reason: str, as_json: bool, url: str | None) -> None:
    """Stop sending on ROUTE (outbound, inbound or its full name) until resumed, also over a restart.

    New events are still accepted and kept.
    """
    _told(asyncio.run(_moved(route, "pause", {"reason": reason}, url)), as_json=as_json)


@click.command(epilog=ending("forwarder resume outbound"))
@ROUTE
@AS_JSON
@URL
def resume(*, route: str, as_json: bool, url: str | None) -> None:
    """Go on sending on ROUTE after a pause."""
    _told(asyncio.run(_moved(route, "resume", {}, url)), as_json=as_json)


async def _moved(route: str, act: str, body: Mapping[str, Any], url: str | None) -> Mapping[str, Any]:
    async with operator(command_settings(), url) as client:
        client.must_run(act)
        said: Mapping[str, Any] = await client.post(f"/api/routes/{route}/{act}", body)
        return said


def _told(said: Mapping[str, Any], *, as_json: bool) -> None:
    click.echo(json.dumps(said) if as_json else f"{said['route']}  {show.coloured(said['state'])}")
