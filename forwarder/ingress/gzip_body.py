"""Unpack a gzip body up to a limit of bytes.

The ratio has none: real batches of like events pass 100:1, and the limit bounds the memory. Other encodings are not
taken; senders of events use gzip or nothing.
"""

import zlib

from forwarder.errors import ForwarderError

# gzip allows several members in a row. No sender makes many, and each one costs a copy of the rest.
MEMBERS_MAX = 64
_GZIP = 16 + zlib.MAX_WBITS


class CorruptGzip(ForwarderError):
    """The body says that it is gzip and is not, is cut off, or is followed by something else."""


class TooLarge(ForwarderError):
    """The body unpacks to more than the limit."""


def gunzip(packed: bytes, *, bytes_max: int) -> bytes:
    """Return the unpacked body; raises `CorruptGzip` or `TooLarge`.

    At most one byte more than the limit is ever unpacked. Members in a row count as one body, and
    zero bytes after the last one are padding.
    """
    parts: list[bytes] = []
    size, rest = 0, packed
    for _ in range(MEMBERS_MAX):
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            part = member.decompress(rest, bytes_max - size + 1)
        except zlib.error:
            raise CorruptGzip("the body is no gzip") from None
        size += len(part)
        if size > bytes_max:
            raise TooLarge("the body unpacks to more than the limit")
        if not member.eof:
            raise CorruptGzip("the gzip body is cut off")
        parts.append(part)
        rest = member.unused_data
        if not rest.strip(b"\0"):
            return b"".join(parts)
    raise CorruptGzip("the gzip body has too many members")
