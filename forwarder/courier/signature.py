"""Does this `courier-signature` header prove this body?

    courier-signature: t=1631816343012,signature=33777cda…

`signature` is the hex HMAC-SHA256 of `t`, a dot and the raw body, keyed with the webhook's secret
(Courier's documentation, "Outbound webhooks"; its prose forgets the dot, its code has it). Pure: time,
secrets and bytes come in. What is answered is decided elsewhere.
"""

import re
from binascii import unhexlify
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest

import msgspec

# Every part is compared with every secret, so a long header must not buy a lot of hashing.
SIGNATURES_MAX = 8
# Both clocks may be a little wrong; a signature from further ahead was not made by Courier just now.
CLOCK_SKEW_MAX_S = 300

# The form that Courier sends; whatever else is allowed is read part by part.
_USUAL = re.compile(rb"t=([0-9]{1,16}),signature=([0-9a-fA-F]{64})")
_TIME = re.compile(rb"[0-9]{1,16}")
_SHA256_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_SECONDS_DIGITS_MAX = 10  # ten digits of seconds last until the year 2286; as milliseconds they end in 1970
_BLOCK_SIZE = 64
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


class Secret:
    """A webhook's secret. The two hash states that each of its HMACs begins with (RFC 2104) are made once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        """Raises `ValueError` for an empty secret, which would prove everybody."""
        if not secret:
            raise ValueError("an empty secret proves nothing")
        key = (secret if len(secret) <= _BLOCK_SIZE else sha256(secret).digest()).ljust(_BLOCK_SIZE, b"\0")
        self._inner = sha256(key.translate(_INNER_PAD))
        self._outer = sha256(key.translate(_OUTER_PAD))

    def hmac(self, prefix: bytes, body: bytes) -> bytes:
        """Return the HMAC-SHA256 of the prefix and the body."""
        inner = self._inner.copy()
        inner.update(prefix)
        inner.update(body)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Signature(msgspec.Struct, frozen=True, gc=False):
    """A header of good form: one time, and one signature or several (Courier rotates its secrets)."""

    time_text: bytes  # as it stood in the header, because this text is what was signed
    digests: tuple[bytes, ...]  # 32 bytes each, at most `SIGNATURES_MAX`

    def matches(self, body: bytes, secrets: Sequence[Secret]) -> bool:
        """Tell whether one of the secrets made one of the signatures over this body.

        The time it takes does not depend on which of them did.
        """
        prefix = self.time_text + b"."
        is_match = False
        for secret in secrets:
            expected = secret.hmac(prefix, body)
            for digest in self.digests:
                is_match |= compare_digest(expected, digest)
        return is_match

    def is_within(self, *, now_ms: int, age_max_s: float) -> bool:
        """Tell whether it was signed at most `age_max_s` ago and not in the future, give or take the clocks.

        Up to ten digits are seconds, more are milliseconds.
        """
        time = int(self.time_text)
        age_ms = now_ms - (time * 1000 if len(self.time_text) <= _SECONDS_DIGITS_MAX else time)
        return -CLOCK_SKEW_MAX_S * 1000 <= age_ms <= age_max_s * 1000


def parse(header: bytes) -> Signature | None:
    """Read the header; None when it is not of the documented form.

    Parts are separated by commas and named exactly `t` and `signature`; others are ignored, and so are
    blanks around a part and signature parts that are no SHA-256 in hex (of either case). Any other
    number of `t` parts than one is malformed.
    """
    if usual := _USUAL.fullmatch(header):
        return Signature(usual[1], (unhexlify(usual[2]),))
    times: list[bytes] = []
    digests: list[bytes] = []
    for part in header.split(b","):
        name, _, value = part.strip(b" \t").partition(b"=")
        if name == b"t":
            times.append(value)
        elif name == b"signature" and len(digests) < SIGNATURES_MAX and _SHA256_HEX.fullmatch(value):
            digests.append(unhexlify(value))
    if len(times) != 1 or not digests or not _TIME.fullmatch(times[0]):
        return None
    return Signature(times[0], tuple(digests))
