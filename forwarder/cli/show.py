"""Numbers, times and lines as people read them on a terminal. Pure.

Text out of payloads (event names, ids, reasons) passes `plain`: it must not be able to steer the terminal.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

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
_ARROWS = {"courier_to_rudderstack": "→ rudderstack", "rudderstack_to_courier": "→ courier"}
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
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


def size(count: float) -> str:
    """Write bytes: `12.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004  the base of these units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float | None) -> str:
    """Write a duration in its two largest units: `3 h 12 m`."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"  # noqa: PLR2004  tenths matter below ten only
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} m {whole % _MINUTE_S} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} m"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def event_line(event: Mapping[str, Any]) -> str:
    """Write one event as a line of columns."""
    told = (
        _local(event["received_at"]),
        f"{event['sequence']:>8}",
        _ARROWS.get(event["route"], event["route"]).ljust(13),
        coloured(event["state"], 9),
        plain(event["event"], 24),
        plain(event["user_id"], 20),
        plain(event["message_id"], 24),
        plain(event["reason"]),
    )
    return "  ".join(told).rstrip()


def flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event as `events --json` prints it."""
    return {key: event[key] for key in EVENT_KEYS}


def status_lines(status: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> Sequence[str]:
    """Write the state of everything; with an `earlier` status also what passed per second since."""
    spool = status["spool"]
    running = f"up {span(status['uptime_s'])}" if status.get("is_running", True) else "not running"
    lines = [
        (
            f"forwarder {status['version']}  {running}  "
            f"spool {size(spool['size_bytes'])} of {size(spool['cap_bytes'])}  SQLite {spool['sqlite_version']}"
        )
    ]
    if not spool["is_accepting"]:
        lines.append(coloured("held") + f"  new events are refused: {plain(spool['refusal'])}")
    before = {route["name"]: route for route in earlier["routes"]} if earlier else {}
    passed_s = status["uptime_s"] - earlier["uptime_s"] if earlier else 0.0
    for route in status["routes"]:
        lines += ["", *_route_lines(route, before.get(route["name"]), passed_s)]
    return lines


def _route_lines(route: Mapping[str, Any], earlier: Mapping[str, Any] | None, passed_s: float) -> list[str]:
    books = route["books"]
    lines = [f"{click.style(route['name'], bold=True)}  {coloured(route['state'])}{_rates(route, earlier, passed_s)}"]
    lines += [
        f"  {coloured(stop['state'])}  {stop['scope']}: {plain(stop['reason'])}  (since {_local(stop['since'])})"
        for stop in route["stops"]
    ]
    if not books:
        return lines
    balance = "" if books["is_balanced"] else click.style("  THE BOOKS DO NOT BALANCE", fg="red")
    lines.append(
        f"  waiting {books['pending']} (oldest {span(route['oldest_age_s'])}, {route['retrying']} on a retry)  "
        f"in flight {route['in_flight']} of {route['concurrency_limit']}"
    )
    lines.append(
        f"  accepted {books['accepted']} = delivered {books['delivered']} + filtered {books['filtered']} "
        f"+ unmapped {books['unmapped']} + dead {books['dead']} + waiting {books['pending']}{balance}"
    )
    return lines


def _rates(route: Mapping[str, Any], earlier: Mapping[str, Any] | None, passed_s: float) -> str:
    if not earlier or not earlier["books"] or not route["books"] or passed_s <= 0:
        return ""
    came = (route["books"]["accepted"] - earlier["books"]["accepted"]) / passed_s
    went = (route["books"]["delivered"] - earlier["books"]["delivered"]) / passed_s
    return f"  in {came:.1f}/s  out {went:.1f}/s"


def _local(moment: str | None) -> str:
    """Write a moment in UTC without what a person does not need; "-" when there is none."""
    if moment is None:
        return "-"
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
