"""One short digest out of several parts, such that different parts never give the same digest.

What the parts are is decided where the event is read; this file only keeps them apart.
"""

from hashlib import blake2b
from typing import Any

import msgspec

DIGEST_SIZE = 16

_canonical = msgspec.json.Encoder(order="deterministic")


def digest(*parts: Any) -> bytes:
    """Return 16 bytes that depend on every part, its type and its place.

    A part is text, bytes, None or any decoded JSON value. Objects count without regard to the
    order of their keys; `1`, `1.0` and `"1"` are three different values, and integers of any
    size stay exact.
    """
    pieces = [_piece(part) for part in parts]
    # Each piece is announced with its length, or ("ab", "c") would equal ("a", "bc").
    return blake2b(b"".join([b"%d:%b" % (len(piece), piece) for piece in pieces]), digest_size=DIGEST_SIZE).digest()


def _piece(part: Any) -> bytes:
    if isinstance(part, str):
        return b"s" + part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"b" + part
    return b"j" + _canonical.encode(part)
