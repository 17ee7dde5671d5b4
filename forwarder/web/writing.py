"""Turn an answer into what aiohttp sends.

Deliberately absent: which answer that is, and anything about aiohttp's connections.
"""

from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

from forwarder.web.doors import Reply

SERVER_NAME = "forwarder"  # instead of aiohttp's and Python's versions


class QuickAnswer(web.StreamResponse):
    """The usual 200 on a connection that is kept, written in one piece.

    aiohttp builds an answer out of a dozen parts, which is a fifth of what a webhook costs altogether. This knows no
    cookies, no compression, no other status and no HTTP/1.0: see `fits`.
    """

    def __init__(self, reply: Reply) -> None:
        # Not the base's own: it prepares for everything that is not needed here.
        self._reply = reply
        self._writer: AbstractStreamWriter | None = None

    @staticmethod
    def fits(reply: Reply, request: web.BaseRequest) -> bool:
        """Tell whether the answer is the usual one."""
        return (
            reply.status == HTTPStatus.OK
            and not reply.closes
            and not reply.headers
            and request.method == "POST"
            and request.version == HttpVersion11
            and request.keep_alive
        )

    def __repr__(self) -> str:
        """Show the status alone."""
        return "<QuickAnswer 200>"

    @property
    def keep_alive(self) -> bool:
        """Always: another answer would have been chosen."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Take the connection to write to."""
        self._writer = request.writer
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all of it."""
        body = self._reply.body + data
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {self._reply.content_type}\r\nServer: {SERVER_NAME}\r\n"
            f"Content-Length: {len(body)}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        )
        assert self._writer is not None  # noqa: S101  aiohttp prepares every answer before it ends it
        await self._writer.write(head.encode("ascii") + body)
        await self._writer.write_eof()


def answer(reply: Reply, request: web.BaseRequest, *, closes: bool) -> web.StreamResponse:
    """Turn the answer to a request into aiohttp's."""
    return QuickAnswer(reply) if not closes and QuickAnswer.fits(reply, request) else response(reply, closes=closes)


def response(reply: Reply, *, closes: bool = False) -> web.Response:
    """Turn an answer into aiohttp's."""
    headers = {"Content-Type": reply.content_type, "Server": SERVER_NAME}
    headers.update(reply.headers)
    made = web.Response(status=reply.status, body=reply.body, headers=headers)
    if closes or reply.closes:
        made.force_close()
    return made
