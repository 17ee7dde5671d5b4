"""Does this `courier-signature` header prove this body?

    courier-signature: t=1631816343012,signature=33777cda…

`signature` is the hex HMAC-SHA256 of `t`, a dot and the raw body, keyed with the webhook's secret
(Courier's documentation, "Outbound webhooks"; its prose forgets the dot, its code has it). Pure: time,
secrets and bytes come in. Deliberately absent: what is answered, and where secrets come from.
"""

import hmac
import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

# Every part is compared with every secret, so a long header must not buy a lot of hashing.
SIGNATURES_MAX = 8
# Both clocks may be a little wrong; a signature from further ahead was not made by Courier just now.
CLOCK_SKEW_MAX_S = 300

# The form that Courier sends; whatever else is allowed is read part by part.
_USUAL = re.compile(r"t=([0-9]{1,16}),signature=([0-9a-fA-F]{64})", re.ASCII)
_TIME = re.compile(r"[0-9]{1,16}", re.ASCII)
_SHA256_HEX = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_SECONDS_DIGITS_MAX = 10  # ten digits of seconds last until the year 2286; as milliseconds they end in 1970


class Proof(Enum):
    """What a header says of a body."""

    PROVED = "proved"
    MISSING = "missing"  # no header: the webhook has no secret in Courier
    MALFORMED = "malformed"  # not of the documented form
    MISMATCH = "mismatch"  # of its form, but made with another secret or for another body
    OUTSIDE_AGE = "outside_age"  # matches, but was signed too long ago, or in the future


class Signature(NamedTuple):
    """A header of good form: one time, and one signature or several (Courier rotates its secrets)."""

    time_text: bytes  # as it stood in the header, because this text is what was signed
    digests: tuple[bytes, ...]  # 32 bytes each, at most `SIGNATURES_MAX`

    @property
    def time_ms(self) -> int:
        """When it was signed. Up to ten digits are seconds, more are milliseconds."""
        time = int(self.time_text)
        return time * 1000 if len(self.time_text) <= _SECONDS_DIGITS_MAX else time

    def matches(self, body: bytes, secrets: Sequence[bytes]) -> bool:
        """Tell whether one of the secrets made one of the signatures over this body.

        The time it takes does not depend on which of them did. An empty secret never matches.
        """
        signed = self.time_text + b"." + body
        is_match = False
        for secret in secrets:
            if not secret:
                continue
            expected = hmac.digest(secret, signed, "sha256")
            for digest in self.digests:
                is_match |= hmac.compare_digest(expected, digest)
        return is_match

    def is_within(self, *, now_ms: int, age_max_s: float) -> bool:
        """Tell whether it was signed at most `age_max_s` ago and not in the future, give or take the clocks."""
        age_ms = now_ms - self.time_ms
        return -CLOCK_SKEW_MAX_S * 1000 <= age_ms <= age_max_s * 1000


def parse(header: str | None) -> Signature | Proof:
    """Read the header; returns `Proof.MISSING` or `Proof.MALFORMED` when there is no signature to judge.

    Parts are separated by commas and named exactly `t` and `signature`; others are ignored, and so are
    blanks around a part and signature parts that are no SHA-256 in hex (of either case). Any other
    number of `t` parts than one is malformed.
    """
    if not header:
        return Proof.MISSING
    if usual := _USUAL.fullmatch(header):
        return Signature(usual[1].encode("ascii"), (bytes.fromhex(usual[2]),))
    times: list[str] = []
    digests: list[bytes] = []
    for part in header.split(","):
        name, _, value = part.strip(" \t").partition("=")
        if name == "t":
            times.append(value)
        elif name == "signature" and len(digests) < SIGNATURES_MAX and _SHA256_HEX.fullmatch(value):
            digests.append(bytes.fromhex(value))
    if len(times) != 1 or not digests or not _TIME.fullmatch(times[0]):
        return Proof.MALFORMED
    return Signature(times[0].encode("ascii"), tuple(digests))


def verify(header: str | None, body: bytes, *, secrets: Sequence[bytes], now_ms: int, age_max_s: float) -> Proof:
    """Judge a header and the raw body as it came over the wire. Never raises, whatever they hold."""
    signature = parse(header)
    if isinstance(signature, Proof):
        return signature
    if not signature.matches(body, secrets):
        return Proof.MISMATCH
    if not signature.is_within(now_ms=now_ms, age_max_s=age_max_s):
        return Proof.OUTSIDE_AGE
    return Proof.PROVED
