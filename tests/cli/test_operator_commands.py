"""status, events, replay and discard, on a running daemon and on a stopped one."""

import asyncio
import csv
import errno
import importlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import click
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import Result

from forwarder import __version__
from forwarder.cli import show
from forwarder.cli.events import Lines, rejected_line
from forwarder.cli.exits import CommandFailed
from forwarder.cli.filters import Moment
from forwarder.cli.operator_client import OperatorClient, Place
from forwarder.errors import DaemonUnreachable
from forwarder.operator.api_types import Event

Shell = Callable[..., Result]
Daemon = Callable[..., Any]

_FLAT = ["sequence", "route", "state", "event", "message_id", "user_id", "received_at", "attempts", "reason"]


def _events(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_status_reads_a_stopped_daemons_folder(filled: Shell) -> None:
    """A stopped daemon's totals are shown from its folder, and it says that it is not running."""
    result = filled("status")
    assert result.exit_code == 0, result.output
    assert "not running" in result.stdout
    assert "accepted 6 = delivered 1 + filtered 0 + unmapped 0 + dead 3 + pending 2" in result.stdout
    told = json.loads(filled("status", "--json").stdout)
    assert told["is_running"] is False
    assert told["routes"][0]["totals"]["is_balanced"] is True


def test_status_asks_the_running_daemon(filled: Shell, daemon: Daemon) -> None:
    """A running daemon is asked through its listener, again and again with --watch."""
    address = daemon().address
    result = filled("status", "--watch", "--interval", "0.1", "--count", "2", FORWARDER_OPERATOR_LISTEN=address)
    assert result.stdout.count(f"forwarder {__version__}  up") == 2
    assert "in 0.0/s  out 0.0/s" in result.stdout


def test_the_token_of_the_settings_is_sent(filled: Shell, daemon: Daemon) -> None:
    """With the daemon's token the commands work; without it they say which variable to set."""
    address = daemon(token="secret").address
    refused = filled("status", FORWARDER_OPERATOR_LISTEN=address)
    assert refused.exit_code == 1
    assert "set FORWARDER_OPERATOR_TOKEN" in refused.output
    assert filled("status", FORWARDER_OPERATOR_LISTEN=address, FORWARDER_OPERATOR_TOKEN="secret").exit_code == 0


def test_without_daemon_and_folder_it_says_what_to_do(shell: Shell) -> None:
    """When there is nothing to ask, the error names both places that were looked at."""
    result = shell("status")
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:1" in result.output
    assert "FORWARDER_DATA_DIR" in result.output
    assert "Traceback" not in result.output


def test_an_explicit_address_is_not_replaced_by_the_folder(filled: Shell) -> None:
    """With --url only that address is asked."""
    result = filled("status", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:1" in result.output


@pytest.mark.one_daemon("a database is opened beside its daemons; a folder is locked")
def test_a_folder_in_use_names_the_setting(filled: Shell, daemon: Daemon) -> None:
    """A daemon that listens elsewhere is not worked around: its folder is locked."""
    daemon()
    result = filled("status")
    assert result.exit_code == 1
    assert "set FORWARDER_OPERATOR_LISTEN as the daemon has it" in result.output


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_events_are_one_flat_object_a_line(filled: Shell, daemon: Daemon, *, is_running: bool) -> None:
    """--json prints exactly the documented fields, newest first."""
    environ = {"FORWARDER_OPERATOR_LISTEN": daemon().address} if is_running else {}
    found = _events(filled("events", "--json", **environ))
    assert [event["message_id"] for event in found] == ["m6", "m5", "m4", "m3", "m2", "m1"]
    assert all(list(event) == _FLAT for event in found)
    dead = _events(filled("events", "--json", "--state", "dead", "--limit", "2", **environ))
    assert [event["reason"] for event in dead] == ["too deep", "no id"]


def test_a_payload_cannot_steer_the_terminal(filled: Shell) -> None:
    """Control characters out of a payload are replaced before they are printed."""
    result = filled("events", "--user", "u1")
    assert "Message \ufffd[31mSent" in result.stdout
    assert "\x1b" not in result.stdout


def test_no_match_is_said_aside(filled: Shell) -> None:
    """An empty listing prints nothing to standard output, and says so on the other."""
    result = filled("events", "--reason", "never")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no such events" in result.stderr


def test_what_was_turned_away_is_said_where_nothing_is_found(turning_away: Shell) -> None:
    """A search that finds nothing tells of rejected requests; the status, also of a stopped daemon, says what to do."""
    result = turning_away("events", "--message", "lost")
    assert "3 requests were rejected in the last hour and are not among the events" in result.stderr
    told = " ".join(turning_away("status").stdout.split())
    assert "rejected 3 in the last hour, 3 in the last day at /inbound/rudderstack: key unknown" in told
    assert "keep naming the old one beside the new until RudderStack has nothing left to deliver" in told


@pytest.mark.parametrize(
    ("count", "told"),
    [(1, "1 request was rejected in the last hour and is"), (2, "2 requests were rejected in the last hour and are")],
)
def test_one_request_is_told_as_one(count: int, told: str) -> None:
    """What was rejected is told with its number."""
    assert rejected_line(count) == f"{told} not among the events: forwarder status"


def test_events_are_counted_however_listings_are_cut(filled: Shell, daemon: Daemon, hurried: Any) -> None:
    """--count says how many there are, of a daemon that cuts every listing after one event, too."""
    address = daemon(clock=hurried).address
    result = filled("events", "--state", "dead", "--count", FORWARDER_OPERATOR_LISTEN=address)
    assert (result.exit_code, result.stdout) == (0, "3\n")
    result = filled("events", "--text", "NUMBER", "--count", "--json", FORWARDER_OPERATOR_LISTEN=address)
    assert json.loads(result.stdout) == {"matched": 6}
    result = filled("events", "--user", "nobody", "--count", FORWARDER_OPERATOR_LISTEN=address)
    assert result.stdout == "0\n"


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_whatever_filters_leave_is_exported(
    filled: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, *, is_running: bool
) -> None:
    """--csv has the columns of the page's export, with and without events; --limit 0 means all, page by page."""
    environ = {"FORWARDER_OPERATOR_LISTEN": daemon().address} if is_running else {}
    monkeypatch.setattr("forwarder.cli.events._PAGE", 2)
    result = filled("events", "--csv", "--limit", "0", **environ)
    rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert [row["message_id"] for row in rows] == ["m6", "m5", "m4", "m3", "m2", "m1"]
    assert tuple(rows[0]) == Event.__struct_fields__
    assert rows[5] | {"state": "dead", "reason": "no id", "is_discarded": "False", "retry_at": ""} == rows[5]
    assert result.stdout_bytes.count(b"\r\n") == len(rows) + 1
    assert len(_events(filled("events", "--json", "--limit", "0", **environ))) == len(rows)
    nothing = filled("events", "--csv", "--reason", "never", **environ)
    assert (nothing.stdout.strip(), nothing.stderr) == (",".join(Event.__struct_fields__), "")
    for other in ("--json", "--count", "--follow"):
        refused = filled("events", "--csv", other, **environ)
        assert (refused.exit_code, f"--csv does not go with {other}" in refused.output) == (2, True)


@pytest.mark.parametrize("command", ["events", "replay"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attempts", "many"), "attempts is no number: use 1, 3.. (at least), ..5 (at most) or 2..5"),
        (("--status", "abc"), "status is no number: use 503, 5xx, 400..499 or none"),
        (("--status", ".."), "status is no number"),
        (("--attempts", ""), "attempts is no number"),
    ],
)
def test_a_bound_that_is_none_is_wrong_usage(filled: Shell, command: str, words: tuple[str, ...], said: str) -> None:
    """A status or a number of attempts that cannot be is told with what to write there."""
    result = filled(command, *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_wrong_filter_is_wrong_usage(filled: Shell) -> None:
    """A state that does not exist ends with exit code 2."""
    assert filled("events", "--state", "gone").exit_code == 2


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_replay_makes_events_pending_again(filled: Shell, daemon: Daemon, *, is_running: bool) -> None:
    """All dead events of one reason are replayed; the others stay. What is not delivered yet is told as pending."""
    environ = {"FORWARDER_OPERATOR_LISTEN": daemon().address} if is_running else {}
    result = filled("replay", "--state", "dead", "--reason", "no id", "--yes", "--wait", "0", **environ)
    outcome = "0 delivered, 2 pending" if is_running else "pending until the daemon is started (forwarder run)"
    assert (result.exit_code, result.stdout) == (0, f"replayed 2: {outcome}\n")
    dead = _events(filled("events", "--json", "--state", "dead", **environ))
    assert [event["reason"] for event in dead] == ["too deep"]
    told = json.loads(filled("replay", "--state", "dead", "--yes", "--wait", "0", "--json", **environ).stdout)
    assert told == {"replayed": 1, "outcome": {"pending": 1}}


def test_an_act_is_done_to_its_end_however_listings_are_cut(filled: Shell, daemon: Daemon, hurried: Any) -> None:
    """On a machine so slow that every listing is cut after one event, all of them are counted and moved."""
    address = daemon(clock=hurried).address
    counted = filled("replay", "--state", "dead", "--dry-run", FORWARDER_OPERATOR_LISTEN=address)
    assert (counted.exit_code, counted.stdout) == (0, "3 would be replayed\n")
    result = filled("replay", "--state", "dead", "--yes", "--wait", "0", "--json", FORWARDER_OPERATOR_LISTEN=address)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"replayed": 3, "outcome": {"pending": 3}})


def test_a_search_reads_to_the_end_however_listings_are_cut(filled: Shell, daemon: Daemon, hurried: Any) -> None:
    """An event is found wherever it is, and where none is, it is said in how many it was looked for."""
    address = daemon(clock=hurried).address
    found = _events(filled("events", "--json", "--text", '"number":1}', FORWARDER_OPERATOR_LISTEN=address))
    assert [event["message_id"] for event in found] == ["m1"]
    result = filled("events", "--text", "nowhere", FORWARDER_OPERATOR_LISTEN=address)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no such events (looked at 6 events, back to 2027-01-15 08:00:00Z)" in result.stderr


def test_what_came_of_a_replay_is_told(filled: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay whose cause remains says that its events are dead again."""
    running = daemon()
    post = OperatorClient.post

    async def burying(client: OperatorClient, path: str, body: Any) -> Any:
        if path == "/api/outcome":
            running.replay_and_bury([])
        return await post(client, path, body)

    monkeypatch.setattr(OperatorClient, "post", burying)
    words = ("replay", "--state", "dead", "--reason", "no id", "--yes")
    result = filled(*words, FORWARDER_OPERATOR_LISTEN=running.address)
    assert (result.exit_code, result.stdout) == (
        0,
        "replayed 2: 0 delivered, 2 dead again; see `forwarder events --state dead`\n",
    )


@pytest.mark.parametrize("error", [DaemonUnreachable("it went away"), CommandFailed("it answered 500")], ids=str)
@pytest.mark.parametrize(
    ("breaks_at", "said", "told"),
    [
        ({"sequences": [3]}, {"replayed": 2, "remaining": 1}, "1 of 3 remain as they were; run it again for the rest"),
        ({"sequences": [1]}, {"replayed": 3}, "all of them were replayed, what came of them is not known"),
    ],
    ids=["half-way", "at the outcome"],
)
def test_an_act_that_breaks_off_says_how_far_it_got(
    filled: Shell,
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: Exception,
    breaks_at: dict[str, Any],
    said: dict[str, Any],
    told: str,
) -> None:
    """What is cut short, whatever by, says how much was done and how much is left, and exits 1."""
    act = importlib.import_module("forwarder.cli.act")
    post, steps = OperatorClient.post, act.Request.steps

    async def breaking(client: OperatorClient, path: str, body: Any) -> Any:
        is_at_outcome = breaks_at == {"sequences": [1]}
        if body.get("sequences") == breaks_at["sequences"] and (path == "/api/outcome") is is_at_outcome:
            raise error
        return await post(client, path, body)

    async def counted(request: Any, client: Any, **more: Any) -> Any:
        if more:
            yield {"replayed": 3}
            return
        async for step in steps(request, client):
            yield step

    monkeypatch.setattr("forwarder.cli.act._CHUNK", 1)
    monkeypatch.setattr(OperatorClient, "post", breaking)
    monkeypatch.setattr(act.Request, "steps", counted)
    result = filled("replay", "1", "2", "3", "--yes", "--json", FORWARDER_OPERATOR_LISTEN=daemon().address)
    assert (result.exit_code, json.loads(result.stdout)) == (1, said)
    assert f"{error}: {told}" in result.stderr


@pytest.mark.parametrize("words", [("1", "2"), ("--state", "dead", "--reason", "no id")], ids=["by number", "by state"])
def test_a_replay_of_everything_says_so(filled: Shell, daemon: Daemon, words: tuple[str, ...]) -> None:
    """--everything is named in the question and reaches the audit log."""
    address = daemon().address
    command = ("replay", *words, "--everything", "--wait", "0")
    result = filled(*command, typed="y\n", FORWARDER_OPERATOR_LISTEN=address)
    assert "and make again the calls that were made already?" in result.output
    assert "replayed 2" in result.stdout
    (line,) = asyncio.run(_got(address, "/api/audit"))["audit"]
    assert (line["detail"].endswith(", with what was done before"), line["count"]) == (True, 2)


def test_it_asks_before_it_acts(filled: Shell) -> None:
    """Without --yes the exact number and the choice are asked about; a no changes nothing."""
    refused = filled("discard", "--state", "dead", "--user", "u1", typed="n\n")
    assert refused.exit_code == 1
    assert "Discard 3 events, state 'dead', user id 'u1'?" in refused.output
    agreed = filled("discard", "--state", "dead", "--json", typed="y\n")
    assert json.loads(agreed.stdout) == {"discarded": 3}
    assert filled("discard", "--state", "dead", "--yes").stdout == "discarded 0\n"


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_filters_alone_mean_dead_events(filled: Shell, verb: str) -> None:
    """Any filter of a listing selects without a state: the dead ones; nothing at all, or both ways, is wrong usage."""
    for words, count in ((("--user", "u1"), 3), (("--reason", "no id"), 2), (("--text", "M2"), 1)):
        assert json.loads(filled(verb, *words, "--dry-run", "--json").stdout) == {"would_be": count}
    asked = filled(verb, "--message", "m2", typed="n\n").output
    assert f"{verb.capitalize()} 1 event, state 'dead', message id 'm2'?" in asked
    for refusal in ("", "1 --user u1", "1 --state dead"):
        refused = filled(verb, *refusal.split(), "--dry-run")
        assert (refused.exit_code, "give either sequences" in refused.output) == (2, True)


def test_discarded_events_are_told_apart(filled: Shell) -> None:
    """A line says that its dead event is discarded; the command that the status names finds those it counts."""
    assert filled("discard", "1", "--yes").exit_code == 0
    hint = next(line for line in filled("status").stdout.splitlines() if "forwarder events --" in line)
    words = hint.split()[1:]
    assert filled(*words, "--count").stdout == "2\n"
    assert {event["sequence"] for event in _events(filled(*words, "--json"))} == {2, 3}
    lines = filled("events", "--state", "dead").stdout.splitlines()
    assert ["dead, discarded  Message" in line for line in lines] == [False, False, True]
    assert len({line.index("u1") for line in lines}) == 1


def test_a_time_may_be_how_long_ago() -> None:
    """`1h` is an hour ago; what is no time is wrong usage."""
    now_ms = time.time_ns() // 1_000_000
    for text, ago_s in (("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)):
        assert 0 <= int(Moment().convert(text, None, None)) - (now_ms - ago_s * 1_000) < 5_000
    assert Moment().convert("0001-01-01", None, None) == Moment().convert("999999d", None, None) == "0"
    with pytest.raises(click.BadParameter, match="it is no time"):
        Moment().convert("yesterday", None, None)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--user", "nobody"), 0),
        (("--message", "m2"), 1),
        (("--route", "outbound"), 3),
        (("--route", "inbound"), 0),
        (("--since", "2027-01-15T08:00:00.002"), 2),
        (("--until", "2027-01-15T08:00:00.002"), 1),
        (("--since", "2099-01-01"), 0),
        (("--text", "M2"), 1),
        (("--status", "4xx"), 0),
        (("--attempts", "..0"), 3),
        (("--attempts", "2.."), 0),
    ],
)
def test_an_act_is_narrowed_as_a_listing_is(filled: Shell, words: tuple[str, ...], count: int) -> None:
    """User, message, route and time narrow what is acted on, and what is listed, in the same way."""
    result = filled("discard", "--state", "dead", *words, "--dry-run", "--json")
    assert json.loads(result.stdout) == {"would_be": count}
    assert len(_events(filled("events", "--json", "--state", "dead", *words))) == count


def test_one_event_is_shown_whole(filled: Shell) -> None:
    """`events show` prints what is known of an event, and nothing that steers the terminal."""
    result = filled("events", "show", "1")
    assert result.exit_code == 0
    assert "event 1, 12 B" in result.stdout
    assert "reason    no id" in result.stdout
    assert '"number": 1' in result.stdout
    assert "\x1b" not in result.stdout
    assert json.loads(filled("events", "show", "1", "--json").stdout)["payload"] == '{"number":1}'
    assert filled("events", "show", "99").exit_code == 1


def test_incidents_are_listed(filled: Shell) -> None:
    """`incidents` lists what was kept, also of a stopped daemon; none is said aside."""
    result = filled("incidents")
    assert (result.exit_code, result.stdout, "no incidents" in result.stderr) == (0, "", True)
    result = filled("incidents", "--json")
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_route_is_paused_and_resumed(filled: Shell, daemon: Daemon) -> None:
    """`pause` and `resume` take short names; what does not run, or is stopped, is told."""
    assert "nothing to pause" in filled("pause", "outbound").stderr
    address = daemon().address
    result = filled("pause", "outbound", "--reason", "a move", FORWARDER_OPERATOR_LISTEN=address)
    assert (result.exit_code, "no such route is running" in result.stderr) == (1, True)
    assert filled("pause", "sideways").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        *(("--for", "soon"), ("--for", "0m"), ("--for", "366d"), ("--until", "noon"), ("--until", "2026-01-01")),
        ("--for", "1h", "--until", "2099-01-01"),
    ],
)
def test_the_end_of_a_pause_is_read_before_anything_is_done(filled: Shell, words: tuple[str, ...]) -> None:
    """A length or a time that is none, over already or too far, or both, is wrong usage."""
    assert filled("pause", "outbound", *words).exit_code == 2


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
def test_a_person_is_forgotten(filled: Shell, daemon: Daemon, *, is_running: bool) -> None:
    """`forget` counts, asks, erases and names its receipt, on a running daemon and on a stopped one's folder."""
    environ = {"FORWARDER_OPERATOR_LISTEN": daemon().address} if is_running else {}
    user = _events(filled("events", "--json", **environ))[0]["user_id"]
    count = len(_events(filled("events", "--json", "--user", user, **environ)))
    dry = filled("forget", user, "--dry-run", "--json", **environ)
    assert sum(json.loads(dry.stdout)["would_be"].values()) == count
    declined = filled("forget", user, typed="n\n", **environ)
    assert (declined.exit_code, "It cannot be undone" in declined.output) == (1, True)
    done = filled("forget", user, "--yes", **environ)
    assert (done.exit_code, done.stdout.split()[:2]) == (0, ["erased", str(count)]) or "waited" in done.stdout
    assert _events(filled("events", "--json", "--user", user, **environ)) == []
    (line,) = _events(filled("audit", "--json", **environ))
    assert (line["action"], line["count"], user in line["detail"]) == ("forget", count, False)
    assert done.stdout.split()[-1] in line["detail"]
    assert "no events would be erased" in filled("forget", user, "--dry-run", **environ).stdout


def test_sequences_that_cannot_be_moved_are_a_failure(filled: Shell) -> None:
    """What is unknown or still waiting is counted, and the exit code is 1."""
    sequences = [str(event["sequence"]) for event in _events(filled("events", "--json"))]
    result = filled("replay", *sequences, "--yes")
    assert result.exit_code == 1
    assert "replayed 4" in result.stdout
    assert "2 of them could not be replayed" in result.stderr


@pytest.mark.parametrize(
    "words",
    [(), ("1", "--state", "dead"), ("1", "--reason", "x"), ("x",), ("--state", "pending")],
    ids=["nothing", "both", "reason of a sequence", "no number", "pending"],
)
def test_a_wish_must_be_clear(filled: Shell, words: tuple[str, ...]) -> None:
    """Either sequences or a state; anything else is wrong usage."""
    assert filled("replay", *words).exit_code == 2


def test_the_audit_log_names_the_command(filled: Shell, daemon: Daemon) -> None:
    """Who replayed is written down with the user's name."""
    address = daemon().address
    filled("replay", "--state", "delivered", "--yes", "--wait", "0", FORWARDER_OPERATOR_LISTEN=address)
    assert _events(filled("events", "--json", "--state", "delivered", FORWARDER_OPERATOR_LISTEN=address)) == []
    (line,) = asyncio.run(_got(address, "/api/audit"))["audit"]
    assert line["action"] == "replay"
    assert line["who"].startswith("cli:")


async def _got(address: str, path: str) -> Any:
    async with aiohttp.ClientSession(f"http://{address}") as http, http.get(path) as answer:
        return await answer.json()


def test_following_prints_what_comes(filled: Shell, daemon: Daemon) -> None:
    """--follow starts with the newest events, oldest first, and prints new ones until Ctrl-C, which is no failure."""
    running = daemon()
    printed: list[str] = []

    def on_print(text: str) -> None:
        printed.append(text)
        if len(printed) in {2, 3}:
            running.append(75 + len(printed))
        if len(printed) == 4:
            raise KeyboardInterrupt

    result = filled(
        "events", "--follow", "--json", "--limit", "2", heard=on_print, FORWARDER_OPERATOR_LISTEN=running.address
    )
    assert result.exit_code == 0
    assert [json.loads(text)["event"] for text in printed][-2:] == ["Message Opened", "Message Opened"]
    assert [json.loads(text)["message_id"] for text in printed[:2]] == ["m5", "m6"]


def test_following_tells_what_became_of_a_line(filled: Shell, daemon: Daemon) -> None:
    """An event that was pending when it was printed is told again once it is not, and only then."""
    running = daemon()
    printed: list[tuple[int, str]] = []

    def on_print(text: str) -> None:
        event = json.loads(text)
        printed.append((event["sequence"], event["state"]))
        if len(printed) == 1:
            running.append(77)
            running.append(78)
        if printed[-1] == (8, "pending"):
            running.replay_and_bury([])
        if (7, "dead") in printed and (8, "dead") in printed:
            raise KeyboardInterrupt

    environ = {"FORWARDER_OPERATOR_LISTEN": running.address}
    assert filled("events", "--follow", "--json", "--limit", "1", heard=on_print, **environ).exit_code == 0
    assert printed == [(n, "pending") for n in (6, 7, 8)] + [(n, "dead") for n in (6, 7, 8)]


@pytest.mark.parametrize(
    ("rows", "said", "rewritten"),
    [(24, 0, "\x1b[3A\r\x1b[2K"), (24, 1, "\x1b[4A\r\x1b[2K"), (2, 0, ""), (0, 0, "")],
    ids=["on the screen", "below a word about the daemon", "scrolled away", "no terminal"],
)
def test_a_line_is_written_again_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rows: int, said: int, rewritten: str
) -> None:
    """On a terminal the line itself changes and the cursor returns; a line out of reach is printed anew."""
    monkeypatch.setattr(show, "rows", lambda: rows)
    client = OperatorClient(Place(headers={}), is_running=True)
    lines = Lines(client, as_json=False)
    event: dict[str, object] = {
        "route": "r",
        "type": "t",
        "event": "e",
        "user_id": "u",
        "message_id": "m",
        "reason": "",
    }
    event |= {"received_at": "2026-01-31T12:00:00.000Z", "is_discarded": False}
    for sequence in (1, 2, 3):
        lines.put(event | {"sequence": sequence, "state": "pending"})
    client.lines_said = said
    capsys.readouterr()
    now = event | {"sequence": 1, "state": "delivered"}
    assert (lines.is_open(now), lines.reach()) == (True, (1, 3))
    lines.put(now)
    out = capsys.readouterr().out
    assert out.startswith(rewritten)
    assert out.endswith("\n" if not rewritten else f"\x1b[{3 + said}B\r")
    assert "delivered" in out
    assert (lines.is_open(now), lines.reach()) == (False, (2, 3))


@pytest.mark.parametrize("page", [500, 3], ids=["all on one page", "a full page"])
def test_following_a_state_prints_what_comes_into_it(
    filled: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """An old event that dies after a newer one is printed too, once, as far as one page of events looks back."""
    monkeypatch.setattr("forwarder.cli.events._PAGE", page)
    running = daemon()
    printed: list[int] = []

    def on_print(text: str) -> None:
        printed.append(json.loads(text)["sequence"])
        if len(printed) == 3:
            running.replay_and_bury([1, 4])
        if len(printed) == 6:
            raise KeyboardInterrupt

    environ = {"FORWARDER_OPERATOR_LISTEN": running.address}
    assert filled("events", "--follow", "--json", "--state", "dead", heard=on_print, **environ).exit_code == 0
    assert printed[:3] == [1, 2, 3]
    assert sorted(printed[3:]) == [4, 5, 6]


def test_long_listings_are_read_page_by_page(filled: Shell, daemon: Daemon) -> None:
    """A limit above one page is met by several requests."""
    running = daemon()
    for number in range(100, 620):
        running.append(number)
    found = _events(filled("events", "--json", "--limit", "510", FORWARDER_OPERATOR_LISTEN=running.address))
    assert len({event["sequence"] for event in found}) == 510


def test_a_stranger_at_the_address_is_recognised(filled: Shell) -> None:
    """What answers but is not the daemon is said to be that."""

    def stranger() -> tuple[socket.socket, threading.Thread]:
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhi!\n")

        thread = threading.Thread(target=serve)
        thread.start()
        return listening, thread

    listening, thread = stranger()
    with listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        result = filled("status", FORWARDER_OPERATOR_LISTEN=address)
        thread.join(5)
    assert result.exit_code == 1
    assert "is not this daemon" in result.output


def test_ctrl_c_ends_watching_without_failure(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a watch is no failure."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("forwarder.cli.show.status_lines", interrupted)
    assert filled("status", "--watch").exit_code == 0


def test_a_user_without_a_name_is_unknown(filled: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user need not have a name."""

    def nameless() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nameless)
    assert filled("status").exit_code == 0


def test_a_daemon_that_breaks_off_is_said(filled: Shell) -> None:
    """A connection that ends in the middle of an answer is told as such, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for body in (b"{}", b""):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n" + body)

        thread = threading.Thread(target=serve)
        thread.start()
        result = filled("status", FORWARDER_OPERATOR_LISTEN=f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join(5)
    assert result.exit_code == 1
    assert "the daemon went away" in result.output


def test_what_speaks_no_http_is_said(filled: Shell) -> None:
    """Something else on that port is recognised before anything is asked of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        result = filled("status", FORWARDER_OPERATOR_LISTEN=f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join(5)
    assert result.exit_code == 1
    assert "speaks no HTTP" in result.output


def test_an_error_of_the_daemon_is_passed_on(filled: Shell, daemon: Daemon) -> None:
    """What the daemon refuses is told in its own words."""
    result = filled("events", "--text", "x" * 2_000, FORWARDER_OPERATOR_LISTEN=daemon().address)
    assert result.exit_code == 1
    assert "the daemon answered 400: text: expected `str` of length <= 1000" in result.output


@pytest.mark.parametrize(
    ("words", "what"), [(("events", "--follow"), "follow"), (("status", "--watch"), "watch")], ids=["events", "status"]
)
def test_what_goes_on_for_long_gives_a_stopped_daemons_folder_back(
    filled: Shell, words: tuple[str, ...], what: str
) -> None:
    """On a stopped daemon it is shown once, and says why that is all: held open, the daemon could not start."""
    result = filled(*words)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) >= 6
    assert f"nothing to {what}: start it" in result.stderr


async def test_reading_outlasts_a_restart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told once that the daemon is away, and gets the answer when it is back; others get the error."""
    monkeypatch.setattr("forwarder.cli.operator_client._AGAIN_S", 0.01)
    asked = 0

    async def restarting(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1 and request.transport is not None:
            request.transport.abort()
        return web.json_response({"error": "the spool is closed"}, status=503 if asked == 2 else 200)

    app = web.Application()
    app.router.add_get("/api/events", restarting)
    async with TestServer(app) as server:
        place = Place(url=str(server.make_url("/")), headers={})
        waiting = OperatorClient(place, is_running=True, waits=True)
        assert await waiting.get("/api/events") == {"error": "the spool is closed"}
        assert (asked, capsys.readouterr().err.count("waiting for the daemon")) == (3, 1)
        asked = 1
        with pytest.raises(DaemonUnreachable, match="503"):
            await OperatorClient(place, is_running=True).get("/api/events")


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://host", "http://", "http://[", "http://host:99999", "127.0.0.1:8081"]
)
def test_an_address_that_is_none_is_wrong_usage(filled: Shell, url: str) -> None:
    """A mistyped URL is said to be one, with an example of a right one."""
    result = filled("status", "--url", url)
    assert result.exit_code == 2
    assert "write it like http://127.0.0.1:8081" in result.output


def test_output_that_cannot_be_written_is_a_plain_failure(filled: Shell) -> None:
    """A full disk behind the output is told in one line."""
    heard: list[str] = []

    def full(text: str) -> None:
        heard.append(text)
        if len(heard) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert filled("events", heard=full).exit_code == 1
    assert heard[1:] == ["the system refused: No space left on device"]


def test_a_reader_that_has_enough_ends_it_quietly(filled: Shell) -> None:
    """A pipe that was closed, as by `head`, is no failure worth words."""
    heard: list[str] = []

    def closed(text: str) -> None:
        heard.append(text)
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert filled("events", heard=closed).exit_code == 1
    assert len(heard) == 1
