"""`forwarder run`: the daemon itself, until it is told to stop."""

import gc

import click
import uvloop

from forwarder import app
from forwarder.cli.exits import ending
from forwarder.cli.options import daemon_settings
from forwarder.settings import Settings


@click.command(
    epilog=ending(
        "forwarder run",
        "FORWARDER_LOG_FORMAT=console forwarder run",
        "RUDDERSTACK_WRITE_KEY=… RUDDERSTACK_DATA_PLANE_URL=… COURIER_WEBHOOK_SECRET=… forwarder run",
    )
)
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Settings come from the environment, `.env` in the working directory, FORWARDER_SECRETS_DIR and systemd's
    credentials; config.example.env lists them all. A second signal ends it at once; nothing is lost by it.
    """
    settings: Settings = daemon_settings()
    # Modules live as long as the process; looking through them for garbage again and again stalls the endpoints. Events
    # make no cycles: a collection by every 700 objects finds nothing, and cost a sixth of the processor.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    ctx.exit(uvloop.run(app.run(settings)))
