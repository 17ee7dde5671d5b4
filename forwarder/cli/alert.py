"""`forwarder alert`: where incidents are told, and whether an alert arrives there."""

import asyncio

import click

from forwarder.cli.exits import FAILED, ending
from forwarder.cli.options import daemon_settings
from forwarder.clock import SystemClock
from forwarder.errors import SettingsInvalid
from forwarder.operator.incidents.alerting import a_test, channels_of
from forwarder.operator.incidents.channels import AlertFailed
from forwarder.settings import Settings
from forwarder.transport import AiohttpTransport


@click.command(epilog=ending("forwarder alert", "forwarder alert --test"))
@click.option("--test", "is_test", is_flag=True, help="Send a test alert to each of them, and say whether it arrived.")
@click.pass_context
def alert(ctx: click.Context, *, is_test: bool) -> None:
    """Show where incidents are told: FORWARDER_ALERT_URL, and through Courier FORWARDER_ALERT_TEMPLATE.

    Needs no running daemon. A test says that it is one.
    """
    settings = daemon_settings()
    if not settings.alert_url and not settings.alert_to:
        raise SettingsInvalid(
            "no alerts are set up. Set FORWARDER_ALERT_URL, or FORWARDER_ALERT_TEMPLATE with FORWARDER_ALERT_TO."
        )
    if not asyncio.run(_told(settings, is_test=is_test)):
        ctx.exit(FAILED)


async def _told(settings: Settings, *, is_test: bool) -> bool:
    clock = SystemClock()
    have_arrived = True
    async with AiohttpTransport(clock=clock, proxy_for=settings.reading.proxies.url_for) as transport:
        for channel in channels_of(settings, transport, clock, []):
            if not is_test:
                click.echo(channel.where)
                continue
            try:
                await channel.send(a_test(settings, clock))
            except AlertFailed as error:
                have_arrived = False
                click.echo(f"failed  {channel.where}: {error}", err=True)
            else:
                click.echo(f"sent    {channel.where}")
    return have_arrived
