"""Payloads as people read them: indented where they are JSON, as they are where not, and never too much of it. Pure."""

from dataclasses import dataclass
from typing import Final

import msgspec

from forwarder.nesting import is_too_deep

SHOWN_MAX: Final = 65_536  # characters; the rest is a download away
_INDENTED_MAX: Final = 262_144  # bytes
_DEPTH_MAX: Final = 32  # deeper than any real event; indenting grows with the depth times the size


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


def _indented(raw: bytes) -> bytes:
    if len(raw) > _INDENTED_MAX or is_too_deep(raw, levels_max=_DEPTH_MAX):
        return raw
    try:
        return msgspec.json.format(raw, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return raw
