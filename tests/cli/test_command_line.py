"""The command line as a whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from forwarder import __version__
from forwarder.cli import show
from forwarder.cli.command import cli
from forwarder.cli.log_commands import act_lines, incident_lines
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


def test_every_table_fits_eighty_columns() -> None:
    """With figures of a year's traffic and long names no line of status, incidents and audit is wider."""
    many = 123_456_789
    names = ("accepted", "pending", "delivered", "filtered", "unmapped", "dead")
    pause = {
        "who": "alice (token, 10.0.0.7)",
        "reason": "a long reason " * 20,
        "since": None,
        "until": "2026-01-31T12:00:00.000Z",
    }
    stop = {"scope": "automations", "state": "held", "reason": "200 with a page " * 20, "since": None}
    route = {
        "name": "rudderstack_to_courier", "state": "backing_off", "stops": [stop], "pause": pause, "retrying": many,
        "oldest_age_s": 1e6, "in_flight": 1_024, "concurrency_limit": 1_024, "open_dead": many, "discarded": many,
        "totals": dict.fromkeys(names, many) | {"is_balanced": True},
    }  # fmt: skip
    spool = {"size_bytes": 2**32, "cap_bytes": 2**40, "is_accepting": False, "engine": "SQLite 3.54.1"}
    spool |= {"refusal": "a long refusal " * 20}
    rejected = {"endpoint": "/inbound/rudderstack", "network": "2001:db8:ffff::/48", "reason": "a_long_reason " * 9}
    rejected |= {"remedy": "a long remedy " * 20}
    turned_away = [rejected | {"last_hour": many, "last_day": many}]
    status = {"version": "0.2.0", "uptime_s": 1e6, "spool": spool, "routes": [route], "rejected": turned_away}
    status["sources"] = [{"name": "nats", "state": "away", "since": None, "lag": many, "reason": "a reason " * 20}]
    event = {"received_at": "2026-01-31T12:00:00.000Z", "sequence": many, "route": "rudderstack_to_courier"}
    event |= {"state": "delivered", "event": "e" * 40, "type": "", "user_id": "u" * 40, "message_id": "", "reason": ""}
    event |= {"is_discarded": False}
    discarded = event | {"state": "dead", "is_discarded": True}
    incident = {
        "began_at": event["received_at"],
        "kind": "back_off",
        "route": "rudderstack_to_courier",
        "scope": "route",
    }
    incident |= {
        "lasted_s": 1e5,
        "ended_at": None,
        "remedy": "a long remedy " * 20,
        "delayed": many,
        "dead": many,
        "cause": "a long cause " * 20,
    }
    act = {"at": event["received_at"], "action": "discard", "count": many, "who": "alice, cli:root (token, 10.0.0.7)"}
    act |= {"detail": "state=dead " * 20, "outcome": "done"}
    assert "delayed" not in "".join(incident_lines(incident | {"delayed": None}))
    told = [
        *show.status_lines(status),
        *(show.event_line(one, 80) for one in (event, discarded)),
        *incident_lines(incident),
        *act_lines(act),
    ]
    assert [line for line in map(click.unstyle, told) if len(line) > 80] == []


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
    spool = {"size_bytes": 1, "cap_bytes": 2, "engine": "SQLite 3", "is_accepting": False, "refusal": "the cap"}
    status = {
        "version": "1",
        "uptime_s": 10.0,
        "spool": spool,
        "routes": [
            route | {"oldest_age_s": 3.0, "concurrency_limit": 4},
            {"name": "off", "state": "off", "pause": None, "stops": [], "totals": None},
        ],
        "sources": [{"name": "nats", "state": "away", "since": stop["since"], "lag": None, "reason": "gone\x1b"}],
    }
    text = "\n".join(show.status_lines(status, json.loads(json.dumps(status | {"uptime_s": 5.0}))))
    assert "Not accepting new events: the cap. Senders retry." in text
    assert "route: 401\ufffd  (since 2026-01-01 00:00:00Z)" in text
    assert "source nats  away since 2026-01-01 00:00:00Z: gone\ufffd" in text
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


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("replay --state dead --ye", "No such option '--ye'."),
        ("replay --state dead --everthing", "No such option '--everthing'. Did you mean '--event'?"),
        ("discard --stat dead", "No such option '--stat'. Did you mean '--state'?"),
        ("links remov a b", "No such command 'remov'."),
        ("links lst", "No such command 'lst'. Did you mean 'list'?"),
        ("events shw 1", "No such command 'shw'. Did you mean 'show'?"),
        ("replay --state deat", "Invalid value for '--state': 'deat' is not one of"),
    ],
)
def test_a_mistyped_option_is_guessed_unless_it_is_bold(shell: Shell, typed: str, said: str) -> None:
    """No slip is led to what does not ask, does all of it again, or takes away; other errors stay as they are."""
    result = shell(*typed.split())
    assert result.exit_code == 2
    assert f"Error: {said}" in result.output
    assert not [bold for bold in ("--yes", "--everything", "'remove'") if f"mean '{bold}" in result.output]


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


@pytest.mark.parametrize(
    ("asked", "is_too_heavy"),
    [
        ("status", ("aiohttp", "apsw", "jinja2", "prometheus_client", "structlog", "forwarder.operator.api")),
        ("events --st", ("aiohttp", "apsw", "jinja2", "pydantic", "structlog", "forwarder.settings")),
        ("replay --st", ("aiohttp", "apsw", "jinja2", "pydantic", "structlog", "forwarder.settings")),
        ("status --wa", ("aiohttp", "apsw", "jinja2", "pydantic", "structlog", "forwarder.settings")),
    ],
)
def test_commands_import_what_they_need_alone(asked: str, is_too_heavy: tuple[str, ...], tmp_path: Path) -> None:
    """Asking a running daemon imports no web client, database or page; completing an option not even settings."""
    environ = {"COMP_WORDS": f"forwarder {asked}", "COMP_CWORD": "2", "_FORWARDER_COMPLETE": "bash_complete"}
    script = (
        "import sys; sys.argv = ['forwarder', 'status', '--url', 'http://127.0.0.1:1']\n"
        "from forwarder.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {is_too_heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter, a script of our own
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
        env={**os.environ, **(environ if " " in asked else {})},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
