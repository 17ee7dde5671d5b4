"""`forwarder forget`: erase what the spool holds of a person."""

import asyncio
import json
import secrets
from collections import Counter
from typing import Any

import click

from forwarder.cli.act import DRY_RUN, YES
from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.operator_client import OperatorClient, operator
from forwarder.cli.options import AS_JSON, URL


@click.command(epilog=ending("forwarder forget ada@example.com --dry-run", "forwarder forget u-1815 --yes"))
@click.argument("user")
@DRY_RUN
@YES
@AS_JSON
@URL
def forget(*, user: str, dry_run: bool, yes: bool, as_json: bool, url: str | None) -> None:
    """Erase the events of USER in every state: payloads, ids, plans, answers.

    Matched is the user of an event exactly as `forwarder events` shows it, case included, on both routes: the
    recipient of Courier's events; the userId of calls, else their anonymousId. Somebody with several ids is erased
    by each. What only mentions a person within its payload is not found; look with `events --text`.

    What still waits is discarded and never sent. Keys stay as digests, so that a copy is known as one; totals stay.
    The receipt in the audit log is a salted digest. Copies and backups of the data folder are not reached.
    """
    asyncio.run(_forgotten(user, dry_run=dry_run, yes=yes, as_json=as_json, url=url))


async def _forgotten(user: str, *, dry_run: bool, yes: bool, as_json: bool, url: str | None) -> None:
    async with operator(url) as client:
        states, _ = await _steps(client, {"user_id": user, "dry_run": True})
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no events"
        if dry_run:
            click.echo(json.dumps({"would_be": dict(states)}) if as_json else f"{counted} would be erased")
            return
        if not yes:
            waits = f" {states['pending']} still wait and would never be sent." if states["pending"] else ""
            click.confirm(f"Erase {counted}?{waits} It cannot be undone.", abort=True, err=True)
        _, done = await _steps(client, {"user_id": user, "act": secrets.token_hex(8)})
    if as_json:
        click.echo(json.dumps(done))
    else:
        waited = f", {done['pending']} of them waited and are discarded" if done["pending"] else ""
        click.echo(f"erased {done['erased']}{waited}; receipt {done['receipt']}")
    if done["leased"]:
        raise CommandFailed(
            f"{done['leased']} left: on the way, or in hand for the next try. Pause the route (forwarder pause), "
            "which hands back what is in hand, and run it again"
        )
    if not done["is_off_disk"]:
        raise CommandFailed("deleted bytes are still in the database's files: run it again, or restart the daemon")


async def _steps(client: OperatorClient, body: dict[str, Any]) -> tuple[Counter[str], dict[str, Any]]:
    """Ask step by step to the end; return the states that were met, and the last answer with the counts of all."""
    states: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    after: int | None = 0
    said: dict[str, Any] = {}
    while after is not None:
        said = await client.post("/api/forget", body | {"after": after})
        states.update(said["states"])
        counts.update(erased=said["erased"], pending=said["pending"])
        after = said["next_after"]
    return states, {**said, **counts}
