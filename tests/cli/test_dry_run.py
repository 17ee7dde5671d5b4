"""forwarder map: what would be sent."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Known

Shell = Callable[..., Result]

_WEBHOOK: dict[str, Any] = {
    "type": "message:updated",
    "data": {
        "id": "1-65f240a0-47a6a120c8374de9bcf9f22c",
        "status": "SENT",
        "recipient": "u1",
        "sent": 1_700_000_000_000,
    },
}
_TRACK: dict[str, Any] = {"type": "track", "event": "Order Done", "userId": "u1", "messageId": "m1", "properties": {}}


def _file(folder: Path, value: Any, name: str = "event.json") -> str:
    path = folder / name
    path.write_text(json.dumps(value))
    return str(path)


def test_a_webhook_becomes_its_track_call(shell: Shell, tmp_path: Path) -> None:
    """The call is printed as it would be sent, and the same payload gives the same text again."""
    result = shell("map", _file(tmp_path, _WEBHOOK))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["outcome"] == "sent"
    assert (told["call"]["event"], told["call"]["userId"]) == ("Message Sent", "u1")
    assert shell("map", "-", typed=json.dumps(_WEBHOOK)).stdout == result.stdout


def test_expectations_are_compared(shell: Shell, tmp_path: Path) -> None:
    """--expect passes on equal JSON however it is written, and fails with a diff otherwise."""
    event = _file(tmp_path, _WEBHOOK)
    made = json.loads(shell("map", event).stdout)
    assert shell("map", "--expect", _file(tmp_path, made, "good.json"), event).exit_code == 0
    made["call"]["event"] = "Email Sent"
    result = shell("map", "--expect", _file(tmp_path, made, "bad.json"), event)
    assert result.exit_code == 1
    assert '-    "event": "Email Sent",' in result.stdout
    assert '+    "event": "Message Sent",' in result.stdout


def test_rules_apply(shell: Shell, tmp_path: Path) -> None:
    """The rules file of the settings is used, and a wrong one ends with 78 and its line."""
    event, rules = _file(tmp_path, _WEBHOOK), tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "quiet"\nfilter = true\n')
    outcome = shell("map", event, FORWARDER_RULES=str(rules))
    if outcome.exit_code == 0:
        assert json.loads(outcome.stdout)["outcome"] == "filtered"
    rules.write_text("[[rule]\n")
    assert shell("map", event, FORWARDER_RULES=str(rules)).exit_code == 78


def test_several_events_are_mapped_in_order(shell: Shell, tmp_path: Path) -> None:
    """An array in gives an array out: sent, filtered and dead side by side."""
    events = [_WEBHOOK, _WEBHOOK | {"data": _WEBHOOK["data"] | {"status": "ENQUEUED"}}, {"no": "type"}]
    told = json.loads(shell("map", _file(tmp_path, events)).stdout)
    assert [one["outcome"] for one in told] == ["sent", "filtered", "dead"]


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ({"type": "identify", "userId": "u1", "messageId": "m1", "traits": {"a": 1}}, "sent"),
        (_TRACK, "unmapped"),
        (_TRACK | {"type": "page"}, "filtered"),
        ({"type": "identify"}, "dead"),
        (3, "dead"),
    ],
    ids=["identify", "unlinked", "page", "no user", "no object"],
)
def test_inbound_events_become_calls(shell: Shell, tmp_path: Path, event: Any, outcome: str) -> None:
    """The Courier calls of an inbound event are printed, or why there are none."""
    result = shell("map", "--route", "rudderstack_to_courier", _file(tmp_path, event))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["outcome"] == outcome
    assert (told["calls"][0]["operation"] == "POST /profiles/u1") if outcome == "sent" else told["reason"]


@pytest.mark.parametrize("route", ["courier_to_rudderstack", "rudderstack_to_courier"])
def test_what_the_doors_put_right_is_put_right_here(shell: Shell, tmp_path: Path, route: str) -> None:
    """A lone surrogate becomes U+FFFD, as at the endpoint; a number beyond a double is dead, as there."""
    path = tmp_path / "event.json"
    event: dict[str, Any] = _WEBHOOK
    if route == "rudderstack_to_courier":
        event = {"type": "identify", "userId": "u1", "data": {}}
    text = json.dumps(event | {"data": event["data"] | {"x": "MARK"}})
    path.write_text(text.replace("MARK", "\\ud800"))
    assert json.loads(shell("map", "--route", route, str(path)).stdout)["outcome"] == "sent"
    path.write_text(text.replace('"MARK"', "1e400"))
    told = json.loads(shell("map", "--route", route, str(path)).stdout)
    assert told["outcome"] == "dead"
    assert "out of range" in told["reason"]


def test_a_door_of_the_other_route_is_wrong_usage(shell: Shell, tmp_path: Path) -> None:
    """--source names an endpoint of the chosen route, else the command ends with 2 and names those."""
    result = shell("map", "--route", "rudderstack_to_courier", "--source", "webhook", _file(tmp_path, _TRACK))
    assert result.exit_code == 2
    assert "rudderstack, segment, v1" in result.stderr


def test_pinned_links_apply(shell: Shell, tmp_path: Path) -> None:
    """A link in FORWARDER_LINKS maps the event."""
    links = tmp_path / "links.toml"
    links.write_text('[[link]]\nevent = "Order Done"\ntarget = "a1"\n')
    result = shell("map", "--route", "rudderstack_to_courier", _file(tmp_path, _TRACK), FORWARDER_LINKS=str(links))
    assert json.loads(result.stdout)["calls"][0]["operation"] == "POST /automations/a1/invoke"


@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_stored_links_apply(filled: Shell, daemon: Callable[..., Any], tmp_path: Path, *, is_running: bool) -> None:
    """What `links list` shows maps the event, beside the pinned links of the file."""
    (tmp_path / "links.toml").write_text('[[link]]\nevent = "Order Done"\ntarget = "pinned"\n')
    environ = {"FORWARDER_LINKS": str(tmp_path / "links.toml")}
    if is_running:
        environ["FORWARDER_OPERATOR_LISTEN"] = daemon().address
    for target in ("stored", "pinned"):
        assert filled("links", "add", "Order Done", target, **environ).exit_code == 0
    result = filled("map", "--route", "inbound", _file(tmp_path, _TRACK), **environ)
    assert [call["operation"] for call in json.loads(result.stdout)["calls"]] == [
        "POST /automations/pinned/invoke",
        "POST /automations/stored/invoke",
    ]
    assert result.stderr == ""


def test_stored_links_that_cannot_be_read_are_said(shell: Shell, tmp_path: Path) -> None:
    """Without daemon and folder the mapping goes on and says what was left out; what --url names must answer."""
    event = _file(tmp_path, _TRACK)
    result = shell("map", "--route", "inbound", event)
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (0, "unmapped")
    assert "warning: stored links are not looked at (nothing answers at" in result.stderr
    assert shell("map", "--route", "inbound", "--url", "http://127.0.0.1:1", event).exit_code == 1
    assert "stored links" not in shell("map", _file(tmp_path, _WEBHOOK)).stderr


def test_what_is_no_json_is_said(shell: Shell, tmp_path: Path) -> None:
    """A file that is no JSON is named with the place of the mistake."""
    (tmp_path / "x").write_text("{")
    result = shell("map", str(tmp_path / "x"))
    assert result.exit_code == 1
    assert "is no JSON" in result.stderr


def test_the_time_of_arrival_can_be_given(shell: Shell, tmp_path: Path) -> None:
    """--received-at makes the mapping of an event without a time repeatable."""
    event = {"type": "message:updated", "data": {"id": "m", "status": "SENT", "recipient": "u1"}}
    result = shell("map", "--received-at", "2026-01-02T03:04:05", _file(tmp_path, event))
    assert json.loads(result.stdout)["call"]["timestamp"].startswith("2026-01-02T03:04:05")


@pytest.mark.parametrize(("encoding", "code"), [("utf-8-sig", 0), ("latin-1", 78)])
def test_rules_of_any_editor(shell: Shell, tmp_path: Path, encoding: str, code: int) -> None:
    """A byte order mark is no obstacle; another encoding is a wrong configuration, without a traceback."""
    (tmp_path / "rules.toml").write_text(
        '[[rule]]\nwhen = { field = "event", equals = "Message Sent" }\nrename = "Größe"\n', encoding
    )
    result = shell("map", _file(tmp_path, _WEBHOOK), FORWARDER_RULES=str(tmp_path / "rules.toml"))
    assert result.exit_code == code, result.output
    assert ("Größe" if code == 0 else "line 3 is no UTF-8 text") in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("encoding", "code"), [("utf-8-sig", 0), ("latin-1", 1)])
def test_an_expectation_of_any_editor(shell: Shell, tmp_path: Path, encoding: str, code: int) -> None:
    """What is compared with may begin with a byte order mark; another encoding is said."""
    event = _file(tmp_path, _WEBHOOK | {"data": _WEBHOOK["data"] | {"recipient": "Größe"}})
    (tmp_path / "expected.json").write_text(shell("map", event).stdout, encoding)
    result = shell("map", "--expect", str(tmp_path / "expected.json"), event)
    assert result.exit_code == code, result.output
    assert ("as expected" if code == 0 else "is no JSON") in result.output


async def test_a_target_that_courier_does_not_list_is_told(shell: Shell, tmp_path: Path) -> None:
    """With --connect each call says what speaks against its target; without, nothing is asked."""
    links = tmp_path / "links.toml"
    targets = (("automation", "flow"), ("journey", "gone"), ("template", "nt/1"), ("list", "vips"))
    links.write_text(
        "".join(f'[[link]]\nevent = "Order Done"\nto = "{to}"\ntarget = "{target}"\n' for to, target in targets)
    )
    known = Known(automations={"flow"}, journeys=set(), templates=set(), lists={"vips"})
    async with CourierApi(api_keys=["ck"], known=known) as courier:
        own = {"FORWARDER_LINKS": str(links), "COURIER_API_URL": courier.url, "COURIER_API_KEY": "ck"}
        given = ("map", "--route", "rudderstack_to_courier", _file(tmp_path, _TRACK))
        told = json.loads((await asyncio.to_thread(shell, *given, "--connect", **own)).stdout)
        assert [call.get("doubt", "") for call in told["calls"]] == [
            "",
            "Courier lists no published journey of this id",
            "Courier lists no notification template of this id",
            "",
        ]
        plain = json.loads((await asyncio.to_thread(shell, *given, **own)).stdout)
        assert not [call for call in plain["calls"] if "doubt" in call]
