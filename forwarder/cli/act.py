"""`forwarder replay` and `forwarder discard`: act on events by number, or on all that filters select.

Both count first, ask before they act, work in bounded requests until all of it is done, and say what came of it.
"""

import asyncio
import json
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.filters import narrowing
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, URL
from forwarder.errors import DaemonUnreachable

_CHUNK: Final = 500
_FOLLOWED_MAX: Final = 50_000  # events whose outcome is asked for
_LOOK_EVERY_S: Final = 0.25

SEQUENCES = click.argument("sequences", type=click.IntRange(1), nargs=-1)
YES = click.option("--yes", is_flag=True, help="Do not ask.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only count the events that it would be.")
WAIT = click.option(
    "--wait", "wait_s", type=click.FloatRange(0), default=10.0, show_default=True, metavar="SECONDS",
    help="How long to look what becomes of the events before telling it.",
)  # fmt: skip


@dataclass(kw_only=True)
class Request:
    """What is to be done to which events, and how far it got."""

    verb: str  # "replay" or "discard"
    did: str
    sequences: tuple[int, ...]
    filters: Mapping[str, str]
    everything: bool = False  # of a replay
    is_left: bool = False  # to a daemon that is stopped
    total: int = 0
    done: int = 0
    moved: list[int] = field(default_factory=list)
    outcome: Counter[str] = field(default_factory=Counter)
    name: str = field(default_factory=lambda: secrets.token_hex(8))  # one act, whatever number of steps

    def __post_init__(self) -> None:
        """Refuse a request for nothing, or for two things at once."""
        if bool(self.sequences) == bool(self.filters):
            raise click.UsageError(
                "give either sequences (as `forwarder events` shows them), or --state or other filters"
            )
        if self.filters:
            self.filters = {"state": "dead", **self.filters}

    async def steps(self, client: OperatorClient, **more: Any) -> AsyncIterator[dict[str, Any]]:
        """Ask step by step until all of it was asked for; what arrives meanwhile is not part of it."""
        also = {"act": self.name} | ({"everything": True} if self.everything else {}) | more
        wanted = sorted(set(self.sequences))
        for start in range(0, len(wanted), _CHUNK):
            body = {"sequences": wanted[start : start + _CHUNK], "has_more": start + _CHUNK < len(wanted), **also}
            yield await client.post(f"/api/{self.verb}", body)
        if wanted:
            return
        newest = (await client.get("/api/events", limit=1))["events"]
        before = newest[0]["sequence"] + 1 if newest else 0
        body = {"before": before, "limit": _CHUNK, **self.filters, **also}
        after: int | None = 0
        while after is not None:
            step = await client.post(f"/api/{self.verb}", body | {"after": after})
            yield step
            after = step["next_after"]


@click.command(
    epilog=ending(
        "forwarder replay 1042 1043",
        'forwarder replay --reason "no id" --dry-run',
        "forwarder replay --state unmapped --event 'Order Completed' --since 2d --yes",
    )
)
@SEQUENCES
@click.option(
    "--state",
    type=click.Choice(["dead", "unmapped", "filtered", "delivered"]),
    help="All events in this state. Default beside other filters: dead.",
)
@narrowing
@click.option("--everything", is_flag=True, help="Also make the calls to Courier again that were made already.")
@DRY_RUN
@YES
@WAIT
@AS_JSON
@URL
def replay(*, sequences: tuple[int, ...], everything: bool, **given: Any) -> None:
    """Make settled events pending again: they are mapped anew and delivered.

    Calls to Courier that an event already made are not made again, unless --everything asks for it: then
    automations start and messages go out a second time. It goes on until all of them are done and says what
    came of them; one that is interrupted says how many remain, and exits 1.
    """
    _act("replay", "replayed", sequences, everything=everything, **given)


@click.command(
    epilog=ending(
        "forwarder discard 1042",
        'forwarder discard --reason "larger than the data plane takes"',
    )
)
@SEQUENCES
@click.option("--state", type=click.Choice(["dead"]), help="All dead events. Implied by other filters.")
@narrowing
@DRY_RUN
@YES
@AS_JSON
@URL
def discard(*, sequences: tuple[int, ...], **given: Any) -> None:
    """Mark dead events as discarded: they stay in the totals as dead and are no longer something to do."""
    _act("discard", "discarded", sequences, **given)


def _act(
    verb: str,
    did: str,
    sequences: tuple[int, ...],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    url: str | None,
    wait_s: float = 0.0,
    everything: bool = False,
    **filters: str | None,
) -> None:
    given = {name: value for name, value in filters.items() if value is not None}
    request = Request(verb=verb, did=did, sequences=sequences, filters=given, everything=everything)
    stopped = ""
    try:
        asyncio.run(_done(request, dry_run=dry_run, yes=yes, url=url, wait_s=wait_s))
    except KeyboardInterrupt:
        stopped = "interrupted"
    except (DaemonUnreachable, CommandFailed) as error:
        if not request.done:
            raise
        stopped = str(error)
    if dry_run:
        click.echo(json.dumps({"would_be": request.total}) if as_json else f"{request.total} would be {did}")
        return
    remaining = max(0, request.total - request.done) if stopped else 0
    click.echo(_as_json(request, remaining) if as_json else _in_words(request))
    if stopped and not remaining:
        raise CommandFailed(f"{stopped}: all of them were {did}, what came of them is not known")
    if stopped:
        raise CommandFailed(f"{stopped}: {remaining} of {request.total} remain as they were; run it again for the rest")
    missing = len(set(sequences)) - request.done
    if missing > 0 and sequences:
        raise CommandFailed(
            f"{missing} of them could not be {did}: unknown, purged, or not in a state for it (see `forwarder events`)"
        )


async def _done(request: Request, *, dry_run: bool, yes: bool, url: str | None, wait_s: float) -> None:
    async with operator(url) as client:
        request.is_left = request.verb == "replay" and not client.is_running
        async for step in request.steps(client, dry_run=True):
            request.total += step[request.did]
        if dry_run or not (request.total or request.sequences):
            return
        if not yes:
            click.confirm(_question(request), abort=True, err=True)
        with _progress(request) as bar:
            async for step in request.steps(client):
                request.done += step[request.did]
                request.moved += step.get("sequences", ())[: _FOLLOWED_MAX - len(request.moved)]
                bar.update(step[request.did])
        if request.verb == "replay" and not request.is_left:
            await _follow(client, request, wait_s)


async def _follow(client: OperatorClient, request: Request, wait_s: float) -> None:
    """Look where the events are until none is pending, or the time is up."""
    open_ones: Sequence[int] = request.moved
    settled: Counter[str] = Counter()
    until_s = asyncio.get_running_loop().time() + wait_s
    while open_ones:
        states, pending = await _states(client, open_ones)
        is_over = not pending or asyncio.get_running_loop().time() >= until_s
        settled += Counter({state: count for state, count in states.items() if is_over or state != "pending"})
        request.outcome = settled
        if is_over:
            return
        open_ones = pending
        await asyncio.sleep(_LOOK_EVERY_S)


async def _states(client: OperatorClient, sequences: Sequence[int]) -> tuple[Counter[str], list[int]]:
    states: Counter[str] = Counter()
    pending: list[int] = []
    for start in range(0, len(sequences), _CHUNK):
        said = await client.post("/api/outcome", {"sequences": sequences[start : start + _CHUNK]})
        states.update(said["states"])
        pending += said["pending"]
    return states, pending


def _question(request: Request) -> str:
    which = "".join(f", {name.replace('_', ' ')} {value!r}" for name, value in request.filters.items())
    again = ", and make again the calls that were made already" if request.everything else ""
    total = len(set(request.sequences)) or request.total
    return f"{request.verb.capitalize()} {total} event{'' if total == 1 else 's'}{which}{again}?"


def _in_words(request: Request) -> str:
    said = f"{request.did} {request.done}"
    if request.is_left and request.done:
        return f"{said}: pending until the daemon is started (forwarder run)"
    if not request.outcome:
        return said
    again = {"dead", "unmapped"}
    parts = [f"{request.outcome['delivered']} delivered"] + [
        f"{count} {state}{' again' if state in again else ''}"
        for state, count in sorted(request.outcome.items())
        if state != "delivered"
    ]
    first = f" (of the first {len(request.moved)})" if len(request.moved) < request.done else ""
    hint = "; see `forwarder events --state dead`" if request.outcome["dead"] else ""
    return f"{said}: {', '.join(parts)}{first}{hint}"


def _as_json(request: Request, remaining: int) -> str:
    said: dict[str, Any] = {request.did: request.done}
    if request.is_left and request.done:
        said["outcome"] = {"pending": request.done}
    if request.outcome:
        said["outcome"] = dict(request.outcome)
        if len(request.moved) < request.done:
            said["outcome_of"] = len(request.moved)
    if remaining:
        said["remaining"] = remaining
    return json.dumps(said)


def _progress(request: Request) -> Any:
    """Return a bar on the terminal; nothing where there is none, or where one request does it all."""
    is_hidden = request.total <= _CHUNK or not sys.stderr.isatty()
    return click.progressbar(length=request.total, label=request.did, file=sys.stderr, show_pos=True, hidden=is_hidden)
