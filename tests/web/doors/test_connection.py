"""What aiohttp's server says when something breaks underneath: as little as possible."""

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from forwarder.web.connection import Connection, Server
from forwarder.web.doors import Reply
from forwarder.web.writing import answer, response

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Abortable(asyncio.Transport):
    """A transport that can be aborted, and nothing else."""

    def abort(self) -> None:
        """Do nothing."""


@pytest.fixture
async def ask(build_house: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Return what serves one request by a given coroutine and returns the raw answer and the house."""
    servers: list[tuple[Server, asyncio.Server]] = []

    async def asked(respond: Callable[..., Any], request: bytes = REQUEST) -> tuple[bytes, Any]:
        house = build_house()
        server = Server(respond, reporter=house.reporter, connections_max=10)
        sockets = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        servers.append((server, sockets))
        reader, writer = await asyncio.open_connection(*sockets.sockets[0].getsockname())
        writer.write(request)
        raw = b""
        with suppress(TimeoutError):  # a connection that is kept stays open
            async with asyncio.timeout(0.5):
                while part := await reader.read(65_536):
                    raw += part
        writer.close()
        return raw, house

    yield asked
    for server, sockets in servers:
        sockets.close()
        await server.shutdown(0.1)


async def test_an_error_in_the_answering_is_a_500(ask: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever escapes is answered without a word of it, and told by its type alone."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        del request
        raise LookupError("secret-word")

    with caplog.at_level(logging.DEBUG):
        raw, house = await ask(respond)
    assert raw.startswith(b"HTTP/1.1 500 ")
    assert "LookupError" in house.log.getvalue()
    assert b"secret-word" not in raw + house.log.getvalue().encode() + caplog.text.encode()


async def test_an_error_after_the_answer_began_cuts_it_off(ask: Callable[..., Any]) -> None:
    """An answer that was begun is not followed by another; the connection ends."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        begun = web.StreamResponse()
        begun.content_length = 10
        await begun.prepare(request)
        await begun.write(b"12345")
        raise LookupError

    raw, house = await ask(respond)
    assert raw.count(b"HTTP/1.1") == 1
    assert raw.endswith(b"12345")
    assert house.rejections() == {("other", "internal_error"): 1}


@pytest.mark.parametrize("body", [b"ok", b""])
async def test_the_quick_answer_is_the_usual_one(ask: Callable[..., Any], body: bytes) -> None:
    """What is written in one piece differs from what aiohttp builds only in the order of its headers."""
    reply = Reply(200, body, "text/plain; charset=utf-8")
    kept = REQUEST.replace(b"GET", b"POST").replace(b"close", b"keep-alive")

    async def quick(request: web.BaseRequest) -> web.StreamResponse:
        chosen = answer(reply, request, closes=False)
        assert repr(chosen) == "<QuickAnswer 200>"
        return chosen

    async def usual(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return response(reply)

    answers = [(await ask(respond, kept))[0] for respond in (quick, usual)]
    heads = [raw.partition(b"\r\n\r\n")[0].split(b"\r\n") for raw in answers]
    one, other = (sorted(line for line in head if not line.startswith(b"Date: ")) for head in heads)
    assert one == other
    assert len(heads[0]) == len(heads[1]) == len(one) + 1
    assert all(raw.endswith(b"\r\n\r\n" + body) for raw in answers)


@pytest.mark.parametrize(
    ("reply", "request_head", "closes"),
    [
        (Reply(202, b"x"), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (Reply(200, b"x", headers=(("X", "y"),)), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (Reply(200, b"x", closes=True), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (Reply(200, b"x"), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (Reply(200, b"x"), b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (Reply(200, b"x"), b"POST / HTTP/1.0\r\n\r\n", False),
        (Reply(200, b"x"), b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", False),
    ],
)
async def test_whatever_is_not_usual_is_left_to_aiohttp(
    ask: Callable[..., Any], reply: Reply, request_head: bytes, *, closes: bool
) -> None:
    """Only a plain 200 to a POST on a connection that is kept is written in one piece."""
    chosen: list[web.StreamResponse] = []

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        chosen.append(answer(reply, request, closes=closes))
        return chosen[0]

    await ask(respond, request_head)
    assert isinstance(chosen[0], web.Response)


@pytest.mark.parametrize(
    ("files_max", "expected"), [(resource.RLIM_INFINITY, 10), (1_024, 10), (136, 10), (12, 6)], ids=str
)
async def test_there_are_never_more_connections_than_files(
    build_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, files_max: int, expected: int
) -> None:
    """Clients leave the process files for its own work, also where it may open few."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files_max, files_max))
    house = build_house()

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return web.Response()

    server = Server(respond, reporter=house.reporter, connections_max=10)
    for _ in range(12):
        server.connection_made(server(), Abortable())
    assert house.rejections().get(("other", "too_many_connections"), 0) == 12 - expected


async def test_what_aiohttp_would_log_is_told_by_its_type(build_house: Callable[..., Any]) -> None:
    """A traceback of aiohttp's own may quote the request; it becomes the error's type."""
    house = build_house()

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        del request
        return web.Response()

    connection = Server(respond, reporter=house.reporter, connections_max=10)()
    assert isinstance(connection, Connection)
    connection.log_exception("Unhandled exception", exc_info=LookupError("secret-word"))
    assert "LookupError" in house.log.getvalue()
    assert "secret-word" not in house.log.getvalue()
