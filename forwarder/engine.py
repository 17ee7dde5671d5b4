"""Where events are kept, as FORWARDER_SPOOL says: opened here, for the daemon, for commands and for checks.

What Postgres needs is imported only when that is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Final, Literal, Protocol

import apsw

from forwarder.archive_port import Archive
from forwarder.clock import wait_within
from forwarder.errors import SettingsInvalid, SpoolAway, SpoolUnusable, TakenOver
from forwarder.model import HttpRequest, HttpResponse
from forwarder.ports import Clock, Probeable, Spool, Transport, Worker
from forwarder.settings import Settings
from forwarder.settings.extras import module_of
from forwarder.settings.sources import gather
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.database_url import DatabaseUrl, DatabaseUrlInvalid
from forwarder.spool.sqlite import SqliteSpool
from forwarder.spool.sqlite.database import open_reader
from forwarder.spool.sqlite.reading.archive import kept_value
from forwarder.telemetry.reporter import Reporter

_URL: Final = "FORWARDER_POSTGRES_URL"
_AGAIN_S: Final = 2.0


class Remark(Protocol):
    """What is said of a database; see `spool.postgres.server_facts.Remark`."""

    @property
    def level(self) -> Literal["ok", "warn", "fail"]:
        """How bad it is."""

    @property
    def text(self) -> str:
        """How it is and, unless ok, what to do."""


class OpenSpool(Spool, Archive, Worker, Probeable, Protocol):
    """A spool with its archive, as every engine opens it; its `run` is a worker of the daemon."""


def postgres_module(name: str) -> ModuleType:
    """Import a module of the spool on Postgres. Raises `SettingsInvalid` when its extra is not installed."""
    return module_of(
        f"forwarder.spool.postgres.{name}", extra="postgres", packages=("asyncpg",), variable="FORWARDER_SPOOL"
    )


@dataclass(frozen=True, slots=True)
class UrlReader:
    """Read FORWARDER_POSTGRES_URL where the settings had it: a password may have been replaced since. Blocks.

    Another database than the one at the start is not gone to: events would be in both. That needs a restart.
    """

    settings: Settings

    def __call__(self) -> str:
        """Return it; what it was at the start, if nothing better is there now."""
        assert self.settings.postgres_url is not None  # noqa: S101  settings.together saw to it
        first = self.settings.postgres_url.get_secret_value()
        place = self.settings.reading.place
        found = None if place is None else gather(place).found.get(_URL)
        if found is None:
            return first
        with suppress(DatabaseUrlInvalid):
            if DatabaseUrl.parse(found.text).database == DatabaseUrl.parse(first).database:
                return found.text
        return first


@dataclass(frozen=True, slots=True)
class Fence:
    """`ports.Transport` of a route: nothing leaves for events that another replica may have taken over."""

    transport: Transport
    may_send: Callable[[], bool]

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Make the exchange; see `ports.Transport.exchange`."""
        if not self.may_send():
            raise TakenOver
        return await self.transport.exchange(request)


async def open_spool(
    settings: Settings,
    *,
    clock: Clock,
    reporter: Reporter,
    is_replica: bool = True,
    stop: asyncio.Event | None = None,
) -> OpenSpool:
    """Open the spool, making it where there is none.

    A database that is away is waited for until `stop` is set; without one it is asked once. `is_replica` False: nothing
    is leased here. Raises what the engine's `open` raises, and `SettingsInvalid` for a database that waiting alone
    does not bring.
    """
    limits = SpoolLimits(
        bytes_max=settings.spool_bytes_max, retention_s=settings.retention_s, is_shared=len(settings.routes) > 1
    )
    if settings.spool == "sqlite":
        return await SqliteSpool.open(settings.data_dir, limits=limits, clock=clock, reporter=reporter)
    opened: Callable[..., Awaitable[OpenSpool]] = postgres_module("spool").PostgresSpool.open
    said = ""
    while True:
        try:
            return await opened(
                UrlReader(settings), limits=limits, clock=clock, reporter=reporter, is_replica=is_replica
            )
        except SpoolAway as error:
            if error.is_lasting:
                raise SettingsInvalid(f"{_URL}: {error}") from None
            if stop is None or stop.is_set():
                raise
            if str(error) != said:
                said = str(error)
                reporter.spool_refusing(reason=said)
            await wait_within(_AGAIN_S, stop)


def database_remarks(settings: Settings) -> Sequence[Remark]:
    """Connect to the database, and say how it is. Blocks; not on a thread that has an event loop."""
    look: Callable[..., Coroutine[None, None, Sequence[Remark]]] = postgres_module("server_facts").look
    return asyncio.run(look(UrlReader(settings)))


def read_kept_value(settings: Settings, key: str) -> bytes | None:
    """Return a small value that the spool keeps, beside a daemon or without; None where nothing can be read. Blocks."""
    if settings.spool == "postgres":
        read: Callable[..., Coroutine[None, None, bytes | None]] = postgres_module("server_facts").read_value
        return asyncio.run(read(UrlReader(settings), key))
    try:
        connection = open_reader(settings.data_dir)
    except SpoolUnusable:
        return None
    try:
        return kept_value(connection, key)
    except apsw.Error:
        return None
    finally:
        connection.close()
