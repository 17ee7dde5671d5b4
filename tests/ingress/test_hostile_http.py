"""What no honest client sends: a corpus of requests that two parsers may read in two ways, and what they are told."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from forwarder.ingress.peer import V2_SIGNATURE
from forwarder.ingress.shared import ListenerLimits

Connect = Callable[..., Any]

KEY = b"Authorization: Bearer key-of-the-bus\r\n"
EVENT = b'{"type":"message:updated","data":{"id":"1-a","status":"SENT"}}'
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def head(*headers: bytes, path: bytes = b"/events", version: bytes = b"1.1") -> bytes:
    """Write the head of a POST of somebody who is known."""
    lines = [b"POST %b HTTP/%b" % (path, version), b"Host: x", KEY.strip(), *headers]
    return b"\r\n".join([*lines, b"", b""])


def chunked(*chunks: bytes) -> bytes:
    """Write a request with a chunked body."""
    return head(b"Transfer-Encoding: chunked") + b"".join(chunks)


def statuses(answers: bytes) -> list[int]:
    """Return the statuses of what was answered; every answer is whole and of good form."""
    found = []
    while answers:
        first, _, answers = answers.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 "), first
        status = int(first[9:12])
        found.append(status)
        length = re.search(rb"\r\nContent-Length: (\d+)(?:\r|$)", first)
        assert (length is None) is (status in (100, 204)), first
        answers = answers[int(length[1]) if length else 0 :]
    return found


LENGTHS = {
    "both lengths": head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "both lengths, the other way": head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
    "two lengths": head(b"Content-Length: 0", b"Content-Length: 35"),
    "two equal lengths": head(b"Content-Length: 0", b"content-length: 0"),
    "a list of lengths": head(b"Content-Length: 0, 0"),
    "a signed length": head(b"Content-Length: +0"),
    "a negative length": head(b"Content-Length: -1"),
    "a length in hex": head(b"Content-Length: 0x0"),
    "an empty length": head(b"Content-Length: "),
    "a length with a blank": head(b"Content-Length: 3 5"),
    "a length beyond 64 bits": head(b"Content-Length: 99999999999999999999"),
    "a length in other digits": head("Content-Length: ٣".encode()),
    "a blank before the colon": head(b"Content-Length : 35"),
    "a tab before the colon": head(b"Content-Length\t: 35"),
}
CODINGS = {
    "not quite chunked": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked not last": head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "chunked behind another": head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked behind another, in two lines": head(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
    "chunked twice": head(b"Transfer-Encoding: chunked", b"transfer-encoding: chunked"),
    "another coding": head(b"Transfer-Encoding: gzip"),
    "no coding": head(b"Transfer-Encoding: identity"),
    "an empty coding": head(b"Transfer-Encoding: ") + b"0\r\n\r\n",
    "a coding behind a control": head(b"Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n",
    "a coding with NUL": head(b"Transfer-Encoding: chunked\x00") + b"0\r\n\r\n",
    "chunked in HTTP/1.0": head(b"Transfer-Encoding: chunked", version=b"1.0") + b"0\r\n\r\n",
}
LINES = {
    "a folded header": head(b"X: a", b" b"),
    "a fold before the first header": b"POST /events HTTP/1.1\r\n Host: x\r\n\r\n",
    "a bare LF after the request line": b"POST /events HTTP/1.1\nHost: x\r\n\r\n",
    "a bare LF after a header": b"POST /events HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "a bare LF at the end": b"POST /events HTTP/1.1\r\nHost: x\r\n\n",
    "a bare CR in a header": head(b"X: a\rb"),
    "NUL in a header": head(b"X: a\x00b"),
    "a control in a header": head(b"X: a\x01b"),
    "a header without a name": head(b": a"),
    "a header without a colon": head(b"secret-word"),
    "a header's name outside ASCII": head("é: x".encode()),
    "two hosts": head(b"Host: y"),
    "another version": head(version=b"1.2"),
    "a version of two digits": head(version=b"1.11"),
    "HTTP/2": head(version=b"2.0"),
    "HTTP/0.9": b"POST /events\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method in small letters": b"post /events HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"SECRETWORD /events HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target without a slash": b"POST events HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target outside ASCII": b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with NUL": b"POST /events\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP at all": b"GARBAGE secret-word\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03secret-word",
    "SSH": b"SSH-2.0-secret-word\r\n",
}
CHUNKS = {
    "a chunk's size with a sign": chunked(b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk's size with 0x": chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "a chunk's size in words": chunked(b"ZZ\r\n{}\r\n0\r\n\r\n"),
    "a chunk's size beyond 64 bits": chunked(b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "a blank behind a chunk's size": chunked(b"2 \r\n{}\r\n0\r\n\r\n"),
    "a bare LF behind a chunk's size": chunked(b"2\n{}\r\n0\r\n\r\n"),
    "a bare LF behind a chunk": chunked(b"2\r\n{}\n0\r\n\r\n"),
    "nothing behind a chunk": chunked(b"2\r\n{}0\r\n\r\n"),
    "a chunk longer than it says": chunked(b"1\r\n{}\r\n0\r\n\r\n"),
    "a line break in a chunk's extension": chunked(b'2;a="\n"\r\n{}\r\n0\r\n\r\n'),
    "a length among the trailers": chunked(b"2\r\n{}\r\n0\r\nContent-Length: 4\r\n\r\n"),
    "a coding among the trailers": chunked(b"2\r\n{}\r\n0\r\nTransfer-Encoding: x\r\n\r\n"),
    "a folded trailer": chunked(b"2\r\n{}\r\n0\r\nX: a\r\n b\r\n\r\n"),
}
CORPUS = {
    **{name: (raw, 400, "not_http") for name, raw in (LENGTHS | CODINGS | LINES).items()},
    **{name: (raw, 503, "body_broken") for name, raw in CHUNKS.items()},
    "257 headers": (head(*[b"X-%d: y" % number for number in range(255)]), 431, "head_too_large"),
    "a header 257 times": (head(*[b"X: y"] * 255), 431, "head_too_large"),
    "a head above 64 KiB": (head(b"Cookie: " + b"x" * 66_000), 431, "head_too_large"),
    "a target above 64 KiB": (head(path=b"/events?" + b"x" * 66_000), 431, "head_too_large"),
    "an endless header": (b"POST /events HTTP/1.1\r\nX: " + b"x" * 400_000, 431, "head_too_large"),
    "another protocol and broken chunks": (
        head(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked") + b"ZZ\r\n",
        503,
        "body_broken",
    ),
    "an endless trailer": (chunked(b"2\r\n{}\r\n0\r\n", b"X: ", b"x" * 400_000), 503, "body_broken"),
    "PROXY protocol that is off": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head(), 503, "proxy_protocol"),
    "its binary form": (V2_SIGNATURE + b"\x20\x00\x00\x00" + head(), 503, "proxy_protocol"),
}


MANY = [b"X-%d: y" % number for number in range(252)]
COOKIE = b"Cookie: " + b"x" * 65_000
UPGRADE = head(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2") + b"[]"
CHUNKED = b"2\r\n[]\r\n0\r\n\r\n"


def pieces(raw: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of one size."""
    return [raw[start : start + size] for start in range(0, len(raw), size)]


SIZES = (1_000_000, 7_919, 64, 1)


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_request_is_answered_once_and_nothing_is_smuggled(connect: Connect, name: str) -> None:
    """However it is cut on its way it gets one answer that quotes nothing, and what stands behind it none."""
    raw, status, reason = CORPUS[name]
    for size in SIZES:
        client = connect()
        answers = client.send(*pieces(raw + SMUGGLED, size if len(raw) < 10_000 else max(size, 500)))
        assert statuses(answers) == [status]
        assert [found for _, found in client.house.rejections()] == [reason]
        assert b"Connection: close\r\n" in answers
        assert (b"Retry-After" in answers) is (status == 503)
        assert b"secret-word" not in answers + client.house.log.getvalue().encode()
        assert '"error"' not in client.house.log.getvalue()
        client.hang_up()
        assert (client.shared.held_bytes, client.shared.in_flight, client.house.spool.appends) == (0, 0, 0)


@pytest.mark.parametrize("path", [b"/webhooks/courier", b"/inbound/rudderstack", b"/inbound/segment/?x=1"])
@pytest.mark.parametrize("name", ["both lengths", "a folded header", "257 headers", "a head above 64 KiB"])
def test_vendors_are_asked_to_come_back(connect: Connect, path: bytes, name: str) -> None:
    """What a proxy in front may have done to a vendor's request does not make the vendor give up."""
    raw = CORPUS[name][0].replace(b"/events", path)
    answers = connect().send(raw)
    assert statuses(answers) == [429]
    assert b"Retry-After" in answers


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(
            head(*[b"X-%d: y" % n for n in range(252)], b"Content-Length: 2") + b"[]", [200, 200], id="256 headers"
        ),
        pytest.param(
            head(b"Cookie: " + b"x" * 65_000, b"Content-Length: 2") + b"[]", [200, 200], id="a head of 64 KiB"
        ),
        pytest.param(b"\r\n\r\n" + head(b"Content-Length: 2") + b"[]", [200, 200], id="empty lines in front"),
        pytest.param(head(b"Content-Length:2\t ") + b"[]", [200, 200], id="blanks around a value"),
        pytest.param(chunked(b'2;a="b";c\r\n[]\r\n0\r\nX: y\r\n\r\n'), [200, 200], id="extensions and trailers"),
        pytest.param(b"GET /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", [200, 200], id="a body nobody asked for"),
        pytest.param(b"POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", [405, 200], id="a refusal with its body"),
        pytest.param(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", [404], id="a tunnel"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404, 200], id="the server itself"),
        pytest.param(head(b"Connection: close", b"Content-Length: 2") + b"[]", [200], id="nothing behind a close"),
        pytest.param(head(b"Content-Length: 2", version=b"1.0") + b"[]", [200], id="HTTP/1.0"),
        pytest.param(
            head(b"Content-Length: 2", b"Connection: keep-alive", version=b"1.0") + b"[]", [200, 200], id="1.0, kept"
        ),
        pytest.param(
            head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 2") + b"[]",
            [200, 200],
            id="Java's clients offer HTTP/2",
        ),
        pytest.param(
            head(b"Connection: Upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked")
            + b"2\r\n[]\r\n0\r\n\r\n",
            [200, 200],
            id="another protocol, chunked",
        ),
        pytest.param(UPGRADE + UPGRADE, [200, 200, 200], id="another protocol twice"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [200, 200], id="another, no body"
        ),
    ],
)
def test_odd_but_good_requests_are_served(connect: Connect, raw: bytes, expected: list[int]) -> None:
    """What is unusual and can be read in one way only is served, and so is what comes behind it."""
    for size in (1_000_000, 1):
        client = connect()
        found = statuses(client.send(*pieces(raw + SMUGGLED, size if len(raw) < 10_000 else 1_000)))
        # What is answered before its body has come ends the connection.
        assert found == (expected[: len(found)] if size == 1 else expected)
        assert found
        client.hang_up()
        assert (client.shared.held_bytes, client.shared.in_flight) == (0, 0)


@pytest.mark.parametrize(
    "preface",
    [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 8080\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 8080\r\n",
        b"PROXY UNKNOWN\r\n",
        V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12),
        V2_SIGNATURE + b"\x21\x21\x00\x27" + bytes(39),
        V2_SIGNATURE + b"\x20\x00\x00\x00",
        b"",
    ],
)
def test_proxy_protocol_is_taken_off(connect: Connect, preface: bytes) -> None:
    """Where it is expected, a connection may begin with it in either version; the machine's own probes do not."""
    raw = preface + SMUGGLED + head(b"Content-Length: 2") + b"[]"
    for size in (1_000_000, 1):
        client = connect(limits=ListenerLimits(is_proxied=True))
        assert statuses(client.send(*pieces(raw, size))) == [200, 200]


@pytest.mark.parametrize(
    "preface",
    [
        b"PROXY " + b"x" * 200,
        V2_SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        V2_SIGNATURE + b"\x21\x11\xff\xff",
        b"PROXY TCP4\r\nPROXY TCP4\r\n",
    ],
)
def test_what_is_not_quite_proxy_protocol_is_turned_away(connect: Connect, preface: bytes) -> None:
    """A header that is none, or two of them, end the connection with a 4xx or 503 and nothing behind them is read."""
    client = connect(limits=ListenerLimits(is_proxied=True))
    assert statuses(client.send(preface + SMUGGLED))[0] in (400, 503)
    assert b"200" not in client.received[:12]
