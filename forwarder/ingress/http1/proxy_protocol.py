"""The header that a proxy puts before a connection's first byte: PROXY protocol, versions 1 and 2.

Source: HAProxy's proxy-protocol.txt. Nothing here needs the client's address, so the header is only taken off. For the
same reason a connection without one is served, too: the address could be forged, and health checks of the machine
itself send none.
"""

from forwarder.errors import ForwarderError

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_PREFIX = b"PROXY "
_V1_BYTES_MAX = 107  # of the whole line, by the specification
_V2_HEAD_BYTES = 16
_V2_VERSION = 2


class NotProxyProtocol(ForwarderError):
    """The connection begins like a PROXY protocol header and goes on as none."""


def begins(data: bytes) -> bool:
    """Tell whether a connection's first bytes are, or may become, such a header."""
    return any(data.startswith(one) or one.startswith(data) for one in (V1_PREFIX, V2_SIGNATURE))


def length_of(data: bytes) -> int | None:
    """Return how many bytes the header is long, 0 when there is none, None while it is not whole.

    Raises `NotProxyProtocol`. The header is at most 65,551 bytes long.
    """
    if not data or not begins(data):
        return 0 if data else None
    if data.startswith(V1_PREFIX):
        end = data.find(b"\r\n", 0, _V1_BYTES_MAX)
        if end < 0 and len(data) >= _V1_BYTES_MAX:
            raise NotProxyProtocol
        return None if end < 0 else end + 2
    if len(data) < _V2_HEAD_BYTES:
        return None
    if data[12] >> 4 != _V2_VERSION:
        raise NotProxyProtocol
    size = _V2_HEAD_BYTES + int.from_bytes(data[14:16], "big")
    return size if len(data) >= size else None
