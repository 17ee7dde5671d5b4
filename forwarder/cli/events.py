"""`forwarder events`: what was received and what became of it, newest first, or as it comes; `events show` for one."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import click

from forwarder.cli import show
from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.filters import STATE, narrowing
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, URL
from forwarder.operator import text

_FOLLOW_S: Final = 0.5
_PAGE: Final = 500
_OPEN_MAX: Final = 500
_PAGES_LOOKED_AT: Final = 4

Filters = Mapping[str, str | None]
Events = Sequence[dict[str, Any]]


@click.group(
    invoke_without_command=True,
    epilog=ending(
        "forwarder events --state dead --since 1h --status 4xx",
        "forwarder events --text anna@example.com --attempts 3.. --count",
        "forwarder events --follow --route outbound",
        "forwarder events --message 1-65f240a0-47a6a120c8374de9bcf9f22c --json",
        "forwarder events --state dead --since 7d --limit 0 --csv > dead.csv",
        "forwarder events show 1042",
    ),
)
@STATE
@narrowing
@click.option("--not-discarded", "discarded", flag_value="false", help="Without dead events that were discarded.")
@click.option("--count", "counts", is_flag=True, help="Only say how many there are.")
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="At most so many; 0: all.")
@click.option("--follow", is_flag=True, help="Then print new events as they arrive, until Ctrl-C.")
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a heading: the columns of the page's export.")
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
    as_csv: bool,
    url: str | None,
    **filters: str | None,
) -> None:
    """List events, newest first; with --follow oldest first, and on, also over a restart of the daemon.

    It reads on until it has found as many as asked for, or has looked at all of them.

    With --follow a line whose event is pending no more is written again: on a terminal where it stands.

    With --json one flat object per event and line: sequence, route, state, event, message_id, user_id,
    received_at, attempts, reason. With --csv more columns (RFC 4180), and none that a spreadsheet takes for a formula.
    Both with --limit 0 export whatever the filters leave.
    """
    if ctx.invoked_subcommand is not None:
        return
    for name, other in (("--json", as_json), ("--count", counts), ("--follow", follow)):
        if as_csv and other:
            raise click.UsageError(f"--csv does not go with {name}")
    search = Search()
    try:
        if counts:
            asyncio.run(_count(search, filters, url=url))
            click.echo(json.dumps({"matched": search.matched}) if as_json else str(search.matched))
            return
        if as_csv:
            asyncio.run(_table(search, filters, limit=limit or sys.maxsize, url=url))
            return
        asyncio.run(_list(search, filters, limit=limit or sys.maxsize, follow=follow, as_json=as_json, url=url))
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
        async with operator(url) as client:
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
    async with operator(url, waits=follow) as client:
        lines = Lines(client, as_json=as_json)
        if follow:
            found = [event async for event in _newest(client, search, filters, limit=max(limit, _PAGE))]
            for event in reversed(found[:limit]):
                lines.put(event)
            client.must_run("follow")
            await _follow(client, filters, found, lines)
            return
        async for event in _newest(client, search, filters, limit=limit):
            lines.put(event)
        if not search.matched and not as_json:
            click.echo(f"no such events ({search})", err=True)
            if rejected := sum(one["last_hour"] for one in (await client.get("/api/status"))["rejected"]):
                click.echo(rejected_line(rejected), err=True)


def rejected_line(count: int) -> str:
    """Say how many requests were rejected, to who looks for what they held."""
    told = f"{text.plural(count, 'request was', 'requests were')} rejected in the last hour"
    return f"{told} and {'is' if count == 1 else 'are'} not among the events: forwarder status"


async def _table(search: Search, filters: Filters, *, limit: int, url: str | None) -> None:
    columns = import_module("forwarder.operator.api_types").Event.__struct_fields__  # loaded only for a table
    async with operator(url) as client:
        click.echo(text.csv_row(columns), nl=False)
        async for event in _newest(client, search, filters, limit=limit):
            click.echo(text.csv_row(event.get(name) for name in columns), nl=False)


async def _newest(
    client: OperatorClient, search: Search, filters: Filters, *, limit: int
) -> AsyncIterator[dict[str, Any]]:
    """Yield the newest that match; a listing that was cut for time, or after so many payloads, goes on to its end."""
    before: int | None = None
    while limit > 0:
        page = await client.get("/api/events", **filters, before=before, limit=min(_PAGE, limit))
        before = _noted(search, page)
        for event in page["events"]:
            yield event
        limit -= len(page["events"])
        if before is None:
            break


async def _count(search: Search, filters: Filters, *, url: str | None) -> None:
    async with operator(url) as client:
        before = _noted(search, await client.get("/api/events", **filters, limit=0))
        while before is not None:
            before = _noted(search, await client.get("/api/events", **filters, before=before, limit=0))


def _noted(search: Search, page: Mapping[str, Any]) -> int | None:
    """Count one more page, and show how far it is where somebody looks; return where to go on."""
    search.note(page)
    if show.is_terminal():
        is_on = page["next_before"] and page["is_cut"] and not page["events"]
        click.echo(f"\r{search} …" if is_on else "\r\x1b[K", err=True, nl=False)
    before: int | None = page["next_before"]
    return before


class Lines:
    """What was printed, a line for each event; one whose state changes is written again, where it stands if it can be.

    Where there is no terminal, or its line has left the screen, it is printed anew.
    """

    def __init__(self, client: OperatorClient, *, as_json: bool) -> None:
        self._client = client
        self._as_json = as_json
        self._count = self._said = 0
        self._open: dict[int, int] = {}  # pending events → their lines, counted from the first; the newest of them

    def put(self, event: Mapping[str, Any]) -> None:
        """Print an event, or its new state."""
        self._count += self._client.lines_said - self._said
        self._said = self._client.lines_said
        sequence, text = event["sequence"], json.dumps(show.flat(event)) if self._as_json else show.event_line(event)
        up = self._count - self._open.pop(sequence, self._count)
        if 0 < up < show.rows() and not self._as_json:
            click.echo(f"\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r", nl=False, color=True)
        else:
            click.echo(text)
            up, self._count = 1, self._count + 1
        if event["state"] == "pending":
            self._open[sequence] = self._count - up
            if len(self._open) > _OPEN_MAX:
                del self._open[next(iter(self._open))]

    def is_open(self, event: Mapping[str, Any]) -> bool:
        """Tell whether what was printed of an event is not how it is now."""
        return event["sequence"] in self._open and event["state"] != "pending"

    def reach(self) -> tuple[int, int] | None:
        """Return the oldest and the newest event that was pending when it was printed; None for none."""
        return (min(self._open), max(self._open)) if self._open else None


async def _follow(client: OperatorClient, filters: Filters, found: Events, lines: Lines) -> None:
    """Print what comes after `found` (newest first), and what becomes of it, until cancelled."""
    # Without a state or reason what is new has a new sequence. With one an old event may come into it.
    if filters.get("state") or filters.get("reason"):
        async for event in _newcomers(client, filters, found):
            lines.put(event)
    async for event in _arrivals(client, filters, found, lines):
        lines.put(event)


async def _changes(client: OperatorClient, filters: Filters, lines: Lines) -> AsyncIterator[dict[str, Any]]:
    """Yield the printed events that are pending no more; a text is not looked for again."""
    if (reach := lines.reach()) is None:
        return
    after, newest = reach[0] - 1, reach[1]
    for _ in range(_PAGES_LOOKED_AT):
        page = await client.get("/api/events", **{**filters, "text": None}, after=after, limit=_PAGE)
        for event in page["events"]:
            if lines.is_open(event):
                yield event
        if page["next_after"] is None or page["next_after"] >= newest:
            return
        after = page["next_after"]


async def _arrivals(
    client: OperatorClient, filters: Filters, found: Events, lines: Lines
) -> AsyncIterator[dict[str, Any]]:
    after = max((event["sequence"] for event in found), default=0)
    while True:
        page = await client.get("/api/events", **filters, after=after, limit=_PAGE)
        for event in page["events"]:
            yield event
            after = event["sequence"]
        if page["next_after"] is None:
            async for event in _changes(client, filters, lines):
                yield event
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
