"""`forwarder replay` and `forwarder discard`: act on events by number, or on all of a state and reason.

Both ask before they act, and work in bounded requests, which is their progress.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, ROUTE, URL, command_settings

_CHUNK = 500
_REASONS_MAX = 500

REASON = click.option("--reason", metavar="TEXT", help="With --state: only events with exactly this reason.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
SEQUENCES = click.argument("sequences", type=click.IntRange(1), nargs=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be done to which events."""

    verb: str  # "replay" or "discard"
    did: str
    sequences: tuple[int, ...]
    state: str | None
    reason: str | None
    route: str | None
    everything: bool = False  # of a replay

    def __post_init__(self) -> None:
        """Refuse a wish for nothing, or for two things at once."""
        if bool(self.sequences) == bool(self.state):
            raise click.UsageError("give either sequences (as `forwarder events` shows them) or --state")
        if self.sequences and (self.reason is not None or self.route is not None):
            raise click.UsageError("--reason and --route go with --state")

    def extent(self) -> dict[str, bool]:
        """Return the field of a request that asks for all of it again; nothing when that is not meant."""
        return {"everything": True} if self.everything else {}


@click.command(
    epilog=ending(
        "forwarder replay 1042 1043",
        'forwarder replay --state dead --reason "no id" --yes',
        "forwarder replay --state unmapped",
    )
)
@SEQUENCES
@click.option(
    "--state", type=click.Choice(["dead", "unmapped", "filtered", "delivered"]), help="All events in this state."
)
@REASON
@ROUTE
@click.option("--everything", is_flag=True, help="Also make the calls to Courier again that were made already.")
@YES
@AS_JSON
@URL
def replay(*, yes: bool, as_json: bool, url: str | None, **wish: Any) -> None:
    """Make settled events pending again: they are mapped anew and delivered.

    Calls to Courier that an event already made are not made again, unless --everything asks for it: then
    automations start and messages go out a second time.
    """
    _act(Wish(verb="replay", did="replayed", **wish), yes=yes, as_json=as_json, url=url)


@click.command(
    epilog=ending(
        "forwarder discard 1042",
        'forwarder discard --state dead --reason "larger than the data plane takes"',
    )
)
@SEQUENCES
@click.option("--state", type=click.Choice(["dead"]), help="All dead events.")
@REASON
@ROUTE
@YES
@AS_JSON
@URL
def discard(*, yes: bool, as_json: bool, url: str | None, **wish: Any) -> None:
    """Mark dead events as discarded: they stay in the books and are asked about no more."""
    _act(Wish(verb="discard", did="discarded", **wish), yes=yes, as_json=as_json, url=url)


def _act(wish: Wish, *, yes: bool, as_json: bool, url: str | None) -> None:
    count = asyncio.run(_done(wish, yes=yes, url=url))
    click.echo(json.dumps({wish.did: count}) if as_json else f"{wish.did} {count}")
    if wish.sequences and count < len(set(wish.sequences)):
        raise CommandFailed(
            f"{len(set(wish.sequences)) - count} of them could not be {wish.did}: unknown, purged, "
            f"or not in a state for it (see `forwarder events`)"
        )


async def _done(wish: Wish, *, yes: bool, url: str | None) -> int:
    async with operator(command_settings(), url) as client:
        total, is_exact = (len(set(wish.sequences)), True) if wish.sequences else await _total(client, wish)
        if not total:
            return 0
        if not yes:
            click.confirm(_question(wish, total, is_exact=is_exact), abort=True, err=True)
        return await _by_sequence(client, wish) if wish.sequences else await _by_state(client, wish, total)


def _question(wish: Wish, total: int, *, is_exact: bool) -> str:
    which = f" in state {wish.state}" if wish.state else ""
    why = f" with the reason {wish.reason!r}" if wish.reason else ""
    again = ", and make again the calls that were made already" if wish.everything else ""
    most = "" if is_exact else "at most "
    return f"{wish.verb.capitalize()} {most}{total} event{'' if total == 1 else 's'}{which}{why}{again}?"


async def _total(client: OperatorClient, wish: Wish) -> tuple[int, bool]:
    """Return how many it will be at most, and whether that is exact.

    Delivered events have no reasons to be counted by; and of very many reasons only the largest are told.
    """
    if wish.state != "delivered" or wish.reason is not None:
        told = await client.get("/api/reasons", state=wish.state, route=wish.route, limit=_REASONS_MAX)
        groups = [group["count"] for group in told["reasons"] if wish.reason in (None, group["reason"])]
        if len(told["reasons"]) < _REASONS_MAX or (groups and wish.reason is not None):
            return sum(groups), True
    status = await client.get("/api/status")
    accounts = [route["books"] for route in status["routes"] if wish.route in (None, route["name"])]
    return sum(books[wish.state] for books in accounts if books), wish.state == "delivered"


async def _by_sequence(client: OperatorClient, wish: Wish) -> int:
    wanted = sorted(set(wish.sequences))
    count = 0
    with _progress(wish, len(wanted)) as bar:
        for start in range(0, len(wanted), _CHUNK):
            chunk: Sequence[int] = wanted[start : start + _CHUNK]
            count += (await client.post(f"/api/{wish.verb}", {"sequences": chunk} | wish.extent()))[wish.did]
            bar.update(len(chunk))
    return count


async def _by_state(client: OperatorClient, wish: Wish, total: int) -> int:
    named = {"state": wish.state, "reason": wish.reason, "route": wish.route, "limit": _CHUNK}
    body = {name: value for name, value in named.items() if value is not None} | wish.extent()
    count, after = 0, 0
    with _progress(wish, total) as bar:
        # Stops at the total it asked about: events that die again meanwhile are not taken a second time.
        while count < total and after is not None:
            done = await client.post(f"/api/{wish.verb}", body | {"after": after})
            count += done[wish.did]
            after = done["next_after"]
            bar.update(done[wish.did])
    return count


def _progress(wish: Wish, total: int) -> Any:
    """Return a bar on the terminal; nothing where there is none, or where one request does it all."""
    is_hidden = total <= _CHUNK or not sys.stderr.isatty()
    return click.progressbar(length=total, label=f"{wish.did}", file=sys.stderr, show_pos=True, hidden=is_hidden)
