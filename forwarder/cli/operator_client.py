"""Speak to the daemon through its operator API; one that is stopped is stood in for by its data folder.

`operator` decides which, so that a command is written once for both. Absent: what is asked.
"""

import asyncio
import getpass
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import click

from forwarder.cli.exits import CommandFailed
from forwarder.errors import DaemonUnreachable, SpoolLocked, SpoolUnusable
from forwarder.settings import Settings

_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
_AGAIN_S = 0.5


class OperatorClient:
    """Requests to one operator API. `is_running` tells a daemon from its data folder.

    With `waits` reading outlasts a restart: it says once that the daemon is away, and tries until it is back.
    """

    def __init__(self, http: aiohttp.ClientSession, *, is_running: bool, waits: bool = False) -> None:
        self._http = http
        self._waits = waits and is_running
        self.is_running = is_running

    async def get(self, path: str, **parameters: str | int | None) -> Any:
        """Return the JSON at a path; parameters that are None are left out. Raises `CommandFailed`."""
        given = {name: value for name, value in parameters.items() if value is not None}
        is_told = False
        while True:
            try:
                return await self._asked("GET", path, params=given)
            except DaemonUnreachable as error:
                if not self._waits:
                    raise
                if not is_told:
                    click.echo(f"{error}; waiting for the daemon to come back", err=True)
                is_told = True
            await asyncio.sleep(_AGAIN_S)

    def must_run(self, what: str) -> None:
        """Raise `CommandFailed` on a stopped daemon's folder: held for long, it would keep the daemon from starting."""
        if not self.is_running:
            raise CommandFailed(f"the daemon is stopped, so there is nothing to {what}: start it (forwarder run) first")

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Make a change and return its JSON. Raises `CommandFailed`."""
        return await self._asked("POST", path, json=body)

    async def _asked(self, method: str, path: str, **request: Any) -> Any:
        try:
            async with self._http.request(method, path, **request) as answer:
                said = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DaemonUnreachable(f"the daemon went away ({type(error).__name__})") from None
        except ValueError:
            raise CommandFailed("what answers there is not this daemon: it speaks no JSON") from None
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise CommandFailed("the daemon asks who you are: set FORWARDER_OPERATOR_TOKEN to its token, or to yours")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            what = said.get("error", "") if isinstance(said, dict) else ""
            is_away = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            raise (DaemonUnreachable if is_away else CommandFailed)(f"the daemon answered {answer.status}: {what}")
        return said


@asynccontextmanager
async def operator(settings: Settings, url: str | None = None, *, waits: bool = False) -> AsyncIterator[OperatorClient]:
    """Give a client of the running daemon, or of its data folder when nothing listens at its address.

    Raises `DaemonUnreachable` when there is neither; with an explicit `url` the folder is not looked at.
    """
    where = url or settings.operator_listen.url()
    headers = {"X-Forwarder-Operator": f"cli:{_user()}"}
    if settings.operator_token is not None:
        headers["Authorization"] = f"Bearer {settings.operator_token.get_secret_value()}"
    async with aiohttp.ClientSession(where, headers=headers, timeout=_TIMEOUT) as http:
        if await _answers(http):
            yield OperatorClient(http, is_running=True, waits=waits)
            return
    if url is not None:
        raise DaemonUnreachable(f"nothing answers at {url}: is the daemon running, and is that its operator listener?")
    try:
        async with (
            _stopped_daemon()(settings) as socket,
            aiohttp.ClientSession(
                "http://localhost", connector=aiohttp.UnixConnector(str(socket)), headers=headers
            ) as http,
        ):
            yield OperatorClient(http, is_running=False)
    except SpoolLocked as error:
        raise DaemonUnreachable(
            f"nothing answers at {where}, yet the data folder is in use ({error}): "
            "set FORWARDER_OPERATOR_LISTEN as the daemon has it"
        ) from None
    except SpoolUnusable as error:
        raise DaemonUnreachable(f"nothing answers at {where}, and: {error}") from None


def _stopped_daemon() -> Callable[[Settings], AbstractAsyncContextManager[Path]]:
    """Return what serves the folder of a stopped daemon: the spool and all that, imported only where it is needed."""
    opened: Callable[[Settings], AbstractAsyncContextManager[Path]] = import_module(
        "forwarder.cli.stopped"
    ).stopped_daemon
    return opened


async def _answers(http: aiohttp.ClientSession) -> bool:
    try:
        async with http.get("/api/status"):
            return True
    except (aiohttp.ClientConnectionError, TimeoutError):
        return False
    except (aiohttp.ClientError, ValueError):
        raise CommandFailed("what answers there is not this daemon: it speaks no HTTP, or the URL is wrong") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container's user need not have a name
