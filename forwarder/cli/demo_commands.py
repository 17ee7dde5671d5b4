"""`forwarder demo` and `forwarder send-sample` as commands: their options, and the loop they run in."""

import asyncio
import os
import sys

import click
import uvloop

from forwarder import app
from forwarder.cli.demo import demo
from forwarder.cli.demo_view import Screen
from forwarder.cli.exits import ending
from forwarder.cli.options import command_settings
from forwarder.cli.send_sample import sample, send_sample, send_to_bus
from forwarder.clock import SystemClock
from forwarder.daemon import signals_heard
from forwarder.sources.configured import configured


@click.command("demo", epilog=ending("forwarder demo", "forwarder demo --seconds 30"))
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long. Default: until Ctrl-C.")
@click.pass_context
def demo_command(ctx: click.Context, *, seconds: float | None) -> None:
    """Show the daemon at work between two stand-in vendors, with an outage in the middle.

    Needs no set-up and keeps nothing. The page is at the address it prints. Ends with a count at both ends
    of what was accepted, delivered and lost, and exits 0 when nothing was lost.
    """
    ctx.exit(uvloop.run(_demo(seconds)))


async def _demo(seconds: float | None) -> int:
    with signals_heard() as heard:
        screen = Screen(sys.stdout)
        return await demo(seconds, run_daemon=app.run_until, stop=heard.stop, screen=screen, environ=os.environ)


@click.command(
    "send-sample",
    epilog=ending(
        "forwarder send-sample",
        "forwarder send-sample --status OPENED --count 3",
        "forwarder send-sample --url https://bridge.example.com --secret whsec_…",
        "forwarder send-sample --to nats",
    ),
)
@click.option("--url", metavar="URL", help="The public listener. Default: FORWARDER_LISTEN.")
@click.option(
    "--secret",
    metavar="TEXT",
    help="The webhook's secret. Default: the first of COURIER_WEBHOOK_SECRET.",
)
@click.option(
    "--to",
    type=click.Choice(["nats", "kafka", "redis"]),
    help="Publish it on this bus instead, where the daemon takes it from.",
)
@click.option("--status", default="SENT", show_default=True, help="The message's status in the sample.")
@click.option("--count", type=click.IntRange(1, 1_000), default=1, show_default=True, help="How many.")
@click.pass_context
def send_sample_command(
    ctx: click.Context, *, url: str | None, secret: str | None, to: str | None, status: str, count: int
) -> None:
    """Post a signed sample webhook to the daemon, as Courier would, and say what its answer means.

    With --to it is published on your own bus, as FORWARDER_NATS_…, FORWARDER_KAFKA_… or FORWARDER_REDIS_… say. The
    event is invented, but it is delivered like any other: it will show in RudderStack.
    """
    if to is not None and (url or secret):
        raise click.UsageError("--url and --secret are the webhook's: leave them out with --to.")
    settings = command_settings()
    try:
        wanted = sample(settings, url=url, secret=secret, status=status, count=count, is_signed=to is None)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if to is None:
        ctx.exit(asyncio.run(send_sample(wanted, click.echo)))
    bus = next((one.bus for one in configured(settings, SystemClock()) if one.name == to), None)
    if bus is None:
        raise click.UsageError(f"no such bus is configured: set FORWARDER_{to.upper()}_… as the daemon has them.")
    ctx.exit(asyncio.run(send_to_bus(bus, wanted, click.echo)))
