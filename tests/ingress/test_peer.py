"""Where a rejected request came from: a network, never an address."""

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.ingress.peer import V2_SIGNATURE, network_of
from forwarder.ingress.shared import ListenerLimits


@pytest.mark.parametrize(
    ("peer", "forwarded", "network"),
    [
        ("203.0.113.7", b"", "203.0.113.0/24"),
        ("2001:db8:1:2::3", b"", "2001:db8:1::/48"),
        ("::ffff:203.0.113.7", b"", "203.0.113.0/24"),
        ("fe80::1%eth0", b"", "fe80::/48"),
        ("8.8.8.8", b"1.2.3.4", "8.8.8.0/24"),
        ("10.0.0.7", b"1.2.3.4", "1.2.3.0/24"),
        ("127.0.0.1", b"9.9.9.9, 1.2.3.4, 10.0.0.2", "1.2.3.0/24"),
        ("127.0.0.1", b"2606:4700::1", "2606:4700::/48"),
        ("10.0.0.7", b"10.0.0.8, secret-word,,\xff", "10.0.0.0/24"),
        ("10.0.0.7", b"1.2.3.4" + b",x" * 100, "10.0.0.0/24"),
        ("", b"1.2.3.4", ""),
        ("/run/socket", b"", ""),
    ],
)
def test_a_sender_is_in_a_network(peer: str, forwarded: bytes, network: str) -> None:
    """A /24 or a /48; what a proxy says counts only where the proxy is on a private network, the nearest first."""
    assert network_of(peer, forwarded) == network


@pytest.mark.parametrize(
    ("preface", "header", "network"),
    [
        (b"", b"", "198.51.100.0/24"),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n", b"", "203.0.113.0/24"),
        (b"PROXY UNKNOWN\r\n", b"", "198.51.100.0/24"),
        (V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([203, 0, 113, 7]) + bytes(8), b"", "203.0.113.0/24"),
        (V2_SIGNATURE + b"\x21\x21\x00\x24" + bytes.fromhex("20010db8" + "0" * 24) + bytes(20), b"", "2001:db8::/48"),
        (V2_SIGNATURE + b"\x20\x00\x00\x00", b"", "198.51.100.0/24"),
        (b"PROXY TCP4 10.0.0.7 192.0.2.1 1 2\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.0/24"),
    ],
)
def test_a_rejection_is_counted_with_its_network(
    connect: Callable[..., Any], preface: bytes, header: bytes, network: str
) -> None:
    """Wherever a request is turned away, its sender's network is counted; the log holds none of it."""
    for ends in ("head", "body", "broken", "lost"):
        _reject(connect, preface, header, network, ends)


def _reject(connect: Callable[..., Any], preface: bytes, header: bytes, network: str, ends: str) -> None:
    client = connect(limits=ListenerLimits(is_proxied=True))
    key = b"" if ends == "head" else b"Authorization: Bearer key-of-the-bus\r\n"
    head = b"POST /events HTTP/1.1\r\nHost: x\r\n" + key + header
    client.send(preface, head + (b"Host: y\r\n\r\n" if ends == "broken" else b"Content-Length: 3\r\n\r\n{"))
    if ends == "body":
        client.send(b"}}")
    client.hang_up()
    counted = client.house.metrics.rejected_from
    if ends == "broken":  # the head was not read to its end, but for who connected
        network = network if not header else "10.0.0.0/24"
    assert list(counted.values()) == [1]
    assert [found for _, _, found in counted] == [network]
    assert network.partition("/")[0] not in client.house.log.getvalue()
