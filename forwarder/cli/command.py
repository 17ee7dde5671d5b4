"""The command line as a whole: every verb, in the order in which a newcomer needs them."""

import click

from forwarder import __version__
from forwarder.cli.act import discard, replay
from forwarder.cli.check import check
from forwarder.cli.completion import completion
from forwarder.cli.dry_run import map_
from forwarder.cli.events import events
from forwarder.cli.exits import Verbs, ending
from forwarder.cli.links import links
from forwarder.cli.performances import demo_command, send_sample_command
from forwarder.cli.run import run
from forwarder.cli.status import status


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=ending("forwarder demo", "forwarder check --connect", "forwarder run", "forwarder status --watch"),
)
@click.version_option(__version__, prog_name="forwarder")
def cli() -> None:
    """Bridge Courier and RudderStack / Segment, losing nothing.

    `demo` shows it without any set-up. `check` says what is missing, `run` is the daemon; the other commands
    work on the running daemon and, where that makes sense, on a stopped one.
    """


for verb in (run, check, demo_command, status, events, replay, discard, map_, links, send_sample_command, completion):
    cli.add_command(verb)
