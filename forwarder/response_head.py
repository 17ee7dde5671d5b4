"""The head of an HTTP answer, as strict parsers take it. Pure.

Go's and curl's clients take answers that aiohttp's parser refuses: both length headers (RFC 9112, 6.3: chunked
wins), a length that is said twice, hundreds of headers. Refused, a destination's "yes" would never be heard and
its events be sent again and again.
"""

import re
from typing import Final

HEAD_BYTES_MAX: Final = 1_048_576  # curl takes 300 KB, Go 10 MB
_BEGINNING: Final = b"HTTP/"
_FIELDS_MAX: Final = 100  # aiohttp takes 128
_LENGTHS: Final = re.compile(rb"\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)
_END: Final = re.compile(rb"\n\r?\n")


def may_be_http(received: bytes | bytearray) -> bool:
    """Tell whether this may be the beginning of an answer: what is not needs no end to be told as such."""
    begun = received.lstrip(b"\r\n")[: len(_BEGINNING)]
    return begun == _BEGINNING[: len(begun)]


def end_of(received: bytes | bytearray) -> int:
    """Return how many bytes the head takes, its empty line included; 0 while it is not complete."""
    found = _END.search(received)
    return found.end() if found else 0


def is_interim(head: bytes) -> bool:
    """Tell whether another head follows this one: a status of 1xx that is no switch of protocols."""
    return head[8:10] == b" 1" and head[9:12] != b"101"


def mended(head: bytes) -> bytes:
    """Return the head without what only a strict parser minds; lengths that contradict each other are left."""
    if head.count(b"\n") <= _FIELDS_MAX and len(_LENGTHS.findall(head)) <= 1 and b"," not in _length_of(head):
        return head
    status, *lines = head.rstrip(b"\r\n").splitlines()
    fields = [(line.partition(b":")[0].strip().lower(), line) for line in lines]
    codings = [line for name, line in fields if name == b"transfer-encoding" and b"chunked" in line.lower()]
    lengths = {
        length.strip()
        for name, line in fields
        if name == b"content-length"
        for length in line.partition(b":")[2].split(b",")
    }
    if len(lengths) > 1 and not codings:
        return head
    framing = codings[:1] or [b"Content-Length: " + length for length in lengths]
    others = [line for name, line in fields if name not in {b"content-length", b"transfer-encoding"}]
    return b"\r\n".join([status, *framing, *others[:_FIELDS_MAX], b"", b""])


def _length_of(head: bytes) -> bytes:
    found = _LENGTHS.search(head)
    return head[found.end() : head.find(b"\n", found.end())] if found else b""
