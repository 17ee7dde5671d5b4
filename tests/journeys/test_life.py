"""How the daemon starts, stops, and how soon it hands an event on."""

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import COURIER_SCHEDULE_S, LoadDriver
from forwarder.demo.workflow import Workflow
from forwarder.model import RouteName
from stand_ins.behaviour import Hangs
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

OUTBOUND = RouteName.COURIER_TO_RUDDERSTACK.value
MakeDaemon = Callable[[dict[str, str]], DaemonProcess]


async def test_it_is_ready_within_two_seconds(make_daemon: MakeDaemon, outbound: dict[str, str]) -> None:
    """From the command to the first 200 of `/readyz` one of five starts takes less than two seconds.

    On a machine that has more to do than it has processors, what counts is the processor time it took.
    """
    daemon = make_daemon(outbound)
    took_s = []
    for _ in range(5):
        took_s.append(await daemon.start())
        if is_overloaded():
            took_s.append(processor_s(daemon))
        await daemon.kill()
        if min(took_s) < 2.0:
            break

    assert min(took_s) < 2.0, took_s


def is_overloaded() -> bool:
    """Tell whether processes wait for a processor."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def processor_s(daemon: DaemonProcess) -> float:
    """Return the processor time that the process has used (Linux: fields 14 and 15 of its stat)."""
    assert daemon.process is not None
    stat = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_lone_event_arrives_within_100_ms(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """On an idle route an event is at the data plane 100 ms after it was posted; the better half of 21."""
    daemon = make_daemon(outbound)
    await daemon.start()
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    workflow, took_s = Workflow(seed=21), []

    for n in range(21):
        event = workflow.sample("SENT", time.time_ns() // 1_000_000)
        started_s = time.perf_counter()
        assert await driver.webhook(event, outbound["COURIER_WEBHOOK_SECRET"])
        assert await plane.wait_for(n + 1, timeout_s=5)
        took_s.append(time.perf_counter() - started_s)

    assert statistics.median(took_s) <= 0.1, took_s


async def test_sigterm_against_a_hung_data_plane_is_exit_0_in_time(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """A destination that never answers cannot keep the daemon up past its deadline, and nothing is lost by it."""
    plane.script.behave(Hangs())
    daemon = make_daemon(outbound | {"FORWARDER_DRAIN_MAX_S": "2"})
    await daemon.start()
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    workflow = Workflow(seed=22)
    for _ in range(5):
        assert await driver.webhook(
            workflow.sample("SENT", time.time_ns() // 1_000_000), outbound["COURIER_WEBHOOK_SECRET"]
        )
    assert await plane.wait_for_requests(1, timeout_s=5)

    started_s = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - started_s < 4.0

    plane.script.heal()
    await daemon.start()
    await daemon.wait_for_totals(OUTBOUND, lambda totals: totals["pending"] == 0)
    assert list(ledger.missing()) == []
    assert list(ledger.wrong) == []


async def test_a_second_signal_ends_it_at_once(
    make_daemon: MakeDaemon,
    http: aiohttp.ClientSession,
    plane: DataPlane,
    ledger: Ledger,
    outbound: dict[str, str],
) -> None:
    """Who asks twice does not wait for the drain."""
    plane.script.behave(Hangs())
    daemon = make_daemon(outbound)
    await daemon.start()
    driver = LoadDriver(http, daemon.url, ledger, schedule_s=COURIER_SCHEDULE_S, scale=0.02)
    event = Workflow(seed=23).sample("SENT", time.time_ns() // 1_000_000)
    assert await driver.webhook(event, outbound["COURIER_WEBHOOK_SECRET"])
    assert await plane.wait_for_requests(1, timeout_s=5)

    started_s = time.monotonic()
    assert daemon.process is not None
    daemon.process.terminate()
    await asyncio.sleep(0.3)  # signals of one kind merge when they come too close together
    daemon.process.terminate()
    await asyncio.wait_for(daemon.process.wait(), 10)

    assert time.monotonic() - started_s < 5.0


async def test_two_daemons_never_share_a_folder(make_daemon: MakeDaemon, outbound: dict[str, str]) -> None:
    """The second one on the same data folder ends with an error that says so; the first goes on."""
    first = make_daemon(outbound)
    await first.start()
    second = make_daemon(outbound | {"FORWARDER_DATA_DIR": str(first.folder / "data")})
    await second.spawn()
    assert second.process is not None

    assert await asyncio.wait_for(second.process.wait(), 15) not in {0, None}
    assert str(first.folder / "data") in second.logs()
    assert (await first.totals(OUTBOUND))["accepted"] == 0
    assert await first.stop() == 0
