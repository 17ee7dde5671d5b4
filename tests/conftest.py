"""What every test may use, and the one rule over all of them: in CI nothing is skipped.

Elsewhere a missing browser, Node, Postgres or systemd is a visible skip; CI has them all, so a skip there
means that something stopped being tested, and fails.
"""

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from stand_ins.postgres_server import PostgresServer, started
from stand_ins.process import DaemonProcess
from stand_ins.replicas import one_or_more

REPLICAS = int(os.environ.get("TEST_REPLICAS", "1"))  # of each daemon that a test starts; several share a Postgres
_DAEMONS = frozenset({"daemon_database", "shared_world"})  # by which a test has a daemon
_NUMBERS = itertools.count(1)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"Nothing may be skipped in CI, but this was. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure where CI is set."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a whole module's skip into a failure where CI is set."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With replicas, leave out what starts no daemon, and skip what holds for one process or one folder alone."""
    if REPLICAS == 1:
        return
    others = [item for item in items if _DAEMONS.isdisjoint(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    for item in items:
        if (mark := item.get_closest_marker("one_daemon")) is not None:
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


@pytest.hookimpl
def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of raw bytes by their number: parallel workers must agree, and gzip puts the time into its bytes."""
    if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()):
        return f"{argname} of {len(val)} bytes"
    return None


class _ClientResponse(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 makes, with the argument that aiohttp 3.14 added and it does not pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


@pytest.fixture
def aioresponses_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make aioresponses work with this aiohttp, for every call of the test."""
    monkeypatch.setattr("aioresponses.core.ClientResponse", _ClientResponse)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Return the folder with the sample payloads, signatures and answers."""
    return Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the repository's top folder."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start a Postgres for the whole run; a test that stops it or changes its settings starts one of its own."""
    # Kills hit daemons here, never the server: with replicas most of the time would be its syncing.
    yield from started(("fsync=off",) if REPLICAS > 1 else ())


@pytest.fixture
def make_database(postgres_server: PostgresServer) -> Iterator[Callable[[], str]]:
    """Return what makes an empty database that is this test's alone and gives its URL."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{next(_NUMBERS)}")
        return postgres_server.create_database(made[-1])

    yield make
    for name in made:
        postgres_server.drop_database(name)


@pytest.fixture
def postgres_url(make_database: Callable[[], str]) -> str:
    """Return the URL of an empty database that is this test's alone."""
    return make_database()


@pytest.fixture(scope="session")
def replicas() -> int:
    """Return how many processes stand for each daemon that a test starts."""
    return REPLICAS


@pytest.fixture
def daemon_database(request: pytest.FixtureRequest) -> Callable[[], str] | None:
    """Return what makes the database that replicas share, or None where one daemon has a spool of its own.

    Asked for at once: what is set up later is taken down earlier, and the database must outlive the daemons.
    """
    return request.getfixturevalue("make_database") if REPLICAS > 1 else None


@pytest.fixture
def daemon_in(
    daemon_database: Callable[[], str] | None, replicas: int
) -> Callable[[Path, dict[str, str]], DaemonProcess]:
    """Return what makes a daemon in a folder with these settings; who uses it ends it before the test is over."""

    def make(folder: Path, settings: dict[str, str]) -> DaemonProcess:
        database = None if daemon_database is None else daemon_database()
        return one_or_more(folder, settings, database=database, count=replicas)

    return make
