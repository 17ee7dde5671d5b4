"""A real HTTP server on loopback that can refuse connections and come back on the same port.

It owns sockets and behaviours, and knows no vendor: a stand-in gives it one function from a request
to an answer. It reads bodies whole and undecoded, so that the stand-in judges every byte itself.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

from stand_ins.behaviour import Behaviour, CutsOff, Dawdles, Hangs, HangsUp, Says, Script

HOST = "127.0.0.1"
_RANDOM = random.SystemRandom()
_WORKERS_MAX = 16
_PORTS: list[int] = []  # to be given


def free_port() -> int:
    """Return a port on loopback that was free a moment ago.

    From below the range that the system takes for outgoing connections: a daemon that is started again on its port must
    not find one of them there. Test workers that run side by side draw from ports of their own, and from the system's
    randomness: plugins give every worker the same seed. None is given twice before all were: the one that was given
    last is still free when the next is drawn.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS_MAX
    while True:
        if not _PORTS:
            _PORTS.extend(range(10_000 + worker, 32_000, _WORKERS_MAX))
            _RANDOM.shuffle(_PORTS)
        port = _PORTS.pop()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came. Header names are lower-case; `path` is undecoded and without query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """The request whose answer is being made: what it meets, in which epoch it came, and its credentials."""

    behaviour: Behaviour | None = None
    epoch: int = 0
    authorization: str = ""


class NoReply(Exception):
    """Raised by a stand-in instead of answering: the connection is closed without a word."""


class Listener:
    """Serve one function on 127.0.0.1; misbehave as the script says."""

    def __init__(self, answer: Callable[[Asked], Awaitable[Said]], script: Script, *, port: int = 0) -> None:
        self._answer = answer
        self._script = script
        self._port = port
        self._socket: asyncio.Server | None = None
        self._http: web.Server | None = None
        self.requests = 0
        self.heads: deque[Mapping[str, str]] = deque(maxlen=1_000)  # the headers of the last requests
        self._arrival = asyncio.Condition()
        self.epoch = 0
        self.at_hand = AtHand()

    @property
    def url(self) -> str:
        """Return the base URL without a trailing slash; stable over `refuse` and `listen`."""
        return f"http://{HOST}:{self._port}"

    async def listen(self) -> None:
        """Take connections; on the port that was used before, if there was one."""
        if self._socket is not None:
            return
        loop = asyncio.get_running_loop()
        # Bodies stay packed, so that a broken gzip stream is the stand-in's to judge.
        self._http = web.Server(self._serve, auto_decompress=False, access_log=None)
        self._socket = await loop.create_server(self._http, HOST, self._port)
        self._port = self._socket.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the port and every connection: the next connection is refused, requests in hand get no answer."""
        if self._socket is None or self._http is None:
            return
        self._socket.close()
        # Zero would mean "for ever" to aiohttp's ceil_timeout.
        await self._http.shutdown(0.001)
        self._socket = None

    async def wait_for_requests(self, requests: int, *, timeout_s: float) -> bool:
        """Wait until so many requests began to arrive since the start; False at the time-out."""
        try:
            async with asyncio.timeout(timeout_s), self._arrival:
                await self._arrival.wait_for(lambda: self.requests >= requests)
        except TimeoutError:
            return False
        return True

    async def _count(self) -> None:
        self.requests += 1
        async with self._arrival:
            self._arrival.notify_all()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        epoch = self.epoch
        await self._count()
        asked = Asked(
            method=request.method,
            path=request.rel_url.raw_path,
            query=dict(request.rel_url.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.content.read(),
        )
        self.heads.append(asked.headers)
        try:
            authorization = asked.headers.get("authorization", "")
            at_hand = AtHand(behaviour=self._script.take(), epoch=epoch, authorization=authorization)
            return await self._play(request, asked, at_hand)
        except NoReply:
            return hang_up(request)

    async def _play(self, request: web.BaseRequest, asked: Asked, at_hand: AtHand) -> web.StreamResponse:
        async def answer() -> Said:
            self.at_hand = at_hand
            return await self._answer(asked)

        match at_hand.behaviour:
            case None:
                return _response(await answer())
            case Says() as said:
                return _response(Said(status=said.status, body=said.body.encode(), headers=said.headers))
            case Dawdles() as dawdles:
                await asyncio.sleep(dawdles.seconds)
                return _response(await answer())
            case Hangs() as hangs:
                if hangs.takes_effect:
                    await answer()
                await asyncio.sleep(hangs.seconds)
                return hang_up(request)
            case HangsUp() as hangs_up:
                if hangs_up.takes_effect:
                    await answer()
                return hang_up(request)
            case CutsOff():
                return await _cut_off(request, await answer())


class StandIn:
    """What both stand-ins are to their users: an async context manager that listens, refuses and comes back."""

    def __init__(self, answer: Callable[[Asked], Awaitable[Said]], *, port: int = 0) -> None:
        self.script = Script()
        self._listener = Listener(answer, self.script, port=port)

    async def __aenter__(self) -> Self:
        """Listen on loopback."""
        await self._listener.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the port and every connection."""
        await self._listener.refuse()

    @property
    def url(self) -> str:
        """Return the base URL, as the daemon's setting wants it."""
        return self._listener.url

    @property
    def requests(self) -> int:
        """Return how many requests arrived, scripted ones included."""
        return self._listener.requests

    @property
    def heads(self) -> list[Mapping[str, str]]:
        """Return the headers of the last requests, oldest first."""
        return list(self._listener.heads)

    @property
    def at_hand(self) -> AtHand:
        """Return the request whose answer is being made; valid until the answering function awaits something."""
        return self._listener.at_hand

    def begin_epoch(self) -> None:
        """Count requests that begin from now on as those of another time."""
        self._listener.epoch += 1

    async def refuse(self) -> None:
        """Refuse connections until `listen`."""
        await self._listener.refuse()

    async def listen(self) -> None:
        """Take connections again, on the same port."""
        await self._listener.listen()

    async def wait_for_requests(self, requests: int, *, timeout_s: float) -> bool:
        """Wait until so many requests began to arrive since the start; False at the time-out."""
        return await self._listener.wait_for_requests(requests, timeout_s=timeout_s)


def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection; what is returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _response(said: Said) -> web.Response:
    return web.Response(status=said.status, body=said.body, headers=said.headers)


async def _cut_off(request: web.BaseRequest, said: Said) -> web.StreamResponse:
    response = web.StreamResponse(status=said.status, headers=said.headers)
    response.content_length = len(said.body) + 16  # more than will ever come
    await response.prepare(request)
    await response.write(said.body[: len(said.body) // 2 or 1])
    return hang_up(request)
