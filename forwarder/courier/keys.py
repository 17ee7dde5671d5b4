"""One short digest out of several parts, such that different parts never give the same digest.

What the parts are is decided where the event is read; this file only keeps them apart.
"""

from hashlib import blake2b
from typing import Any

import msgspec

DIGEST_SIZE = 16

_encode = msgspec.json.Encoder(order="deterministic").encode


def digest(*parts: Any) -> bytes:
    """Return 16 bytes that depend on every part, its type and its place.

    A part is any decoded JSON value. Objects count without regard to the order of their keys; `1`,
    `1.0` and `"1"` are three different values, and integers of any size stay exact. JSON's own
    quotes and commas keep the parts apart: `("ab", "c")` is not `("a", "bc")`.
    """
    return blake2b(_encode(parts), digest_size=DIGEST_SIZE).digest()


def digest_of_bytes(content: bytes) -> bytes:
    """Return 16 bytes for content that is no JSON; they are never those of `digest`."""
    return blake2b(content, digest_size=DIGEST_SIZE, person=b"opaque").digest()
