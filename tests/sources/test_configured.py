"""From the settings to the buses: what is imported when, what is said without the extra, and what the commands do."""

import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import astuple
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
_BUSES = {
    "nats": {"FORWARDER_NATS_URL": "nats://u:sesame@127.0.0.1:1", "FORWARDER_NATS_STREAM": "EVENTS"},
    "kafka": {
        "FORWARDER_KAFKA_BROKERS": "127.0.0.1:1",
        "FORWARDER_KAFKA_TOPICS": "events",
        "FORWARDER_KAFKA_PASSWORD": "sesame",
    },
    "redis": {"FORWARDER_REDIS_URL": "redis://u:sesame@127.0.0.1:1", "FORWARDER_REDIS_STREAMS": "events"},
}


def _settings(name: str = "nats", **changed: str) -> Settings:
    return Settings.model_validate(_BUSES[name] | changed)


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


@pytest.mark.parametrize(
    ("name", "package"), [("nats", "nats"), ("nats", "nacl"), ("kafka", "aiokafka"), ("redis", "redis")]
)
def test_without_the_extra_the_command_that_installs_it_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon ends with 78 and says what to run."""
    for module in [one for one in sys.modules if one.split(".")[0] == package or one.startswith("forwarder.sources.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(SettingsInvalid, match=rf"pip install 'courier-rudderstack-forwarder\[{name}\]'"):
        list(configured(_settings(name), SystemClock()))


def test_check_fails_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where nothing is connected to: a start would end for it."""
    monkeypatch.delitem(sys.modules, "forwarder.sources.redis_streams", raising=False)
    monkeypatch.delitem(sys.modules, "forwarder.sources.redis_connection", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    others = {
        "FORWARDER_DATA_DIR": str(tmp_path),
        "FORWARDER_OPERATOR_TOKEN": "check-token-4711-abc",
        "RUDDERSTACK_WRITE_KEY": "check-write-key",
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:1",
    }
    ran = CliRunner().invoke(cli, ["check"], env=_BUSES["redis"] | others)

    assert "pip install 'courier-rudderstack-forwarder[redis]'" in ran.output
    assert ran.exit_code == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nats", "JetStream(forwarder of EVENTS)"),
        ("kafka", "KafkaTopics(forwarder of events)"),
        ("redis", "RedisStreams(forwarder of events)"),
    ],
)
def test_a_bus_shows_no_secret(name: str, shown: str) -> None:
    """Neither does its repr nor that of its settings."""
    (one,) = configured(_settings(name), SystemClock())

    assert repr(one.bus) == shown
    assert "sesame" not in repr(one)


@pytest.mark.parametrize("name", _BUSES)
async def test_a_secret_that_is_replaced_reaches_the_bus(name: str) -> None:
    """From its next connection on; the daemon is not started again for it."""
    (one,) = configured(_settings(name), SystemClock())
    variable = next(variable for variable, value in _BUSES[name].items() if "sesame" in value)
    one.take(_settings(name, **{variable: _BUSES[name][variable].replace("sesame", "rotated")}))

    assert "rotated" in str(astuple(one.bus._settings))  # type: ignore[attr-defined]  # noqa: SLF001 - of every bus


@_REAL
async def test_check_proves_the_bus(server: NatsServer) -> None:
    """A good one is ok, a stream that is not there fails with what to look at."""
    settings = _settings(FORWARDER_NATS_URL=server.url)
    elsewhere = _settings(FORWARDER_NATS_URL=server.url, FORWARDER_NATS_STREAM="ELSE")
    good = [one async for one in source_findings(configured(settings, SystemClock()))]
    bad = [one async for one in source_findings(configured(elsewhere, SystemClock()))]

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
    [
        (["--to", "nats"], "set FORWARDER_NATS_"),
        (["--to", "kafka"], "set FORWARDER_KAFKA_"),
        (["--to", "redis"], "set FORWARDER_REDIS_"),
        (["--to", "nats", "--url", "http://x"], "leave them out"),
    ],
)
def test_send_sample_says_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong usage, with what to set or to leave out."""
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(cli, ["send-sample", *arguments])

    assert result.exit_code == 2
    assert said in result.output
