"""`forwarder incidents` and `forwarder audit`: what went wrong, and who did what; newest first."""

import asyncio
import json
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.operator_client import operator
from forwarder.cli.options import AS_JSON, URL
from forwarder.operator import text

Record = Mapping[str, Any]

_LIMIT = click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")


@click.command(epilog=ending("forwarder incidents", "forwarder incidents --json | jq 'select(.ended_at == null)'"))
@_LIMIT
@AS_JSON
@URL
def incidents(*, limit: int, as_json: bool, url: str | None) -> None:
    """List what went wrong: when, where, how long, events delayed and dead, the cause, and what to do while it goes on.

    Holds, back-offs, refusals, late deliveries, rejected senders, senders that stay away (gap), events that die.

    With --json one object per line.
    """
    _list("incidents", incident_lines, limit=limit, as_json=as_json, url=url)


@click.command(epilog=ending("forwarder audit", "forwarder audit --json | jq 'select(.action == \"discard\")'"))
@_LIMIT
@AS_JSON
@URL
def audit(*, limit: int, as_json: bool, url: str | None) -> None:
    """List who did what: when, who, the act, how many events, which, and what came of it.

    With --json one object per line.
    """
    _list("audit", act_lines, limit=limit, as_json=as_json, url=url)


def _list(what: str, told: Callable[[Record], list[str]], *, limit: int, as_json: bool, url: str | None) -> None:
    async def asked() -> list[Record]:
        async with operator(url) as client:
            return list((await client.get(f"/api/{what}", limit=limit))[what])

    found = asyncio.run(asked())
    for one in found:
        click.echo(json.dumps(one, ensure_ascii=False) if as_json else "\n".join(told(one)))
    if not found and not as_json:
        click.echo({"incidents": "no incidents", "audit": "nothing was changed yet"}[what], err=True)


def incident_lines(one: Record) -> list[str]:
    """Write one incident: when, what, where, for how long; beneath it what it cost and the cause."""
    where = show.WAYS.get(one["route"] or "", "new events") + (f" {one['scope']}" if one["scope"] != "route" else "")
    length = f"for {text.span(one['lasted_s'])}" if one["ended_at"] else click.style("goes on", fg="red")
    head = f"{show.local(one['began_at'])}  {one['kind']:<8}  {where:<10}  {length}"
    delayed = "" if one["delayed"] is None else f"{one['delayed']} delayed, "
    below = _below(f"{delayed}{one['dead']} dead: {one['cause']}")
    return [head, *below, *(() if one["ended_at"] else _below(one["remedy"]))]


def act_lines(one: Record) -> list[str]:
    """Write one act: when, what, how many, who; beneath it which and what came of it."""
    count = f"  {text.number(one['count'])}" if one["count"] is not None else ""
    head = f"{show.local(one['at'])}  {click.style(one['action'], bold=True)}{count}  {show.plain(one['who'])}"
    return [head, *_below(f"{one['detail']}: {one['outcome'] or 'not known yet'}")]


def _below(words: str) -> list[str]:
    return textwrap.wrap(show.plain(words), show.COLUMNS, initial_indent="    ", subsequent_indent="    ")
