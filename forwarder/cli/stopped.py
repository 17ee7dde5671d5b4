"""A stopped daemon's operator API, served from its data folder for as long as a command runs.

On a socket in a folder that only this user can enter: payloads pass through it. Nothing is delivered.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web

from forwarder.clock import SystemClock
from forwarder.engine import open_spool
from forwarder.mapping.link_store import LinkStore
from forwarder.operator.assembly import api_alone
from forwarder.operator.parts import Parts
from forwarder.settings import Settings
from forwarder.settings.toml_files import read_links
from forwarder.spool.sqlite.database import find_database
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter


@asynccontextmanager
async def stopped_daemon(settings: Settings) -> AsyncIterator[Path]:
    """Open the spool and serve the API; yield its socket.

    Raises `SpoolLocked` when a daemon has the folder, and `SpoolUnusable` when there is no spool in it.
    """
    if settings.spool == "sqlite":
        find_database(settings.data_dir)
    clock, metrics = SystemClock(), Metrics()
    reporter = Reporter(metrics, _silent())
    spool = await open_spool(settings, clock=clock, reporter=reporter, is_replica=False)
    try:
        parts = Parts(
            archive=spool,
            spool=spool,
            links=await LinkStore.load(spool, await asyncio.to_thread(read_links, settings)),
            metrics=metrics,
            reporter=reporter,
            clock=clock,
        )
        async with _served(api_alone(parts)) as socket:
            yield socket
    finally:
        await spool.close()


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="forwarder-") as folder:
        socket = Path(folder) / "operator"
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            yield socket
        finally:
            await runner.cleanup()


def _silent() -> structlog.typing.FilteringBoundLogger:
    """Return a log that writes nothing: the command says what matters itself."""
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(50), processors=[]
    )
    return logger
