"""What every test may use, and the one rule over all of them: in CI nothing is skipped.

Elsewhere a missing browser, Node, Postgres or systemd is a visible skip; CI has them all, so a skip there
means that something stopped being tested, and fails.
"""

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from stand_ins.postgres_server import MISSING, PROGRAMS, PostgresServer

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
    if PROGRAMS is None:
        pytest.skip(MISSING)
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Return the URL of an empty database that is this test's alone."""
    name = f"test_{next(_NUMBERS)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)
