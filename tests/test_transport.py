"""One HTTP exchange against real sockets: whole answers, caps, time-outs, and our names for their errors."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses

from forwarder import __version__
from forwarder.clock import SystemClock
from forwarder.errors import NoAnswer
from forwarder.model import HttpRequest
from forwarder.transport import UNREADABLE, AiohttpTransport
from stand_ins.connections import Handler, serving


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    """Return an open transport that retries blips for a moment only."""
    async with AiohttpTransport(clock=SystemClock(), blip_max_s=0.2) as opened:
        yield opened


@asynccontextmanager
async def _serving(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _raw_serving(handler: Handler) -> AsyncIterator[str]:
    async with serving(handler) as port:
        yield f"http://127.0.0.1:{port}"


def _request(url: str, *, method: str = "POST", timeout_s: float = 5.0, answer_bytes_max: int = 1_000) -> HttpRequest:
    return HttpRequest(
        method=method,
        url=url,
        headers={"X-Own": "1"},
        body=b"hello",
        timeout_s=timeout_s,
        answer_bytes_max=answer_bytes_max,
    )


def _unused_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def test_whole_exchange(transport: AiohttpTransport) -> None:
    """Method, body and headers arrive; status, lower-case headers and body come back."""
    seen: list[tuple[str, bytes, str, str]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, await request.read(), request.headers["X-Own"], request.headers["User-Agent"]))
        return web.Response(status=418, text="tea", headers={"X-Pot": "Big"})

    async with _serving(handler) as url:
        response = await transport.exchange(_request(url))
    assert seen == [("POST", b"hello", "1", f"forwarder/{__version__}")]
    assert (response.status, response.body, response.headers["x-pot"]) == (418, b"tea", "Big")
    assert 0 <= response.duration_s < 5


async def test_redirect_is_an_answer(transport: AiohttpTransport) -> None:
    """A redirect is not followed."""
    count = 0

    async def handler(_request: web.BaseRequest) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with _serving(handler) as url:
        response = await transport.exchange(_request(url))
    assert (response.status, response.headers["location"], count) == (302, "/elsewhere", 1)


@pytest.mark.parametrize(("size", "kept"), [(999, 999), (1_000, 1_000), (5_000_000, 1_000)])
async def test_answer_is_capped(transport: AiohttpTransport, size: int, kept: int) -> None:
    """What comes beyond the cap is cut off, and the next exchange is not disturbed by it."""

    async def handler(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * size)

    async with _serving(handler) as url:
        for _ in range(2):
            response = await transport.exchange(_request(url))
            assert len(response.body) == kept


async def test_time_out(transport: AiohttpTransport) -> None:
    """No answer in time: the request left, the outcome is unknown."""

    async def handler(_request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with _serving(handler) as url:
        with pytest.raises(NoAnswer, match=r"^time-out$") as caught:
            await transport.exchange(_request(url, timeout_s=0.1))
    assert caught.value.request_left


async def test_connection_refused_is_retried_briefly(transport: AiohttpTransport) -> None:
    """Nothing listens: the request stayed here, and it was tried more than once within the budget."""
    started = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswer, match=r"^connection refused$") as caught:
        await transport.exchange(_request(f"http://127.0.0.1:{_unused_port()}"))
    assert not caught.value.request_left
    assert asyncio.get_running_loop().time() - started < 1.0


async def test_blip_is_bridged(transport: AiohttpTransport) -> None:
    """A listener that comes up within the budget gets the request."""
    patient = AiohttpTransport(clock=SystemClock(), blip_max_s=2.0)
    port = _unused_port()

    async def handler(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    exchange = asyncio.create_task(patient.exchange(_request(f"http://127.0.0.1:{port}")))
    await asyncio.sleep(0.05)  # the first try has been refused
    await web.TCPSite(runner, "127.0.0.1", port).start()
    assert (await exchange).body == b"ok"
    await patient.close()
    await patient.close()
    await runner.cleanup()
    del transport


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"hello")
    writer.close()


async def _cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"hello")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
    writer.close()


async def _mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"hello")
    writer.write(b"220 smtp.example.com ESMTP\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [(_hang_up, "connection lost"), (_cut_off, "answer cut off"), (_mumble, UNREADABLE)],
    ids=["hangs up", "cuts off", "speaks no http"],
)
async def test_half_an_answer_is_none(transport: AiohttpTransport, handler: Handler, reason: str) -> None:
    """A connection that breaks after the request left is no answer, is not retried, and may have had an effect."""
    count = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await handler(reader, writer)

    async with _raw_serving(counted) as url:
        with pytest.raises(NoAnswer, match=f"^{reason}$") as caught:
            await transport.exchange(_request(url))
    assert caught.value.request_left
    assert caught.value.is_lasting is (reason == UNREADABLE)
    assert count == 1


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED_OK = b"\r\n2\r\nok\r\n0\r\n\r\n"
_ODD_HEADS = {
    "a header of 9 KB": _OK + b"X-Trace: " + b"a" * 9_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "a header of 900 KB": _OK + b"X-Trace: " + b"a" * 900_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "300 headers": _OK + b"X-A: 1\r\n" * 300 + b"Content-Length: 2\r\n\r\nok",
    "both length headers": _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n" + _CHUNKED_OK,
    "both, the other way round": _OK + b"Transfer-Encoding: Chunked\r\nContent-Length: 9\r\n" + _CHUNKED_OK,
    "the length twice": _OK + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\nok",
    "the length as a list": _OK + b"Content-Length: 2, 2\r\n\r\nok",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok",
    "an interim answer before it": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    + _OK
    + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "packed by nobody": _OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
    "packed unasked": _OK
    + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"ok"))
    + gzip.compress(b"ok"),
}


@pytest.mark.parametrize("answer", _ODD_HEADS.values(), ids=_ODD_HEADS.keys())
@pytest.mark.parametrize("piece", [1_000_000, 700], ids=["whole", "in pieces"])
async def test_an_answer_that_go_and_curl_take_is_taken(transport: AiohttpTransport, answer: bytes, piece: int) -> None:
    """However odd its head, an answer is heard, and the connection serves the next request."""

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"hello"):
            for start in range(0, len(answer), piece):
                writer.write(answer[start : start + piece])
                await writer.drain()
                await asyncio.sleep(0)

    async with _raw_serving(odd) as url:
        for _ in range(2):
            response = await transport.exchange(_request(url))
            assert (response.status, response.body) == (200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Endless: " + b"a" * 3_000_000,
        b"220 smtp.example.com ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"no",
        b"\x15\x03\x01\x00\x02\x02\x50",
    ],
    ids=["lengths that contradict each other", "a head without end", "smtp", "ssh", "two letters", "tls"],
)
async def test_what_nobody_can_read_is_told_as_such(transport: AiohttpTransport, answer: bytes) -> None:
    """An answer whose meaning cannot be known is none, and is told apart from a lost connection."""

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"hello")
        writer.write(answer)
        await reader.read()
        writer.close()

    async with _raw_serving(odd) as url:
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(_request(url))
    assert caught.value.is_lasting
    assert caught.value.request_left


async def test_no_tls_there(transport: AiohttpTransport) -> None:
    """A TLS failure happens before the request leaves."""

    async def handler(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    async with _serving(handler) as url:
        with pytest.raises(NoAnswer, match=r"^tls failure$") as caught:
            await transport.exchange(_request(url.replace("http:", "https:")))
    assert not caught.value.request_left


async def test_unusable_address(transport: AiohttpTransport) -> None:
    """An address that is none is told as such."""
    with pytest.raises(NoAnswer, match=r"^unusable address$"):
        await transport.exchange(_request("http:///nowhere"))


def _connector_error(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(_KEY, error)


_KEY = aiohttp.client_reqrep.ConnectionKey("host", 443, True, True, None, None, None)  # noqa: FBT003 - aiohttp's tuple


@pytest.mark.usefixtures("aioresponses_shim")
@pytest.mark.parametrize(
    ("error", "reason", "left"),
    [
        (aiohttp.ClientConnectorDNSError(_KEY, OSError(-2, "x")), "no such host", False),
        (aiohttp.ClientConnectorCertificateError(_KEY, ssl.CertificateError("x")), "certificate not trusted", False),
        (aiohttp.ClientProxyConnectionError(_KEY, OSError(1, "x")), "proxy unreachable", False),
        (_connector_error(OSError(101, "unreachable")), "no connection", False),
        (aiohttp.ConnectionTimeoutError("x"), "connect time-out", False),
        (aiohttp.SocketTimeoutError("x"), "time-out", True),
        (aiohttp.ClientOSError(104, "reset"), "connection lost", True),
        (ConnectionResetError(104, "reset"), "connection lost", True),
        (aiohttp.ClientError("secret-url"), "connection lost", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_every_foreign_error_has_our_name(
    transport: AiohttpTransport,
    error: Exception,
    reason: str,
    left: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Each kind of failure has one short reason, and tells whether the request may have left."""
    with aioresponses() as fake:
        fake.post("http://vendor.example.com/x", exception=error, repeat=True)
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(_request("http://vendor.example.com/x"))
    assert (str(caught.value), caught.value.request_left) == (reason, left)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "reason", "is_lasting"),
    [
        (407, "the proxy wants credentials", True),
        (403, "proxy refused", True),
        (302, "proxy refused", True),
        (429, "proxy refused", False),
        (408, "proxy refused", False),
        (502, "proxy refused", False),
    ],
)
async def test_a_proxy_that_refuses_to_connect(status: int, reason: str, *, is_lasting: bool) -> None:
    """What a proxy refuses by its set-up it will refuse again: that needs a hand; an outage behind it does not."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
        writer.close()

    async with (
        _raw_serving(proxy) as url,
        AiohttpTransport(clock=SystemClock(), proxy_for=lambda _: url) as transport,
    ):
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(_request("https://vendor.invalid/x"))
    assert (str(caught.value), caught.value.is_lasting, caught.value.request_left) == (reason, is_lasting, False)


async def test_a_proxy_is_used_where_one_is_named() -> None:
    """A URL with a proxy goes through it, one without goes directly."""
    seen: list[str] = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        seen.append(str(request.url))
        return web.Response(text="by proxy")

    async def direct(_request: web.BaseRequest) -> web.Response:
        return web.Response(text="direct")

    async with _serving(proxy) as proxy_url, _serving(direct) as direct_url:
        proxies = {"http://vendor.invalid/x": proxy_url}
        async with AiohttpTransport(clock=SystemClock(), proxy_for=proxies.get) as transport:
            assert (await transport.exchange(_request("http://vendor.invalid/x"))).body == b"by proxy"
            assert (await transport.exchange(_request(direct_url))).body == b"direct"
    assert seen == ["http://vendor.invalid/x"]


async def test_cancelling_leaves_a_usable_transport(transport: AiohttpTransport) -> None:
    """A cancelled exchange does not disturb the next."""
    hung = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        if request.method == "POST":
            await hung.wait()
        return web.Response(text="ok")

    async with _serving(handler) as url:
        task = asyncio.create_task(transport.exchange(_request(url)))
        await asyncio.sleep(0.05)  # the request is on its way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await transport.exchange(_request(url, method="GET"))).body == b"ok"
        hung.set()


async def test_a_large_body_is_sent_without_a_warning(transport: AiohttpTransport) -> None:
    """A batch of 3 MB arrives byte by byte, with its length told; warnings are errors here."""
    seen: list[tuple[int | None, bytes]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.content_length, await request.content.read()))
        return web.Response(text="ok")

    body = bytes(range(256)) * 12_000
    async with _serving(handler) as url:
        answer = await transport.exchange(replace(_request(url), body=body))
    assert answer.body == b"ok"
    assert seen == [(len(body), body)]
