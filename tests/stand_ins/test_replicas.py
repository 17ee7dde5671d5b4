"""Replicas in place of a daemon are that: requests meet one after the other, and what is done to one is done to all."""

from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from stand_ins.process import DaemonFailed
from stand_ins.replicas import Replicas

ROUTE = "courier_to_rudderstack"
SETTINGS = {
    "RUDDERSTACK_WRITE_KEY": "k",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
    "COURIER_WEBHOOK_SECRET": "s",
    "FORWARDER_EVENTS_KEY": "e",
}


@pytest.mark.journey
async def test_requests_meet_both_and_a_stop_ends_both(tmp_path: Path, postgres_url: str) -> None:
    """Two changes at one address are made by two processes of one account; stopped or killed, none answers."""
    daemon = Replicas(folder=tmp_path, settings=SETTINGS, postgres_url=postgres_url)
    events = [{"type": "message:updated", "data": {"id": f"m{n}", "status": "SENT"}} for n in range(2)]
    try:
        assert await daemon.start() > 0
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            for event in events:
                headers = {"Authorization": "Bearer e"}
                async with http.post(f"{daemon.url}/events", json=event, headers=headers) as answer:
                    assert answer.status == 200
            received = []
            for one in daemon.replicas:
                async with http.get(f"{one.operator_url}/metrics") as answer:
                    rows = (await answer.text()).splitlines()
                received += [
                    row for row in rows if row.startswith(f'forwarder_events_received_total{{route="{ROUTE}"}}')
                ]
            assert [row.rpartition(" ")[2] for row in received] == ["1.0", "1.0"]
            assert (await daemon.wait_for_totals(ROUTE, lambda totals: totals["accepted"] == 2))["pending"] == 2
            assert daemon.is_running
            assert await daemon.stop() == 0
            assert not any(one.is_running for one in daemon.replicas)
            with pytest.raises(aiohttp.ClientError):
                await http.get(f"{daemon.url}/livez")
    finally:
        await daemon.kill()


async def test_replicas_that_end_at_their_start_are_told(tmp_path: Path, make_database: Callable[[], str]) -> None:
    """Without settings they end at once; the error carries what one said, and none is left."""
    daemon = Replicas(folder=tmp_path, settings={}, postgres_url=make_database())
    with pytest.raises(DaemonFailed, match="RUDDERSTACK_WRITE_KEY"):
        await daemon.start()
    assert not any(one.is_running for one in daemon.replicas)
