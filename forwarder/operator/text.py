"""How numbers, times and foreign text read on the page, and in a spreadsheet, and how people write bounds. Pure.

Everything a stranger wrote may hold characters that hide or reorder what is read; they are made visible here.
Deliberately absent: HTML escaping, which the template engine does to whatever it prints.
"""

import csv
import io
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from forwarder.model import RouteName

ROUTE_LABELS: Final = {
    RouteName.COURIER_TO_RUDDERSTACK: "Courier → RudderStack",
    RouteName.RUDDERSTACK_TO_COURIER: "RudderStack → Courier",
}
_ANY_MAX: Final = 2**31
_BOUNDS: Final = re.compile(r"(?P<low>\d{1,6})?(?P<dots>\.\.)?(?P<high>\d{1,6})?|(?P<hundred>[1-5])xx", re.ASCII)
_BOUNDS_FORMS: Final = {
    "status": "503, 5xx, 400..499 or none",
    "attempts": "1, 3.. (at least), ..5 (at most) or 2..5",
}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_KEPT: Final = frozenset("\n\t")
# Directional marks and overrides, zero-width space, joiner of words, byte order mark: seen by nobody, and they lie.
_HIDDEN: Final = frozenset(
    map(chr, (0x00AD, 0x061C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF))
)
_DEL: Final = 0x7F
_C1_END: Final = 0xA0
_SURROGATES: Final = range(0xD800, 0xE000)
_TAGS: Final = range(0xE0000, 0xE0080)
_BYTES_STEP: Final = 1024
_THOUSAND: Final = 1000
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_STEPS: Final = ((_DAY_S, _HOUR_S, "d", "h"), (_HOUR_S, _MINUTE_S, "h", "min"), (_MINUTE_S, 1, "min", "s"))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TEN: Final = 10
_HUNDRED: Final = 100


def visible(text: str) -> str:
    """Return the text with every control, directional and unpaired character told instead of obeyed."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_seen(char) else _told(char) for char in text)


def number(value: float) -> str:
    """Write a count with its thousands apart."""
    return f"{value:,.0f}"


def plural(count: float, one: str, many: str = "") -> str:
    """Write a count with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def rate(value: float) -> str:
    """Write events per second: exact when few, rounded when many."""
    if value >= _HUNDRED:
        return number(round(value))
    return f"{value:.1f}" if value else "0"


def size(value: float) -> str:
    """Write bytes with a unit that people can read."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _BYTES_STEP:
            return f"{value:.0f} {unit}" if unit == "B" or value >= _HUNDRED else f"{value:.1f} {unit}"
        value /= _BYTES_STEP
    return f"{value:.1f} TiB"


def span(seconds: float | None) -> str:
    """Write a length of time with at most two units; "—" for none."""
    if seconds is None:
        return "—"
    if seconds < _TEN:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * _THOUSAND:.0f} ms"
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    large, small, unit, sub = next(step for step in _STEPS if whole >= step[0])
    return f"{whole // large} {unit} {whole % large // small} {sub}"


def ago(at_ms: int, *, now_ms: int) -> str:
    """Write how long ago a moment was, or how soon it will be."""
    distance_s = (now_ms - at_ms) / _THOUSAND
    if abs(distance_s) < 1:
        return "now"
    whole = abs(distance_s)
    near = f"{int(whole)} s" if whole < _MINUTE_S else _coarse(int(whole))
    return f"{near} ago" if distance_s > 0 else f"in {near}"


def moment(at_ms: int | None) -> str | None:
    """Write a time for programs; None stays None, and what no calendar holds is told as None too."""
    if at_ms is None:
        return None
    try:
        at = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(at_ms: int | None) -> str:
    """Write a moment as people read it in a log, in UTC; "—" for none."""
    written = moment(at_ms)
    return written.replace("T", " ").replace("Z", " UTC") if written else "—"


def minute(at_ms: int) -> str:
    """Write a moment beside others of its week, in UTC: day and minute."""
    return f"{_EPOCH + timedelta(milliseconds=at_ms):%a %H:%M} UTC"


def _coarse(whole: int) -> str:
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h"
    return f"{whole // _DAY_S} d"


def _is_seen(char: str) -> bool:
    code = ord(char)
    if code < ord(" "):
        return char in _KEPT
    if _DEL <= code < _C1_END or code in _SURROGATES or code in _TAGS:
        return False
    return char not in _HIDDEN


def _told(char: str) -> str:
    return f"⟨U+{ord(char):04X}⟩"


def csv_row(cells: Iterable[object]) -> bytes:
    """Write one line (RFC 4180). What a spreadsheet would take for a formula is made text (OWASP, CSV injection)."""
    texts = ["" if cell is None else str(cell) for cell in cells]
    line = io.StringIO()
    csv.writer(line).writerow([f"'{text}" if text.startswith(_FORMULA) else text for text in texts])
    return line.getvalue().encode("utf-8", "replace")


def bounds(name: str, text: str | None) -> tuple[int, int] | None:
    """Read a `status` or `attempts`: `503`, `5xx`, `3..`, `..5` or `2..5`: at least and at most; None for no text.

    A status may be `none`, which is 0. Raises `ValueError` with what to write.
    """
    if text is None:
        return None
    if (name, text) == ("status", "none"):
        return 0, 0
    read = _BOUNDS.fullmatch(text)
    if read is None or not any(read.groups()) or (read["dots"] and not read["low"] and not read["high"]):
        raise ValueError(f"{name} is no number: use {_BOUNDS_FORMS[name]}")
    if read["hundred"]:
        return int(read["hundred"]) * 100, int(read["hundred"]) * 100 + 99
    low, high = int(read["low"] or 0), int(read["high"] or _ANY_MAX)
    return (low, high) if read["dots"] else (low, low)
