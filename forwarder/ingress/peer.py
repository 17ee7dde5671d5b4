"""Where a connection comes from: the header that a proxy puts before its first byte, and the sender's network.

PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt). A connection without one is served, too: health checks
of the machine itself send none. The network is for people who look why somebody is turned away, and opens nothing:
whatever is said here may be forged.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from forwarder.errors import ForwarderError

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_PREFIX = b"PROXY "
_V1_BYTES_MAX = 107  # of the whole line, by the specification
_V1_SOURCE = 2  # its place in the line
_V2_HEAD_BYTES = 16
_V2_VERSION = 2
_V2_BYTES_MAX = 4_096  # of everything after the head; addresses and the usual extensions take a few hundred
_V2_ADDRESS_BYTES = {1: 4, 2: 16}  # by family: IPv4, IPv6
_PREFIX_BITS = {4: 24, 6: 48}
_FORWARDED_MAX = 16  # addresses of a forwarded-for header that are looked at


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


def address_in(header: bytes) -> str:
    """Return the client's address out of a whole PROXY protocol header; "" when it names none."""
    if header.startswith(V1_PREFIX):
        words = header.split()
        return words[_V1_SOURCE].decode("latin-1") if len(words) > _V1_SOURCE else ""
    size = _V2_ADDRESS_BYTES.get(header[13] >> 4) if len(header) > _V2_HEAD_BYTES else None
    return "" if size is None else str(_address(header[_V2_HEAD_BYTES : _V2_HEAD_BYTES + size]) or "")


def network_of(peer: str, forwarded: bytes) -> str:
    """Return the network of a sender, a /24 or a /48, as text; "" when it has no such address.

    `peer` is who connected. A proxy on this machine or in a private network is believed what it says in
    `X-Forwarded-For`: the nearest public address of it.
    """
    address = _address(peer)
    if address is not None and forwarded and not address.is_global:
        said = [_address(part.strip().decode("latin-1")) for part in forwarded.split(b",")[-_FORWARDED_MAX:]]
        address = next((one for one in reversed(said) if one is not None and one.is_global), address)
    return "" if address is None else str(ip_network((address, _PREFIX_BITS[address.version]), strict=False))


def _address(given: str | bytes) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(given.partition("%")[0] if isinstance(given, str) else given)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


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
