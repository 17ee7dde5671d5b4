"""`forwarder migrate`: the spool goes from the folder to the database and back, also when it is killed on the way."""

import asyncio
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import asyncpg
import pytest
import structlog
from click.testing import CliRunner, Result

from forwarder.cli.command import cli
from forwarder.clock import SystemClock
from forwarder.model import Envelope, Labels, RouteName
from forwarder.settings import extras
from forwarder.settings.sources import PREFIXES
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.spool_acts import stored

EVENTS = 6_000
_MARK = "SELECT convert_from(value, 'UTF8') FROM forwarder.kept_values WHERE key = 'migration:mark'"


def an_envelope(number: int) -> Envelope:
    """Return the envelope of that number."""
    return Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK,
        event_key=number.to_bytes(16, "big"),
        partition_key="",
        received_at_ms=1_700_000_000_000,
        payload=b'{"n":%d}' % number,
        source="webhook",
        labels=Labels(type="t", event="e", message_id=f"m{number}", user_id="u"),
    )


async def _fill(folder: Path) -> None:
    reporter = Reporter(Metrics(), structlog.get_logger())
    spool = await SqliteSpool.open(folder, limits=SpoolLimits(), clock=SystemClock(), reporter=reporter)
    for first in range(0, EVENTS, 1_000):
        await stored(spool, [an_envelope(first + number) for number in range(1_000)])
    await spool.close()


@pytest.fixture
def environment(tmp_path: Path, postgres_url: str) -> dict[str, str]:
    """Return the settings of a shell, with a spool in the folder and an empty database."""
    asyncio.run(_fill(tmp_path / "data"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tuple(PREFIXES))}
    return {**kept, "FORWARDER_DATA_DIR": str(tmp_path / "data"), "FORWARDER_POSTGRES_URL": postgres_url}


def typed(environment: dict[str, str], *words: str) -> Result:
    """Run the command in this process."""
    missing: dict[str, str | None] = {name: None for name in os.environ if name.startswith(tuple(PREFIXES))}
    return CliRunner().invoke(cli, ["migrate", *words], env={**missing, **environment})


def test_there_and_back(environment: dict[str, str], tmp_path: Path) -> None:
    """It says what it moved, what the old spool is called, and how to start; back it goes the same way."""
    done = typed(environment, "--to", "postgres", "--yes")
    assert done.exit_code == 0, done.output
    assert "moved 6,000 events (6,000 of them wait) and 6,000 keys: counted alike" in done.output
    assert "spool.db.moved" in done.output
    assert "FORWARDER_SPOOL=postgres" in done.output
    again = typed(environment, "--to", "postgres", "--yes")
    assert (again.exit_code, "holds no spool" in again.output) == (1, True)
    back = typed(environment, "--to", "sqlite", "--yes", "--json")
    assert back.exit_code == 0, back.output
    assert '"old": "the schema forwarder_moved_1"' in back.output
    assert (tmp_path / "data" / "spool.db").exists()


def test_killed_twice_it_goes_on(environment: dict[str, str], postgres_url: str) -> None:
    """After kill -9 the next run takes up where the database says it was; all is there once, and counted."""
    positions = [asyncio.run(_killed_at(environment, postgres_url, part)) for part in (1, 2)]
    assert positions[0] < positions[1]
    done = typed(environment, "--to", "postgres", "--yes")
    assert done.exit_code == 0, done.output
    assert "moved 6,000 events (6,000 of them wait) and 6,000 keys: counted alike" in done.output


async def _killed_at(environment: dict[str, str], url: str, part: int) -> str:
    """Run it, and kill it as soon as it is in this part, or beyond; return how far it was."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "forwarder",
        "migrate",
        "--to",
        "postgres",
        "--yes",
        env=environment,
        stderr=subprocess.PIPE,
    )
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            while True:
                mark = await _mark(connection)
                if mark is not None and int(mark.strip("[").split(",")[0]) >= part:
                    break
                await asyncio.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        return await _mark(connection) or ""
    finally:
        await connection.close()
        if process.returncode is None:
            process.kill()


async def _mark(connection: asyncpg.Connection) -> str | None:
    try:
        found: str | None = await connection.fetchval(_MARK)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return found


def test_what_is_missing_is_named(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the URL, or without what the extra brings, it ends with 78 and says what to do; asked, it can be left."""
    without = {name: value for name, value in environment.items() if name != "FORWARDER_POSTGRES_URL"}
    done = typed(without, "--to", "postgres", "--yes")
    assert (done.exit_code, "FORWARDER_POSTGRES_URL is not set" in done.output) == (78, True)
    assert typed(environment, "--to", "postgres").exit_code == 1

    def absent(name: str) -> object:
        if name.endswith("postgres_side"):
            raise ModuleNotFoundError(name="asyncpg")
        return import_module(name)

    monkeypatch.setattr(extras, "import_module", absent)
    done = typed(environment, "--to", "postgres", "--yes")
    assert (done.exit_code, "pip install 'courier-rudderstack-forwarder[postgres]'" in done.output) == (78, True)


def test_a_database_that_is_away_is_told(environment: dict[str, str]) -> None:
    """Nothing was done, and the command says why."""
    away = environment | {"FORWARDER_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/none"}
    done = typed(away, "--to", "postgres", "--yes")
    assert done.exit_code == 1
    assert "127.0.0.1" in done.output
