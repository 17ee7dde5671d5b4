"""`forwarder links`: see, change, export and import the links between events and what they start at Courier.

Works through the operator's API, on a running daemon or on the folder of a stopped one. Links of the file
in FORWARDER_LINKS are pinned: shown here, changed there.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.operator_client import operator
from forwarder.cli.options import AS_JSON, URL
from forwarder.mapping.link_file import link_of, read_link_file, words_of, write_links
from forwarder.mapping.links import Link, LinkInvalid, LinkSource, LinkType, TargetKind

_CHUNK = 500  # links of one request

TYPE = click.option("--type", "type_", type=click.Choice([one.value for one in LinkType]), help="Which calls.")
KIND = click.option("--to", type=click.Choice([kind.value for kind in TargetKind]), help="What the target is.")
SOURCE = click.option(
    "--source",
    type=click.Choice([one.value for one in LinkSource if one.value]),
    help="Only events of this source. What SDKs send to /v1 counts as RudderStack's.",
)


@click.group()
def links() -> None:
    """Links between events and the automations, journeys, templates and lists of Courier."""


@links.command("list", epilog=ending("forwarder links list", "forwarder links list --json"))
@AS_JSON
@URL
def list_(*, as_json: bool, url: str | None) -> None:
    """List every link in force, pinned ones first."""
    rows = asyncio.run(rows_of(url))
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        click.echo("no links yet: forwarder links add EVENT TARGET")
    for line in _table(rows):
        click.echo(line)


@links.command(
    epilog=ending(
        'forwarder links add "Order Completed" order-completed',
        "forwarder links add --type identify identify welcome",
        "forwarder links add --to template --source segment Shipped NT01ABC",
        "forwarder links add --type identify --to list high_value_customers vip",
    )
)
@click.argument("event")
@click.argument("target")
@TYPE
@KIND
@SOURCE
@URL
def add(*, event: str, target: str, type_: str | None, to: str | None, source: str | None, url: str | None) -> None:
    """Link EVENT to TARGET, the id or alias of an automation unless --to says otherwise.

    Names match exactly. All links of an event run. For identify and group, EVENT is the word itself; a
    list may also be linked to identify under the name of a boolean trait, which it then follows.
    """
    wanted = {"event": event, "target": target, "type": type_, "to": to, "source": source}
    try:
        link = link_of({key: value for key, value in wanted.items() if value is not None})
    except LinkInvalid as error:
        raise click.UsageError(str(error)) from None
    added, _ = asyncio.run(_change(url, add=[words_of(link)]))
    click.echo(_named("added" if added else "was there already:", link))
    doubt = next((row["doubt"] for row in asyncio.run(rows_of(url)) if links_in([row]) == [link]), "")
    if doubt:
        click.echo(f"warning: {doubt}", err=True)


@links.command(
    epilog=ending(
        'forwarder links remove "Order Completed" order-completed', 'forwarder links remove "Order Completed"'
    )
)
@click.argument("event")
@click.argument("target", required=False)
@TYPE
@KIND
@SOURCE
@URL
def remove(
    *, event: str, target: str | None, type_: str | None, to: str | None, source: str | None, url: str | None
) -> None:
    """Remove the links of EVENT: the one to TARGET, or all of them; options narrow it further."""
    wanted = {"event": event, "target": target, "type": type_, "to": to, "source": source}
    chosen = {key: value for key, value in wanted.items() if value is not None}
    for link in asyncio.run(_removed(url, chosen)):
        click.echo(_named("removed", link))


@links.command(epilog=ending("forwarder links export > links.toml"))
@click.argument("file", type=click.File("w", encoding="utf-8", atomic=True), default="-")
@URL
def export(*, file: TextIO, url: str | None) -> None:
    """Write every link in force to FILE (default: standard output), as FORWARDER_LINKS reads it."""
    file.write(write_links(links_in(asyncio.run(rows_of(url)))))


@links.command("import", epilog=ending("forwarder links import links.toml", "forwarder links import --replace -"))
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--replace", is_flag=True, help="Also remove stored links that are not in the file.")
@URL
def import_(*, file: TextIO, replace: bool, url: str | None) -> None:
    """Add the links of FILE (`-`: standard input) to the stored ones."""
    wanted = read_link_file(_text_of(file), file=file.name).links
    added, removed = asyncio.run(_imported(url, list(wanted), replace=replace))
    click.echo(f"{added} added, {removed} removed, {len(wanted)} in the file")


def _text_of(file: TextIO) -> str:
    try:
        return file.read().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise CommandFailed(f"{file.name} is no UTF-8 text") from None


async def rows_of(url: str | None) -> list[dict[str, Any]]:
    """Ask for all links in force, each with `pinned` and `doubt`."""
    async with operator(url) as client:
        return list((await client.get("/api/links"))["links"])


async def _change(
    url: str | None, *, add: Sequence[Mapping[str, str]] = (), remove: Sequence[Mapping[str, str]] = ()
) -> tuple[int, int]:
    """Change in bounded requests; return how many links came and went."""
    counts = [0, 0]
    async with operator(url) as client:
        for act, many in (("remove", remove), ("add", add)):
            for start in range(0, len(many), _CHUNK):
                done = await client.post("/api/links", {act: list(many[start : start + _CHUNK])})
                counts[0] += done["added"]
                counts[1] += done["removed"]
    return counts[0], counts[1]


async def _removed(url: str | None, chosen: Mapping[str, str]) -> list[Link]:
    rows = [row for row in await rows_of(url) if all(row[key] == value for key, value in chosen.items())]
    stored = links_in(row for row in rows if not row["pinned"])
    if not rows:
        raise CommandFailed("there is no such link; `forwarder links list` shows them all")
    if not stored:
        raise CommandFailed("this link is pinned in the file of FORWARDER_LINKS; take it out there")
    await _change(url, remove=[words_of(link) for link in stored])
    return stored


async def _imported(url: str | None, wanted: Sequence[Link], *, replace: bool) -> tuple[int, int]:
    rows = await rows_of(url)
    stored = links_in(row for row in rows if not row["pinned"])
    unwanted = [link for link in stored if link not in wanted] if replace else []
    known = set(links_in(rows))
    new = [words_of(link) for link in wanted if link not in known]
    return await _change(url, add=new, remove=[words_of(link) for link in unwanted])


def links_in(rows: Iterable[Mapping[str, Any]]) -> list[Link]:
    """Return the links of such rows."""
    return [link_of({key: value for key, value in row.items() if key not in ("pinned", "doubt")}) for row in rows]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [
        (
            *(row["type"], row["event"], f"{row['to']} {row['target']}", row["source"]),
            *("pinned" if row["pinned"] else "", f"! {row['doubt']}" if row["doubt"] else ""),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(6)] if cells else []
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _named(did: str, link: Link) -> str:
    bound = f" (only {link.source.value})" if link.source.value else ""
    return f"{did} {link.type.value} {link.event} -> {link.target_kind.value} {link.target}{bound}"
