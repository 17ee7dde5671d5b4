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
_V2_BYTES_MAX = 4_096  # of everything after the head; addresses and the usual extensions take a few hundred


class NotProxyProtocol(ForwarderError):
    """The connection begins like a PROXY protocol header and goes on as none, or one is not expected."""


def length_of(data: bytes, *, is_expected: bool) -> int | None:
    """Return how many bytes the header is long, 0 when there is none, None while that cannot be told.

    Raises `NotProxyProtocol`.
    """
    is_v1, is_v2 = data.startswith(V1_PREFIX), data.startswith(V2_SIGNATURE)
    if not (is_v1 or is_v2):
        return None if V1_PREFIX.startswith(data) or V2_SIGNATURE.startswith(data) else 0
    if not is_expected:
        raise NotProxyProtocol("it is spoken to this listener; set FORWARDER_PROXY_PROTOCOL=true")
    return _length_of_v1(data) if is_v1 else _length_of_v2(data)


def _length_of_v1(data: bytes) -> int | None:
    end = data.find(b"\r\n", 0, _V1_BYTES_MAX)
    if end < 0 and len(data) >= _V1_BYTES_MAX:
        raise NotProxyProtocol("its line does not end")
    return None if end < 0 else end + 2


def _length_of_v2(data: bytes) -> int | None:
    if len(data) < _V2_HEAD_BYTES:
        return None
    size = int.from_bytes(data[14:16], "big")
    if data[12] >> 4 != _V2_VERSION or size > _V2_BYTES_MAX:
        raise NotProxyProtocol("its header is not as the protocol has it")
    return _V2_HEAD_BYTES + size if len(data) >= _V2_HEAD_BYTES + size else None
