"""The command line as a whole: every verb, in the order in which a newcomer needs them."""

import click

from forwarder import __version__
from forwarder.cli.exits import Verbs, ending

_VERBS = {
    "run": "forwarder.cli.run:run",
    "check": "forwarder.cli.check:check",
    "demo": "forwarder.cli.demo_commands:demo_command",
    "status": "forwarder.cli.status:status",
    "events": "forwarder.cli.events:events",
    "replay": "forwarder.cli.act:replay",
    "discard": "forwarder.cli.act:discard",
    "incidents": "forwarder.cli.log_commands:incidents",
    "audit": "forwarder.cli.log_commands:audit",
    "alert": "forwarder.cli.alert:alert",
    "forget": "forwarder.cli.forget:forget",
    "pause": "forwarder.cli.pause:pause",
    "resume": "forwarder.cli.pause:resume",
    "map": "forwarder.cli.dry_run:map_",
    "links": "forwarder.cli.links_command:links",
    "migrate": "forwarder.cli.migrate:migrate",
    "send-sample": "forwarder.cli.demo_commands:send_sample_command",
    "completion": "forwarder.cli.completion:completion",
}


@click.group(
    cls=Verbs,
    verbs=_VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=ending("forwarder demo", "forwarder check --connect", "forwarder run", "forwarder status --watch"),
)
@click.version_option(__version__, prog_name="forwarder")
def cli() -> None:
    """Bridge Courier and RudderStack / Segment, losing nothing.

    `demo` shows it without any set-up. `check` says what is missing, `run` is the daemon; the other commands
    work on the running daemon and, where that makes sense, on a stopped one.
    """
