"""Any bytes, cut anywhere: the same answers, in the order of the requests, and nothing is left behind."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.ingress.shared import ListenerLimits

Connect = Callable[..., Any]

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines_of(number: int, kind: int) -> bytes:
    """Return so many events of their own, so that each answer can be told from the others."""
    return b"\n".join(b'{"id":"%d-%d-%d"}' % (kind, number, line) for line in range(number))


def posted(number: int, *, is_chunked: bool) -> bytes:
    """Return a request with so many events."""
    body = lines_of(number, int(is_chunked))
    head = b"POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-of-the-bus\r\n"
    head += b"Content-Type: application/x-ndjson\r\n"
    if not is_chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:3], body[3:]) if part)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def asked(path: bytes) -> bytes:
    """Return a request without a body."""
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path


def gist(answers: bytes) -> list[bytes]:
    """Return status and body of every answer: what does not depend on the time."""
    return re.findall(rb"HTTP/1\.1 (\d{3} )[^\r]*\r\n(?:[^\r]+\r\n)*\r\n(\{[^}]*\})?", answers)


GOOD = st.builds(posted, st.integers(1, 9), is_chunked=st.booleans())
PLAIN = st.sampled_from([b"/livez", b"/readyz", b"/nowhere", b"/events"]).map(asked)
PIPELINES = st.lists(GOOD | PLAIN, min_size=1, max_size=8, unique=True).map(b"".join)
CUTS = st.lists(st.integers(0, 4_000), max_size=12)


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    places = [0, *sorted(place % (len(raw) + 1) for place in cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(places)]


@quick
@given(raw=PIPELINES, cuts=CUTS, order=st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_answers_come_in_order_however_a_pipeline_is_cut(
    connect: Connect, raw: bytes, cuts: list[int], order: list[int]
) -> None:
    """Neither where the requests are cut nor which is on disk first changes what is answered, and in which order."""
    expected = gist(connect().send(raw))
    client = connect()
    spool = client.house.spool
    spool.holds = True
    for number, part in enumerate(cut(raw, cuts)):
        client.send(part)
        if spool.waiting and number % 2:
            spool.commit(order[number % 8])
    for index in order:
        if spool.waiting:
            spool.commit(index)
    assert gist(bytes(client.received)) == expected
    assert (client.shared.held_bytes, client.shared.in_flight) == (0, 0)
    assert client.connection in client.shared.idle


TOKENS = st.sampled_from(
    [
        b"GET ", b"POST ", b"/events", b"/v1/track", b"/webhooks/courier", b" HTTP/1.1", b" HTTP/1.0", b"\r\n",
        b"\r\n\r\n", b"Host: x", b"Content-Length: 2", b"Content-Length: 70000",
        b"Transfer-Encoding: chunked", b"Connection: close",
        b"Connection: upgrade", b"Upgrade: h2c", b"Expect: 100-continue", b"Authorization: Bearer key-of-the-bus",
        b"courier-signature: t=1,signature=" + b"0" * 64, b"{}", b"2\r\n{}\r\n", b"0\r\n\r\n", b"PROXY ", b"\n", b"\0",
        b"x" * 5_000, b"Content-Encoding: gzip", b"?writeKey=key-of-the-source", asked(b"/livez"),
    ]
)  # fmt: skip


@quick
@given(parts=st.lists(TOKENS | st.binary(max_size=20), max_size=40), ends=st.sampled_from(["lost", "eof", "expired"]))
def test_any_bytes_leave_nothing_behind(connect: Connect, parts: list[bytes], ends: str) -> None:
    """Whatever is sent and however it ends, no error escapes, nothing is held, and every answer has a known status."""
    client = connect(limits=ListenerLimits(is_proxied=len(parts) % 2 == 0, head_bytes_max=9_000, held_bytes_max=90_000))
    client.send(*parts)
    if ends == "eof" and not client.is_closed:
        client.connection.eof_received()
    if ends == "expired" and not client.is_closed:
        client.connection.expire()
    client.hang_up()
    known = {b"100", b"200", b"202", b"204", b"400", b"401", b"404", b"405", b"413", b"415", b"429", b"431", b"503"}
    assert set(re.findall(rb"HTTP/1\.1 (\d{3}) ", bytes(client.received))) <= known
    assert (client.shared.held_bytes, client.shared.in_flight) == (0, 0)
    assert not client.shared.connections | client.shared.idle.keys() | client.shared.reading.keys()
    assert "request.crashed" not in client.house.log.getvalue()


@quick
@given(raw=st.binary(max_size=300), cuts=CUTS)
def test_any_bytes_are_answered_the_same_however_they_are_cut(connect: Connect, raw: bytes, cuts: list[int]) -> None:
    """What is no HTTP is told so once, at whatever byte that is noticed."""
    assert gist(connect().send(raw)) == gist(connect().send(*cut(raw, cuts)))
