"""Payloads as people read them: indented where they are JSON, as they are where not, and never too much of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Final

import msgspec

from forwarder.nesting import is_too_deep

SHOWN_MAX: Final = 65_536  # characters; the rest is a download away
_INDENTED_MAX: Final = 262_144  # bytes
_DEPTH_MAX: Final = 32  # deeper than any real event; indenting grows with the depth times the size
_WORDS_IN: Final = ("message", "error", "error_description", "detail", "errors")
_WORDS_MAX: Final = 300  # characters
_COMPARED_LINES_MAX: Final = 2_000  # comparing takes its time, the square of it at worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """Text to show. `is_cut`: there is more of it than is shown."""

    text: str
    is_cut: bool
    size_bytes: int


def readable(raw: bytes, *, shown_max: int = SHOWN_MAX) -> Readable:
    """Return what to show of these bytes, whatever they are."""
    text = _indented(raw).decode(errors="replace")
    return Readable(text=text[:shown_max], is_cut=len(text) > shown_max, size_bytes=len(raw))


def words_of(answer: bytes) -> str:
    """Return a destination's own words out of its answer: the message of a JSON error, else the text; "" for a page."""
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        found = answer.decode(errors="replace")
    while isinstance(found, dict | list):
        inner = [found.get(name) for name in _WORDS_IN] if isinstance(found, dict) else found[:1]
        found = next((one for one in inner if one), "")
    text = " ".join(str(found or "").split())
    return "" if text.startswith("<") else text[:_WORDS_MAX]


def difference(before: bytes, after: bytes) -> Sequence[tuple[str, str]] | None:
    """Return what changed as lines: a sign (`+`, `-`, blank, `@`) and the text; None for what is too long for it."""
    old, new = (_indented(raw).decode(errors="replace").splitlines() for raw in (before, after))
    if len(old) + len(new) > _COMPARED_LINES_MAX or max(len(before), len(after)) > _INDENTED_MAX:
        return None
    return [(line[0], line[1:]) for line in list(unified_diff(old, new, lineterm=""))[2:]]


def _indented(raw: bytes) -> bytes:
    if len(raw) > _INDENTED_MAX or is_too_deep(raw, levels_max=_DEPTH_MAX):
        return raw
    try:
        return msgspec.json.format(raw, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return raw
