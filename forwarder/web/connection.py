"""aiohttp's low-level server, taught not to talk: no traceback, no echo of what it was sent, no version.

What arrives here is not HTTP, or met a bug of ours. Deliberately absent: everything about requests of good form.
"""

import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from forwarder.telemetry.reporter import Reporter
from forwarder.web.answers import Rejected
from forwarder.web.doors import Words
from forwarder.web.writing import response

NOT_HTTP_ENDPOINT = "other"
_FILES_FOR_OTHERS = 128  # spool, operator listener, connections to the vendors

Respond = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Server(web.Server):
    """Makes a `Connection` for each client, and shuts those above the limit at once.

    The limit is `connections_max`, or less where the process may not open as many files.
    """

    def __init__(self, respond: Respond, *, reporter: Reporter, connections_max: int, **options: Any) -> None:
        super().__init__(respond, **options)
        self._reporter = reporter
        self._options = {"access_log": None, **options}
        self._connections_max = min(connections_max, _connections_that_fit())

    def __call__(self) -> web.RequestHandler:
        """Make what speaks to one client."""
        return Connection(self, loop=self._loop, reporter=self._reporter, options=self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count the client, or turn it away."""
        super().connection_made(handler, transport)
        if len(self._connections) > self._connections_max:
            self._reporter.request_rejected(NOT_HTTP_ENDPOINT, "too_many_connections")
            transport.abort()


class Connection(web.RequestHandler):
    """One client. What aiohttp would log or answer with details is counted and answered without them."""

    __slots__ = ("_reporter",)

    def __init__(
        self, manager: Server, *, loop: asyncio.AbstractEventLoop, reporter: Reporter, options: dict[str, Any]
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._reporter = reporter

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and notice when the framing of the body that is being read is broken.

        aiohttp queues its complaint behind the request, whose reader would wait for the rest in vain.
        """
        super().data_received(data)
        request = self._current_request
        if self._messages and request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("broken framing"))
            request.content.feed_eof()  # nothing of it is worth waiting for

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Report what aiohttp would have logged with a traceback, whose text may quote the request."""
        del args
        self._reporter.request_crashed(NOT_HTTP_ENDPOINT, error=type(kw.get("exc_info")).__name__, where="http")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read as HTTP, or what a bug of ours left unanswered; then hang up."""
        del message  # it quotes what was sent
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._reporter.request_crashed(NOT_HTTP_ENDPOINT, error=type(exc).__name__, where="http")
            rejected = Rejected(status, "internal_error", "internal error")
        else:
            self._reporter.request_rejected(NOT_HTTP_ENDPOINT, "not_http")
            rejected = Rejected(status, "not_http", "this is not HTTP as it should be, or its head is too large")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        return response(rejected.reply(Words.JSON), closes=True)


def _connections_that_fit() -> int:
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files_max == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(files_max - _FILES_FOR_OTHERS, files_max // 2)
