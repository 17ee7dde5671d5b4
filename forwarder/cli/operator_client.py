"""Speak to the daemon through its operator API; one that is stopped is stood in for by its data folder.

`operator` decides which, so that a command is written once for both. One connection for each request, by the standard
library alone: a command must not cost the import of a web client. Absent: what is asked.
"""

import asyncio
import getpass
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import click

from forwarder.cli.exits import CommandFailed
from forwarder.cli.options import command_settings
from forwarder.errors import DaemonUnreachable, SpoolLocked, SpoolUnusable

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 30.0
_AGAIN_S: Final = 0.5
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the API is: below a URL, or behind a socket in the file system."""

    url: str = "http://localhost"
    socket: Path | None = None
    headers: Mapping[str, str]

    async def exchange(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Make one request; return status and body. Raises `OSError`, `TimeoutError` and `HTTPException`."""
        parts = urlsplit(self.url)
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await self._connected(parts.scheme, parts.hostname or "", parts.port)
        try:
            lines = [f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
            lines += [f"{name}: {value}" for name, value in self.headers.items()]
            lines += ["Accept: application/json", "Connection: close", f"Content-Length: {len(body)}"]
            async with asyncio.timeout(_ANSWER_S):
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                return _parsed(await reader.read(-1), method)
        finally:
            writer.close()

    async def _connected(
        self, scheme: str, host: str, port: int | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket is not None:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection(host, port or _PORTS[scheme], ssl=scheme == "https" or None)


class _Received:
    """Bytes where `HTTPResponse` expects a socket."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._received)


def _parsed(received: bytes, method: str) -> tuple[int, bytes]:
    if not received:
        raise ConnectionResetError("closed without an answer")
    answer = HTTPResponse(_Received(received), method=method)  # type: ignore[arg-type]  # makefile is all it asks for
    answer.begin()
    return answer.status, answer.read()


class OperatorClient:
    """Requests to one operator API. `is_running` tells a daemon from its data folder.

    With `waits` reading outlasts a restart: it says once that the daemon is away, and tries until it is back.
    """

    def __init__(self, place: Place, *, is_running: bool, waits: bool = False) -> None:
        self._place = place
        self._waits = waits and is_running
        self.is_running = is_running
        self.lines_said = 0  # between those of the command

    async def get(self, path: str, **parameters: str | int | None) -> Any:
        """Return the JSON at a path; parameters that are None are left out. Raises `CommandFailed`."""
        given = {name: value for name, value in parameters.items() if value is not None}
        is_told = False
        while True:
            try:
                return await self._asked("GET", f"{path}?{urlencode(given)}" if given else path)
            except DaemonUnreachable as error:
                if not self._waits:
                    raise
                if not is_told:
                    click.echo(f"{error}; waiting for the daemon to come back", err=True)
                    self.lines_said += 1
                is_told = True
            await asyncio.sleep(_AGAIN_S)

    def must_run(self, what: str) -> None:
        """Raise `CommandFailed` on a stopped daemon's folder: held for long, it would keep the daemon from starting."""
        if not self.is_running:
            raise CommandFailed(f"the daemon is stopped, so there is nothing to {what}: start it (forwarder run) first")

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Make a change and return its JSON. Raises `CommandFailed`."""
        return await self._asked("POST", path, body)

    async def _asked(self, method: str, path: str, body: object = None) -> Any:
        try:
            status, told = await self._place.exchange(method, path, b"" if body is None else json.dumps(body).encode())
            said = json.loads(told)
        except (OSError, HTTPException) as error:
            raise DaemonUnreachable(f"the daemon went away ({type(error).__name__})") from None
        except ValueError:
            raise CommandFailed("what answers there is not this daemon: it speaks no JSON") from None
        if status == HTTPStatus.UNAUTHORIZED:
            raise CommandFailed("the daemon asks who you are: set FORWARDER_OPERATOR_TOKEN to its token, or to yours")
        if status >= HTTPStatus.BAD_REQUEST:
            what = said.get("error", "") if isinstance(said, dict) else ""
            is_away = status == HTTPStatus.SERVICE_UNAVAILABLE
            raise (DaemonUnreachable if is_away else CommandFailed)(f"the daemon answered {status}: {what}")
        return said


@asynccontextmanager
async def operator(url: str | None = None, *, waits: bool = False) -> AsyncIterator[OperatorClient]:
    """Give a client of the running daemon, or of its data folder when nothing listens at its address.

    Raises `DaemonUnreachable` when there is neither; with an explicit `url` the folder is not looked at.
    """
    settings = command_settings()
    where = url or settings.operator_listen.url()
    headers = {"X-Forwarder-Operator": f"cli:{_user()}"}
    if settings.operator_token is not None:
        headers["Authorization"] = f"Bearer {settings.operator_token.get_secret_value()}"
    place = Place(url=where, headers=headers)
    if await _answers(place):
        yield OperatorClient(place, is_running=True, waits=waits)
        return
    if url is not None:
        raise DaemonUnreachable(f"nothing answers at {url}: is the daemon running, and is that its operator listener?")
    try:
        async with _stopped_daemon()(settings) as socket:
            yield OperatorClient(Place(socket=socket, headers=headers), is_running=False)
    except SpoolLocked as error:
        raise DaemonUnreachable(
            f"nothing answers at {where}, yet the data folder is in use ({error}): "
            "set FORWARDER_OPERATOR_LISTEN as the daemon has it"
        ) from None
    except SpoolUnusable as error:
        raise DaemonUnreachable(f"nothing answers at {where}, and: {error}") from None


def _stopped_daemon() -> Callable[[Any], AbstractAsyncContextManager[Path]]:
    """Return what serves the folder of a stopped daemon: the spool and all that, imported only where it is needed."""
    opened: Callable[[Any], AbstractAsyncContextManager[Path]] = import_module("forwarder.cli.stopped").stopped_daemon
    return opened


async def _answers(place: Place) -> bool:
    try:
        await place.exchange("GET", "/api/status")
    except OSError:  # a time-out is one
        return False
    except HTTPException:
        raise CommandFailed("what answers there is not this daemon: it speaks no HTTP, or the URL is wrong") from None
    return True


def _user() -> str:
    try:
        return "".join(character for character in getpass.getuser() if character.isprintable())
    except (KeyError, OSError):
        return "unknown"  # a container's user need not have a name
