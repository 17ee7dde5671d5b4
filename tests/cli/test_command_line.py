"""The command line as a whole."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import Result

from forwarder import __version__
from forwarder.cli import show
from forwarder.cli.command import cli
from forwarder.settings import Address

Shell = Callable[..., Result]


def test_every_command_explains_itself(shell: Shell) -> None:
    """Each --help has a sentence, examples that start with the command's name, and the exit codes."""
    for words in _leaves(cli, ()):
        result = shell(*words, "--help")
        assert result.exit_code == 0
        assert "Examples:" in result.stdout, words
        assert " ".join(("forwarder", *words)) in result.stdout, words
        assert "78  wrong configuration" in result.stdout, words


def _leaves(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        yield words
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        one = command.get_command(context, name)
        assert one is not None, name
        yield from _leaves(one, (*words, name))


def test_a_command_pays_only_for_what_it_needs() -> None:
    """Telling the version imports neither the daemon nor its web server."""
    code = "import sys, forwarder.cli.command; sys.exit(any(name in sys.modules for name in ('aiohttp', 'structlog')))"
    done = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603 - our own interpreter on our own code
    assert done.returncode == 0


def test_the_version_is_told(shell: Shell) -> None:
    """--version prints the package's version."""
    assert __version__ in shell("--version").stdout


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: Shell, kind: str) -> None:
    """The script calls the program back for its words."""
    result = shell("completion", kind)
    assert result.exit_code == 0
    assert "_FORWARDER_COMPLETE" in result.stdout


def test_the_commands_are_listed_in_the_order_they_are_needed(shell: Shell) -> None:
    """Help lists run first, not what the alphabet says."""
    listed = [line.split()[0] for line in shell("--help").stdout.splitlines() if line.startswith("  ") and line.split()]
    assert listed.index("run") < listed.index("check") < listed.index("events") < listed.index("completion")


def test_an_unknown_command_is_wrong_usage(shell: Shell) -> None:
    """A misspelt command ends with 2."""
    assert shell("staus").exit_code == 2


def test_running_with_wrong_settings_is_78(shell: Shell) -> None:
    """The daemon does not start without a route: the problems are printed plainly."""
    result = shell("run")
    assert result.exit_code == 78
    assert result.stderr.startswith("1 problem in the settings:")


def test_a_sample_needs_a_secret(shell: Shell) -> None:
    """Without any secret, sending a sample is wrong usage that names the variable."""
    result = shell("send-sample")
    assert result.exit_code == 2
    assert "COURIER_WEBHOOK_SECRET" in result.stderr


def test_a_sample_to_nobody_fails(shell: Shell) -> None:
    """When no daemon listens the command says so and ends with 1."""
    result = shell("send-sample", "--url", "http://127.0.0.1:1", COURIER_WEBHOOK_SECRET="s")
    assert result.exit_code == 1
    assert "no answer" in result.output


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (Address("0.0.0.0", 1), "http://127.0.0.1:1"),  # noqa: S104 - a value to be read, nothing is bound
        (Address("::", 1), "http://[::1]:1"),
        (Address("10.0.0.1", 1), "http://10.0.0.1:1"),
    ],
)
def test_the_listener_is_reached_from_here(listen: Address, url: str) -> None:
    """A listener on every interface is asked through loopback."""
    assert listen.url() == url


def test_a_held_route_says_why() -> None:
    """What stands still is told with its reason, and totals that do not balance are shouted."""
    totals = {
        "accepted": 5,
        "pending": 1,
        "delivered": 1,
        "filtered": 0,
        "unmapped": 0,
        "dead": 0,
        "is_balanced": False,
    }
    stop = {
        "scope": "route",
        "state": "held",
        "reason": "401\x1b",
        "since": "2026-01-01T00:00:00Z",
        "next_try_at": None,
    }
    route = {
        "name": "r",
        "state": "held",
        "pause": None,
        "stops": [stop],
        "totals": totals,
        "retrying": 0,
        "in_flight": 0,
        "open_dead": 2,
        "discarded": 1,
    }
    spool = {"size_bytes": 1, "cap_bytes": 2, "sqlite_version": "3", "is_accepting": False, "refusal": "the cap"}
    status = {
        "version": "1",
        "uptime_s": 10.0,
        "spool": spool,
        "routes": [
            route | {"oldest_age_s": 3.0, "concurrency_limit": 4},
            {"name": "off", "state": "off", "pause": None, "stops": [], "totals": None},
        ],
    }
    text = "\n".join(show.status_lines(status, json.loads(json.dumps(status | {"uptime_s": 5.0}))))
    assert "Not accepting new events: the cap. Senders retry." in text
    assert "route: 401\ufffd  (since 2026-01-01 00:00:00Z)" in text
    assert "THE TOTALS DO NOT BALANCE" in text
    assert "2 dead to look after" in text
    assert "1 discarded" in text
    assert "in 0.0/s" in text


def test_the_demo_ends_by_itself(shell: Shell) -> None:
    """The demo in this process: real daemon, two stand-ins, and 0 when nothing was lost."""
    result = shell("demo", "--seconds", "1", FORWARDER_OPERATOR_LISTEN="127.0.0.1:0", FORWARDER_LISTEN="127.0.0.1:0")
    assert result.exit_code == 0, result.output
    assert "lost 0" in result.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("evnts", "Did you mean 'events'?"),
        ("staus", "Did you mean 'status'?"),
        ("discrd", ""),
        ("rplay", ""),
        ("xyz", ""),
    ],
)
def test_a_mistyped_command_is_guessed_unless_it_destroys(shell: Shell, typed: str, meant: str) -> None:
    """What may have been meant is named, but nobody is led to what cannot be undone."""
    result = shell(typed)
    assert result.exit_code == 2
    assert f"No such command {typed!r}." in result.output
    assert meant in result.output if meant else "Did you mean" not in result.output


def test_completion_imports_no_command() -> None:
    """Names are completed from the list of commands alone, options of the program as ever."""
    script = (
        "import sys; from forwarder.cli.command import cli; import click;"
        "ctx = click.Context(cli);"
        "print([one.value for one in cli.shell_complete(ctx, 'ev')],"
        " '--version' in [one.value for one in cli.shell_complete(ctx, '--')],"
        " [name for name in ('aiohttp', 'apsw', 'forwarder.cli.events') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter, a script of our own
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "['events'] True []\n"


def test_a_running_daemon_is_asked_without_what_a_stopped_one_needs() -> None:
    """`status` of a running daemon imports no database and no page."""
    script = (
        "import sys; import forwarder.cli.status, forwarder.cli.operator_client;"
        "print([name for name in ('apsw', 'jinja2', 'forwarder.operator.api') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter, a script of our own
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
