"""`forwarder events`: what was received and what became of it, newest first, or as it comes in."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import click

from forwarder.cli import show
from forwarder.cli.exits import ending
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, ROUTE, STATE, URL, command_settings

_FOLLOW_S = 0.5
_PAGE = 500

Filters = Mapping[str, str | None]
Events = Sequence[dict[str, Any]]


@click.command(
    epilog=ending(
        "forwarder events --state dead",
        "forwarder events --follow --route courier_to_rudderstack",
        "forwarder events --message 1-65f240a0-47a6a120c8374de9bcf9f22c --json",
    )
)
@ROUTE
@STATE
@click.option("--event", metavar="NAME", help="Only events of this name, such as 'Message Sent'.")
@click.option("--user", "user_id", metavar="ID", help="Only events of this user.")
@click.option("--message", "message_id", metavar="ID", help="Only events of this message.")
@click.option("--reason", metavar="TEXT", help="Only events with exactly this reason.")
@click.option("--text", metavar="TEXT", help="Only events whose payload contains this; looks at the newest ones.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--follow", is_flag=True, help="Then print new events as they arrive, until Ctrl-C.")
@AS_JSON
@URL
def events(*, limit: int, follow: bool, as_json: bool, url: str | None, **filters: str | None) -> None:
    """List events, newest first; with --follow oldest first, and on, also over a restart of the daemon.

    With --json one flat object per event and line: sequence, route, state, event, message_id, user_id,
    received_at, attempts, reason.
    """
    try:
        asyncio.run(_list(filters, limit=limit, follow=follow, as_json=as_json, url=url))
    except KeyboardInterrupt:
        return


async def _list(filters: Filters, *, limit: int, follow: bool, as_json: bool, url: str | None) -> None:
    async with operator(command_settings(), url, waits=follow) as client:
        found = await _newest(client, filters, limit=max(limit, _PAGE) if follow else limit)
        for event in reversed(found[:limit]) if follow else found:
            _print(event, as_json=as_json)
        if follow:
            client.must_run("follow")
            await _follow(client, filters, found, as_json=as_json)
        elif not found and not as_json:
            click.echo("no such events", err=True)


async def _newest(client: OperatorClient, filters: Filters, *, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before: int | None = None
    while len(found) < limit:
        page = await client.get("/api/events", **filters, before=before, limit=min(_PAGE, limit - len(found)))
        found += page["events"]
        before = page["next_before"]
        # A text is looked for in the newest events only. Any other listing that was cut for time goes on.
        if before is None or (page["is_cut"] and filters.get("text")):
            break
    return found


async def _follow(client: OperatorClient, filters: Filters, found: Events, *, as_json: bool) -> None:
    """Print what comes after `found` (newest first) until cancelled."""
    # Without a state or reason what is new has a new sequence. With one an old event may come into it.
    news = _newcomers if filters.get("state") or filters.get("reason") else _arrivals
    async for event in news(client, filters, found):
        _print(event, as_json=as_json)


async def _arrivals(client: OperatorClient, filters: Filters, found: Events) -> AsyncIterator[dict[str, Any]]:
    after = max((event["sequence"] for event in found), default=0)
    while True:
        page = await client.get("/api/events", **filters, after=after, limit=_PAGE)
        for event in page["events"]:
            yield event
            after = event["sequence"]
        if len(page["events"]) < _PAGE:
            await asyncio.sleep(_FOLLOW_S)


async def _newcomers(client: OperatorClient, filters: Filters, found: Events) -> AsyncIterator[dict[str, Any]]:
    floor = 0
    while True:
        known = {event["sequence"] for event in found}
        if len(found) >= _PAGE:
            # Below a full page nobody looked: what slides into it from there is old, not new.
            floor = max(floor, min(known))
        await asyncio.sleep(_FOLLOW_S)
        found = (await client.get("/api/events", **filters, limit=_PAGE))["events"]
        for event in reversed(found):
            if event["sequence"] > floor and event["sequence"] not in known:
                yield event


def _print(event: Mapping[str, Any], *, as_json: bool) -> None:
    click.echo(json.dumps(show.flat(event)) if as_json else show.event_line(event))
