"""`forwarder incidents`: what kept events from flowing, from its beginning to its end."""

import asyncio
import json
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.operator_client import operator
from forwarder.cli.options import AS_JSON, URL, command_settings
from forwarder.operator import text


@click.command(epilog=ending("forwarder incidents", "forwarder incidents --json | jq 'select(.ended_at == null)'"))
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
@AS_JSON
@URL
def incidents(*, limit: int, as_json: bool, url: str | None) -> None:
    """List what went wrong, newest first: cause, length, events delayed and dead; what goes on, with its remedy.

    Holds, back-offs, refusals, late deliveries, rejected senders, senders that stay away, events that die.

    With --json one object per line.
    """

    async def asked() -> list[dict[str, Any]]:
        async with operator(command_settings(), url) as client:
            return list((await client.get("/api/incidents", limit=limit))["incidents"])

    found = asyncio.run(asked())
    for one in found:
        click.echo(json.dumps(one) if as_json else _line(one))
    if not found and not as_json:
        click.echo("no incidents", err=True)


def _line(one: dict[str, Any]) -> str:
    where = show.WAYS.get(one["route"] or "", "new events") + (f" {one['scope']}" if one["scope"] != "route" else "")
    length = f"for {text.span(one['lasted_s'])}" if one["ended_at"] else click.style("goes on", fg="red")
    remedy = "" if one["ended_at"] else f"\n  {show.plain(one['remedy'])}"
    count = f"{one['delayed']} delayed, {one['dead']} dead"
    began, cause = show.local(one["began_at"]), show.plain(one["cause"])
    return f"{began}  {one['kind']:<8}  {where:<10}  {length}  {count}  {cause}{remedy}"
