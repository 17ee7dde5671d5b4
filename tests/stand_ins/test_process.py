"""Whoever waits for the daemon is told what went wrong, with its log, and never waits for ever."""

from pathlib import Path

import pytest

from stand_ins.process import DaemonFailed, DaemonProcess

ROUTE = "courier_to_rudderstack"


async def test_a_daemon_that_ends_at_its_start_is_told_with_its_log(tmp_path: Path) -> None:
    """Without settings it ends at once; the error carries what it said."""
    daemon = DaemonProcess(folder=tmp_path, settings={})

    with pytest.raises(DaemonFailed, match="RUDDERSTACK_WRITE_KEY"):
        await daemon.start()
    assert not daemon.is_running
    assert await daemon.stop() == 78
    await daemon.kill()
    assert daemon.marks_in_logs(["RUDDERSTACK_WRITE_KEY", "no such words"]) == ["RUDDERSTACK_WRITE_KEY"]


async def test_a_daemon_that_is_slow_is_given_up(tmp_path: Path) -> None:
    """Being ready and reaching a state have their limits; a daemon that was given up does not run on."""
    settings = {
        "RUDDERSTACK_WRITE_KEY": "k",
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
        "COURIER_WEBHOOK_SECRET": "s",
    }
    daemon = DaemonProcess(folder=tmp_path, settings=settings)

    with pytest.raises(DaemonFailed, match="not ready"):
        await daemon.start(ready_max_s=0.01)
    assert not daemon.is_running
    await daemon.spawn()
    with pytest.raises(DaemonFailed, match="did not stop"):
        await daemon.stop(timeout_s=0)
    await daemon.kill()
    with pytest.raises(DaemonFailed, match="stayed at"):
        await daemon.wait_for_totals(ROUTE, lambda _totals: True, timeout_s=0.05)


async def test_a_daemon_that_was_never_started_cannot_stop(tmp_path: Path) -> None:
    """It says so."""
    daemon = DaemonProcess(folder=tmp_path, settings={})

    await daemon.kill()
    with pytest.raises(DaemonFailed, match="never started"):
        await daemon.stop()
