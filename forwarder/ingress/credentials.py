"""Does this request carry one of our keys?

Keys are compared as bytes and in constant time over all of them, so that neither the answer's time nor a character
outside ASCII gives anything away. What is answered is decided elsewhere.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from enum import Enum

_SHA1_HEX = re.compile(rb"[0-9a-f]{40}")


class Credential(Enum):
    """What the presented credential is."""

    PROVED = "proved"
    MISSING = "missing"
    MALFORMED = "malformed"  # not of the form that this header has
    UNKNOWN = "unknown"  # of its form, but none of ours


class KeyRing:
    """The keys that an endpoint takes; several during a rotation. An empty key opens nothing."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys if key)

    def __bool__(self) -> bool:
        """Tell whether there is any key at all."""
        return bool(self._keys)

    def __repr__(self) -> str:
        """Show how many, never which."""
        return f"KeyRing({len(self._keys)} keys)"

    def judge(self, authorization: bytes | None) -> Credential:
        """Judge an `Authorization` header: Bearer, or Basic with the key as user (the password is ignored)."""
        if not authorization:
            return Credential.MISSING
        presented = _presented(authorization)
        if not presented:
            return Credential.MALFORMED
        return Credential.PROVED if self.holds(presented) else Credential.UNKNOWN

    def holds(self, presented: bytes) -> bool:
        """Tell whether this is one of the keys."""
        is_held = False
        for key in self._keys:
            is_held |= hmac.compare_digest(key, presented)
        return is_held

    def proves(self, segment_signature: bytes, signed: bytes) -> bool:
        """Tell whether one of the keys made Segment's `x-signature` (hex HMAC-SHA1) of these bytes."""
        is_proved = False
        for key in self._keys:
            is_proved |= hmac.compare_digest(hmac.digest(key, signed, "sha1").hex().encode(), segment_signature)
        return is_proved


def is_segment_signature(header: bytes) -> bool:
    """Tell whether the header has the form of Segment's `x-signature`: lower-case hex of a SHA-1."""
    return _SHA1_HEX.fullmatch(header) is not None


def _presented(authorization: bytes) -> bytes:
    scheme, _, value = authorization.strip().partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer":
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[0]
            except binascii.Error:
                return b""
        case _:
            return b""
