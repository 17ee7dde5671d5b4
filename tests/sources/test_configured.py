"""From the settings to the buses: what is imported when, what is said without the extra, and what the commands do."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from click.testing import CliRunner

from forwarder.cli.check import source_findings
from forwarder.cli.command import cli
from forwarder.cli.send_sample import sample, send_to_bus
from forwarder.clock import SystemClock
from forwarder.errors import SettingsInvalid
from forwarder.settings import Settings
from forwarder.sources.configured import configured
from stand_ins.nats_server import MISSING, PROGRAM, NatsServer

_REAL = pytest.mark.skipif(PROGRAM is None, reason=MISSING)
_NATS = {"FORWARDER_NATS_URL": "nats://u:sesame@127.0.0.1:1", "FORWARDER_NATS_STREAM": "EVENTS"}


def _settings(**changed: str) -> Settings:
    return Settings.model_validate(_NATS | changed)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server with a stream."""
    server = NatsServer(folder=tmp_path)
    await server.start()
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name="EVENTS", subjects=["events.>"])
    await client.close()
    yield server
    await server.kill()


def test_a_bus_that_is_not_configured_is_not_imported() -> None:
    """The whole daemon is put together from modules that know no bus' package."""
    code = (
        "import sys, forwarder.app, forwarder.cli.check, forwarder.cli.demo_commands;"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'nats', 'nacl', 'aiokafka', 'redis', 'asyncpg'})"
    )
    ran = subprocess.run(  # noqa: S603 - our own interpreter on our own modules
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize("package", ["nats", "nacl"])
def test_without_the_extra_the_command_that_installs_it_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon ends with 78 and says what to run."""
    for name in [
        name for name in sys.modules if name.startswith((package, "forwarder.sources.jet", "forwarder.sources.nats"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SettingsInvalid, match=r"pip install 'courier-rudderstack-forwarder\[nats\]'"):
        list(configured(_settings(), SystemClock()))


def test_a_bus_shows_no_secret() -> None:
    """Neither does its repr nor that of its settings."""
    (one,) = configured(_settings(), SystemClock())

    assert repr(one.bus) == "JetStream(forwarder of EVENTS)"
    assert "sesame" not in repr(one)


@_REAL
async def test_check_proves_the_bus(server: NatsServer) -> None:
    """A good one is ok, a stream that is not there fails with what to look at."""
    good = [one async for one in source_findings(_settings(FORWARDER_NATS_URL=server.url), SystemClock())]
    bad = [
        one
        async for one in source_findings(
            _settings(FORWARDER_NATS_URL=server.url, FORWARDER_NATS_STREAM="ELSE"), SystemClock()
        )
    ]

    assert [(one.level, one.name) for one in good] == [("ok", "nats")]
    assert [(one.level, one.name) for one in bad] == [("fail", "nats")]
    assert "there is no stream ELSE" in bad[0].text


@_REAL
async def test_a_sample_is_published_where_the_daemon_takes_it_from(server: NatsServer) -> None:
    """It says where, and what becomes of it; a bus that is away is exit code 1."""
    settings, lines = _settings(FORWARDER_NATS_URL=server.url), list[str]()
    wanted = sample(settings, url=None, secret=None, status="sent", count=2, is_signed=False)
    (one,) = configured(settings, SystemClock())

    assert await send_to_bus(one.bus, wanted, lines.append) == 0
    assert lines[:2] == [f"SENT  →  subject events.sample, message {number} of stream EVENTS" for number in (1, 2)]
    (away,) = configured(_settings(), SystemClock())
    assert await send_to_bus(away.bus, wanted, lines.append) == 1
    assert lines[-1] == "It could not be published: NATS cannot be reached."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--to", "nats"], "set FORWARDER_NATS_"), (["--to", "nats", "--url", "http://x"], "leave them out")],
)
def test_send_sample_says_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong usage, with what to set or to leave out."""
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(cli, ["send-sample", *arguments])

    assert result.exit_code == 2
    assert said in result.output
