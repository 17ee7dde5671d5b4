"""Numbers, times and lines as people read them on a terminal. Pure.

Text out of payloads (event names, ids, reasons) passes `plain`: it must not be able to steer the terminal.
"""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from forwarder.operator import text

_STATE_COLOURS = {
    "delivered": "green",
    "running": "green",
    "ok": "green",
    "pending": "cyan",
    "backing_off": "yellow",
    "paused": "yellow",
    "unmapped": "yellow",
    "warn": "yellow",
    "dead": "red",
    "held": "red",
    "fail": "red",
}
COLUMNS = 80
WAYS = {"courier_to_rudderstack": "outbound", "rudderstack_to_courier": "inbound"}
_REJECTED_MAX = 5
EVENT_KEYS = (
    "sequence",
    "route",
    "state",
    "event",
    "message_id",
    "user_id",
    "received_at",
    "attempts",
    "reason",
)


def plain(text: str, width: int = 0) -> str:
    """Return the text without control characters, cut and filled to `width` columns (0: as long as it is)."""
    safe = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if not width:
        return safe
    return (safe if len(safe) <= width else safe[: width - 1] + "…").ljust(width)


def coloured(word: str, width: int = 0) -> str:
    """Return a state's name in its colour; the output drops colours where there is no terminal."""
    return click.style(word.ljust(width), fg=_STATE_COLOURS.get(word))


def is_terminal() -> bool:
    """Tell whether somebody looks at what goes to standard error."""
    return sys.stderr.isatty()


def rows() -> int:
    """Return how many lines of standard output can still be written to; 0 where it is no terminal."""
    return shutil.get_terminal_size().lines if sys.stdout.isatty() else 0


def event_line(event: Mapping[str, Any], width: int = 0) -> str:
    """Write one event as a line of columns; `width` 0: the terminal's, or as long as it is where there is none.

    The first columns fit 80 characters; message and reason follow as far as there is room.
    """
    state = _state(event)
    told = (
        local(event["received_at"])[5:],
        f"{event['sequence']:>7}",
        WAYS.get(event["route"], event["route"]).ljust(8),
        state.ljust(9),
        plain(event["event"] or event["type"], 18 - max(0, len(state) - 9)),
        plain(event["user_id"], 13),
    )
    line = "  ".join((*told, plain(event["message_id"], 24), plain(event["reason"]))).rstrip()
    return cut(line, width).replace(event["state"], coloured(event["state"]), 1)


def _state(event: Mapping[str, Any]) -> str:
    return f"{event['state']}, discarded" if event["is_discarded"] else str(event["state"])


def cut(line: str, width: int = 0) -> str:
    """Return the line as far as it fits into `width` columns; 0: the terminal's, or whole where there is none."""
    width = width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)
    return plain(line, width).rstrip() if width and len(line) > width else line


def event_lines(event: Mapping[str, Any]) -> Sequence[str]:
    """Write one event whole: facts, attempts newest first with the destination's own words, payload."""
    facts = (
        ("state", _state(event).replace(event["state"], coloured(event["state"]), 1)),
        ("reason", event["reason"]),
        ("route", event["route"]),
        ("event", event["event"]),
        ("type", event["type"]),
        ("user", event["user_id"]),
        ("message", event["message_id"]),
        ("received", f"{local(event['received_at'])} by {event['source'] or 'nobody known'}"),
        ("settled", local(event["settled_at"]) if event["settled_at"] else ""),
        ("next try", local(event["retry_at"]) if event["retry_at"] and event["state"] == "pending" else ""),
    )
    lines = [f"event {event['sequence']}, {text.size(event['size_bytes'])}"]
    lines += [f"  {name:<9} {value if name == 'state' else plain(value)}" for name, value in facts if value]
    for attempt in reversed(event["attempt_log"]):
        status = attempt["status"] if attempt["status"] is not None else "no answer"
        lines.append(f"attempt   {local(attempt['at'])}  {attempt['outcome']}  {status}  {plain(attempt['operation'])}")
        lines += [f"  {plain(said)}" for said in (attempt["words"] or attempt["answer"], attempt["reason"]) if said]
    if event["payload"] is None:
        return [*lines, "its payload is no longer kept"]
    encoding = "" if event["payload_encoding"] == "utf-8" else f" in {event['payload_encoding']}"
    return [*lines, f"payload{encoding}", *(plain(line) for line in _indented(event["payload"]).splitlines())]


def _indented(payload: str) -> str:
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return payload


def flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event as `events --json` prints it."""
    return {key: event[key] for key in EVENT_KEYS}


def status_lines(status: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> Sequence[str]:
    """Write the state of everything; with an `earlier` status also what passed per second since."""
    spool = status["spool"]
    running = f"up {text.span(status['uptime_s'])}" if status.get("is_running", True) else "not running"
    disk = f"spool {text.size(spool['size_bytes'])} of {text.size(spool['cap_bytes'])}"
    lines = [f"forwarder {status['version']}  {running}  {disk}  {spool['engine']}"]
    if not spool["is_accepting"]:
        refusal = f"refusing  Not accepting new events: {plain(spool['refusal'])}. Senders retry."
        lines += [click.style(line, fg="red", bold=True) for line in _wrapped(refusal, "")]
    rejected = status.get("rejected", ())[:_REJECTED_MAX]
    for one in rejected:
        lines += _wrapped(_rejected_line(one), "")
    for remedy in dict.fromkeys(plain(one["remedy"]) for one in rejected if one["remedy"] and one["last_hour"]):
        lines += _wrapped(remedy)
    for one in status.get("sources", ()):
        lag = "" if one["lag"] is None else f", lag {one['lag']}"
        why = f": {plain(one['reason'])}" if one["reason"] else ""
        told = f"source {plain(one['name'])}  {one['state']} since {local(one['since'])}{lag}{why}"
        lines += [click.style(line, fg="red") if one["state"] == "away" else line for line in _wrapped(told, "")]
    before = {route["name"]: route for route in earlier["routes"]} if earlier else {}
    passed_s = status["uptime_s"] - earlier["uptime_s"] if earlier else 0.0
    for route in status["routes"]:
        lines += ["", *_route_lines(route, before.get(route["name"]), passed_s)]
    return lines


def _rejected_line(one: Mapping[str, Any]) -> str:
    origin = f" from {plain(one['network'])}" if one["network"] else ""
    why = plain(one["reason"].replace("_", " "))
    counts = f"{one['last_hour']} in the last hour, {one['last_day']} in the last day"
    return f"rejected {counts} at {plain(one['endpoint'])}{origin}: {why}"


def _route_lines(route: Mapping[str, Any], earlier: Mapping[str, Any] | None, passed_s: float) -> list[str]:
    totals = route["totals"]
    lines = [f"{click.style(route['name'], bold=True)}  {coloured(route['state'])}{_rates(route, earlier, passed_s)}"]
    for stop in route["stops"]:
        told = f"{stop['state']}  {stop['scope']}: {plain(stop['reason'])}  (since {local(stop['since'])})"
        first, *rest = _wrapped(told)
        lines += [first.replace(stop["state"], coloured(stop["state"]), 1), *rest]
    if pause := route["pause"]:
        until = f", until {local(pause['until'])}" if pause["until"] else ", until somebody resumes it"
        why = f": {plain(pause['reason'])}" if pause["reason"] else ""
        lines += _wrapped(f"by {plain(pause['who']) or 'somebody'}{until}{why}")
    if not totals:
        return lines
    lines += _wrapped(
        f"pending {totals['pending']} (oldest {text.span(route['oldest_age_s'])}, {route['retrying']} on a retry), "
        f"in flight {route['in_flight']} of {route['concurrency_limit']}"
    )
    lines += _wrapped(
        f"accepted {totals['accepted']} = delivered {totals['delivered']} + filtered {totals['filtered']} "
        f"+ unmapped {totals['unmapped']} + dead {totals['dead']} + pending {totals['pending']}"
    )
    if route["open_dead"]:
        lines += [
            click.style(f"  {route['open_dead']} dead to look after", fg="red") + f", {route['discarded']} discarded",
            f"    forwarder events --state dead --route {WAYS.get(route['name'], route['name'])} --not-discarded",
        ]
    if not totals["is_balanced"]:
        lines.append(click.style("  THE TOTALS DO NOT BALANCE: please report this", fg="red"))
    return lines


def _wrapped(words: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(words, COLUMNS, initial_indent=indent, subsequent_indent=f"{indent}  ")


def _rates(route: Mapping[str, Any], earlier: Mapping[str, Any] | None, passed_s: float) -> str:
    if not earlier or not earlier["totals"] or not route["totals"] or passed_s <= 0:
        return ""
    came = (route["totals"]["accepted"] - earlier["totals"]["accepted"]) / passed_s
    went = (route["totals"]["delivered"] - earlier["totals"]["delivered"]) / passed_s
    return f"  in {came:.1f}/s  out {went:.1f}/s"


def local(moment: str | None) -> str:
    """Write a moment in UTC, saying so; "-" when there is none."""
    if moment is None:
        return "-"
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
