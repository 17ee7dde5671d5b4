"""What aiohttp's server says when something breaks underneath: as little as possible."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from forwarder.web.connection import Connection, Server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def ask(build_house: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Return what serves one request by a given coroutine and returns the raw answer and the house."""
    servers: list[tuple[Server, asyncio.Server]] = []

    async def asked(respond: Callable[..., Any]) -> tuple[bytes, Any]:
        house = build_house()
        server = Server(respond, reporter=house.reporter, connections_max=10)
        sockets = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        servers.append((server, sockets))
        reader, writer = await asyncio.open_connection(*sockets.sockets[0].getsockname())
        writer.write(REQUEST)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer, house

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
        answer, house = await ask(respond)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "LookupError" in house.log.getvalue()
    assert b"secret-word" not in answer + house.log.getvalue().encode() + caplog.text.encode()


async def test_an_error_after_the_answer_began_cuts_it_off(ask: Callable[..., Any]) -> None:
    """An answer that was begun is not followed by another; the connection ends."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        begun = web.StreamResponse()
        begun.content_length = 10
        await begun.prepare(request)
        await begun.write(b"12345")
        raise LookupError

    answer, house = await ask(respond)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"12345")
    assert house.rejections() == {("other", "internal_error"): 1}


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
