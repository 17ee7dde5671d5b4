"""`forwarder migrate`: move the spool from SQLite to Postgres, or back."""

import asyncio
import json
import sys
from types import ModuleType
from typing import Any

import click

from forwarder.cli.act import YES
from forwarder.cli.exits import CommandFailed, ending
from forwarder.cli.options import AS_JSON, command_settings
from forwarder.engine import UrlReader
from forwarder.errors import SettingsInvalid, SpoolAway
from forwarder.settings import Settings
from forwarder.settings.extras import module_of

_MOVES = {"postgres": ("data folder", "database"), "sqlite": ("database", "data folder")}


@click.command(epilog=ending("forwarder migrate --to postgres", "forwarder migrate --to sqlite --yes"))
@click.option(
    "--to",
    "engine",
    type=click.Choice(sorted(_MOVES)),
    required=True,
    help="Where the spool shall be. The other one is where it is now.",
)
@YES
@AS_JSON
def migrate(*, engine: str, yes: bool, as_json: bool) -> None:
    """Move the spool between FORWARDER_DATA_DIR (SQLite) and FORWARDER_POSTGRES_URL (Postgres), either way.

    Everything goes: what waits with its retries and plans, dead letters, history, known keys, links, pauses, the
    audit log, totals. Stop the daemon first, every replica of it; senders keep what they cannot deliver meanwhile.
    Ended at any moment, it goes on where it was when it is run again. At its end both sides are counted. Only when
    they agree is the old spool put away (renamed, nothing is deleted) and the new one opened to daemons.
    """
    settings: Settings = command_settings()
    if settings.postgres_url is None:
        raise SettingsInvalid("FORWARDER_POSTGRES_URL is not set: it says from or to which database to move.")
    if not yes:
        there, here = _MOVES[engine]
        click.confirm(f"Move the spool from the {there} into the {here}? Is every daemon on it stopped?", abort=True)
    moved = asyncio.run(_moved(settings, engine, _Progress(is_shown=sys.stderr.isatty() and not as_json)))
    if as_json:
        click.echo(json.dumps({"counts": moved.counts, "old": moved.retired}))
        return
    events = sum(count for name, count in moved.counts.items() if name.endswith(", kept"))
    waiting = sum(count for name, count in moved.counts.items() if name.endswith(": pending, kept"))
    if moved.counts:
        click.echo(
            f"moved {events:,} events ({waiting:,} of them wait) and {moved.counts['keys']:,} keys: counted alike"
        )
    click.echo(f"the old spool is {moved.retired} now; delete it when you need it no more")
    click.echo(f"start the daemon with FORWARDER_SPOOL={engine}")


class _Progress:
    """One line on the terminal, rewritten."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._rows: dict[str, int] = {}

    def __call__(self, part: str, rows: int) -> None:
        """Hear of a step."""
        self._rows[part] = self._rows.get(part, 0) + rows
        if self._is_shown:
            click.echo(f"\r{part}: {self._rows[part]:,}\x1b[K", nl=False, err=True)

    def end(self) -> None:
        """Clear it."""
        if self._is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)


async def _moved(settings: Settings, engine: str, progress: _Progress) -> Any:
    database, folder = _part("postgres_side"), _part("sqlite_side")
    url, retention_s = UrlReader(settings), settings.retention_s
    if engine == "postgres":
        source, target = folder.SqliteSource(settings.data_dir), database.PostgresTarget(url, retention_s=retention_s)
    else:
        source, target = database.PostgresSource(url, retention_s=retention_s), folder.SqliteTarget(settings.data_dir)
    try:
        return await _part("move").move(source, target, tell=progress)
    except SpoolAway as error:
        if error.is_lasting:
            raise SettingsInvalid(f"FORWARDER_POSTGRES_URL: {error}") from None
        raise
    except database.AWAY as error:
        raise CommandFailed(f"{database.words(error)}: nothing is lost; run it again, and it goes on") from None
    finally:
        progress.end()
        await source.close()
        await target.close()


def _part(name: str) -> ModuleType:
    """Import a part of the move. Raises `SettingsInvalid` when what Postgres needs is not installed."""
    return module_of(
        f"forwarder.spool.migration.{name}", extra="postgres", packages=("asyncpg",), variable="FORWARDER_POSTGRES_URL"
    )
