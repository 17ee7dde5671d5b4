"""`forwarder events`: what was received and what became of it, newest first, or as it comes; `events show` for one."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import click

from forwarder.cli import show
from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.filters import STATE, narrowing
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, URL, command_settings

_FOLLOW_S: Final = 0.5
_PAGE: Final = 500

Filters = Mapping[str, str | None]
Events = Sequence[dict[str, Any]]


@click.group(
    invoke_without_command=True,
    epilog=ending(
        "forwarder events --state dead --since 1h --status 4xx",
        "forwarder events --text anna@example.com --attempts 3.. --count",
        "forwarder events --follow --route outbound",
        "forwarder events --message 1-65f240a0-47a6a120c8374de9bcf9f22c --json",
        "forwarder events show 1042",
    ),
)
@STATE
@narrowing
@click.option("--count", "counts", is_flag=True, help="Only say how many there are.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--follow", is_flag=True, help="Then print new events as they arrive, until Ctrl-C.")
@AS_JSON
@URL
@click.pass_context
def events(
    ctx: click.Context,
    /,
    *,
    counts: bool,
    limit: int,
    follow: bool,
    as_json: bool,
    url: str | None,
    **filters: str | None,
) -> None:
    """List events, newest first; with --follow oldest first, and on, also over a restart of the daemon.

    It reads on until it has found as many as asked for, or has looked at all of them.

    With --json one flat object per event and line: sequence, route, state, event, message_id, user_id,
    received_at, attempts, reason.
    """
    if ctx.invoked_subcommand is not None:
        return
    search = Search()
    try:
        if counts:
            asyncio.run(_count(search, filters, url=url))
            click.echo(json.dumps({"matched": search.matched}) if as_json else str(search.matched))
            return
        asyncio.run(_list(search, filters, limit=limit, follow=follow, as_json=as_json, url=url))
    except KeyboardInterrupt:
        if not follow:
            raise CommandFailed(f"interrupted: {search}; older ones were not read") from None


@events.command("show", epilog=ending("forwarder events show 1042", "forwarder events show 1042 --json | jq .payload"))
@click.argument("sequence", type=click.IntRange(0))
@AS_JSON
@URL
def show_one(*, sequence: int, as_json: bool, url: str | None) -> None:
    """Show one event whole: what is known of it, each attempt with its answer, and its payload."""

    async def asked() -> Mapping[str, Any]:
        async with operator(command_settings(), url) as client:
            event: Mapping[str, Any] = await client.get(f"/api/events/{sequence}")
            return event

    event = asyncio.run(asked())
    click.echo(json.dumps(event, ensure_ascii=False) if as_json else "\n".join(show.event_lines(event)))


class Search:
    """How far a listing came."""

    def __init__(self) -> None:
        self.matched = 0
        self.scanned = 0
        self.reached_at: str | None = None

    def __str__(self) -> str:
        """Say it."""
        back = f", back to {show.local(self.reached_at)}" if self.reached_at else ""
        return f"looked at {self.scanned} event{'' if self.scanned == 1 else 's'}{back}"

    def note(self, page: Mapping[str, Any]) -> None:
        """Count one more page."""
        self.matched += page["matched"]
        self.scanned += page["scanned"]
        self.reached_at = page["reached_at"] or self.reached_at


async def _list(search: Search, filters: Filters, *, limit: int, follow: bool, as_json: bool, url: str | None) -> None:
    async with operator(command_settings(), url, waits=follow) as client:
        found = await _newest(client, search, filters, limit=max(limit, _PAGE) if follow else limit)
        for event in reversed(found[:limit]) if follow else found:
            _print(event, as_json=as_json)
        if follow:
            client.must_run("follow")
            await _follow(client, filters, found, as_json=as_json)
        elif not found and not as_json:
            click.echo(f"no such events ({search})", err=True)


async def _newest(client: OperatorClient, search: Search, filters: Filters, *, limit: int) -> list[dict[str, Any]]:
    """Return the newest that match; a listing that was cut for time, or after so many payloads, goes on to its end."""
    found: list[dict[str, Any]] = []
    before: int | None = None
    while len(found) < limit:
        page = await client.get("/api/events", **filters, before=before, limit=min(_PAGE, limit - len(found)))
        found += page["events"]
        before = _noted(search, page)
        if before is None:
            break
    return found


async def _count(search: Search, filters: Filters, *, url: str | None) -> None:
    async with operator(command_settings(), url) as client:
        before = _noted(search, await client.get("/api/events", **filters, limit=0))
        while before is not None:
            before = _noted(search, await client.get("/api/events", **filters, before=before, limit=0))


def _noted(search: Search, page: Mapping[str, Any]) -> int | None:
    """Count one more page, and show how far it is where somebody looks; return where to go on."""
    search.note(page)
    if show.is_terminal():
        click.echo(f"\r{search} …" if page["next_before"] and page["is_cut"] else "\r\x1b[K", err=True, nl=False)
    before: int | None = page["next_before"]
    return before


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
        if page["next_after"] is None:
            await asyncio.sleep(_FOLLOW_S)
        after = page["next_after"] or after


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
