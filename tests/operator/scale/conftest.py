"""The real daemon over a spool with a million settled events."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stand_ins.process import DaemonProcess, without_coverage

_MAKING_S_MAX = 600  # half a minute on a machine of its own


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder whose `data` holds a million events; its size does not outlive the session."""
    folder = tmp_path_factory.mktemp("million")
    (folder / "data").mkdir(mode=0o700)
    subprocess.run(  # noqa: S603 - our own program
        [sys.executable, Path(__file__).with_name("million.py"), folder / "data"],
        env=without_coverage(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=_MAKING_S_MAX,
        check=True,
    )
    yield folder
    for file in (folder / "data").iterdir():
        if file.is_file():
            file.unlink()


@pytest.fixture
async def daemon(million: Path) -> AsyncIterator[DaemonProcess]:
    """Run the daemon over the million, both routes, with vendors that are not there: it only shows."""
    settings = {
        "RUDDERSTACK_WRITE_KEY": "scale-write-key",
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
        "COURIER_WEBHOOK_SECRET": "scale-webhook-secret",
        "FORWARDER_EVENTS_KEY": "scale-events-key",
        "FORWARDER_INBOUND_KEYS": "scale-inbound-key",
        "COURIER_API_KEY": "scale-api-key",
        "COURIER_API_URL": "http://127.0.0.1:9",
    }
    running = DaemonProcess(folder=million, settings=settings, has_coverage=False)
    await running.start(ready_max_s=60)
    yield running
    await running.stop()
