"""`forwarder status`: how both routes, the totals and the spool are, once or again and again."""

from importlib import import_module

import click

from forwarder.cli.exits import FAILED, ending
from forwarder.cli.options import AS_JSON, URL, command_settings


@click.command(
    epilog=ending(
        "forwarder status",
        "forwarder status --watch",
        "forwarder status --health",
        "forwarder status --json | jq '.routes[].totals'",
    )
)
@click.option("--watch", is_flag=True, help="Show it again every second, with rates, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3_600),
    default=1.0,
    show_default=True,
    help="Seconds between, with --watch.",
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many, with --watch.")
@click.option(
    "--health", is_flag=True, help="Only whether the daemon is alive (/livez): exit 0 or 1. For a supervisor."
)
@AS_JSON
@URL
@click.pass_context
def status(
    ctx: click.Context, *, watch: bool, interval: float, count: int | None, health: bool, as_json: bool, url: str | None
) -> None:
    """Show the state of both routes, the totals and the spool.

    Asks the running daemon, and with --watch waits for it when it restarts; when it is stopped, reads its
    data folder. With --json one object per line.
    """
    if health:
        told = import_module("forwarder.cli.liveness").ask(command_settings())
        click.echo(told.text, err=not told.is_alive)
        ctx.exit(0 if told.is_alive else FAILED)
    times = (count or None) if watch else 1
    # Loaded only now: a supervisor asks for the health every few seconds, and this is most of what there is to load.
    view = import_module("forwarder.cli.status_view")
    try:
        view.show_status(times, interval_s=interval, as_json=as_json, url=url)
    except KeyboardInterrupt:
        return
