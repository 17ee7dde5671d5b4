"""A NATS credentials file: the user's JWT and seed as `nsc` writes them, or a seed alone; signs the server's nonce.

The package `nkeys` is not needed for it: a seed is base32 of two prefix bytes, 32 of an Ed25519 seed and a CRC-16.
https://github.com/nats-io/nkeys, https://docs.nats.io/using-nats/developer/connecting/creds
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey

_BLOCK: Final = re.compile(r"-+BEGIN [^-]+-+\s*(\S+?)\s*-+END [^-]+-+")
_SEED_BYTES: Final = 36
_PUBLIC_OF_USER: Final = 20 << 3  # U


class CredentialsInvalid(ValueError):
    """The file holds no credentials; the text says what is missing and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are. Never shown."""

    key: SigningKey = field(repr=False)
    jwt: str | None = field(repr=False)

    def sign(self, nonce: str) -> bytes:
        """Return the signature as the server wants it."""
        return base64.b64encode(self.key.sign(nonce.encode()).signature)

    def public_key(self) -> str:
        """Return the user's public nkey ("U…"), for a server that knows users by that alone."""
        raw = bytes((_PUBLIC_OF_USER,)) + bytes(self.key.verify_key)
        return base64.b32encode(raw + _checksum(raw)).rstrip(b"=").decode()


def login_of(path: Path) -> Login:
    """Read a credentials file. Raises `CredentialsInvalid` and `OSError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CredentialsInvalid("it is no text") from None
    parts = _BLOCK.findall(text) or text.split()
    seeds = [part for part in parts if part.startswith("SU")]
    if len(seeds) != 1:
        raise CredentialsInvalid("it holds no seed of a user (SU…), or several")
    return Login(_key(seeds[0]), next((part for part in parts if part.count(".") == 2), None))  # noqa: PLR2004 - two dots make a JWT


def _key(seed: str) -> SigningKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except ValueError:  # what is no ASCII raises it itself
        raise CredentialsInvalid("its seed is not whole") from None
    if len(raw) != _SEED_BYTES or _checksum(raw[:-2]) != raw[-2:]:
        raise CredentialsInvalid("its seed is not whole")
    return SigningKey(raw[2:-2])


def _checksum(raw: bytes) -> bytes:
    return binascii.crc_hqx(raw, 0).to_bytes(2, "little")  # CRC-16/XMODEM
