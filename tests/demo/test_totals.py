"""The daemon's account is read from a scrape, whatever else the scrape holds."""

import asyncio

import aiohttp
import pytest

from forwarder.demo import totals
from forwarder.demo.totals import parse_totals
from stand_ins.connections import serving

SCRAPE = """# HELP forwarder_events The totals.
# TYPE forwarder_events gauge
forwarder_events{route="courier_to_rudderstack",state="accepted"} 12.0
forwarder_events{state="pending",route="courier_to_rudderstack"} 3.0
forwarder_events{route="rudderstack_to_courier",state="dead"} 1e+06
# HELP forwarder_events_received_total Received.
# TYPE forwarder_events_received_total counter
forwarder_events_received_total{route="courier_to_rudderstack"} 99.0
"""


def test_books_are_read_per_route_and_state() -> None:
    """Order of labels and form of numbers do not matter; other metrics are left out."""
    assert parse_totals(SCRAPE) == {
        "courier_to_rudderstack": {"accepted": 12, "pending": 3},
        "rudderstack_to_courier": {"dead": 1_000_000},
    }
    assert parse_totals("") == {}


async def test_a_daemon_that_does_not_answer_in_time_is_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for it catches the one error of both."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr(totals, "ANSWER_MAX_S", 0.05)
    async with serving(silent) as port:
        with pytest.raises(aiohttp.ClientError):
            await totals.read_totals(f"http://127.0.0.1:{port}")
