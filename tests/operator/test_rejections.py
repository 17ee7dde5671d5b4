"""What was turned away is seen: by endpoint and reason, in the last hour and the last day."""

from typing import Any

from forwarder.operator.rejections import Rejected, Rejections
from forwarder.telemetry.metrics import Metrics

MINUTE_MS = 60_000


def test_the_last_hour_and_day_are_counted() -> None:
    """What is older than an hour counts for the day alone, and what is older than a day for nothing."""
    metrics = Metrics()
    rejections = Rejections(metrics.rejected)

    def passed(minutes: int, *, start: int) -> None:
        for minute in range(start, start + minutes):
            rejections.sample(now_ms=minute * MINUTE_MS)

    assert rejections.lately() == []
    passed(2, start=0)
    metrics.rejected.labels("courier", "signature_wrong").inc(3)
    metrics.rejected.labels("v1", "key_wrong").inc(1)
    passed(61, start=2)
    metrics.rejected.labels("v1", "key_wrong").inc(2)
    assert rejections.lately() == [
        Rejected(endpoint="v1", reason="key_wrong", last_hour=2, last_day=3),
        Rejected(endpoint="courier", reason="signature_wrong", last_hour=0, last_day=3),
    ]
    passed(1_440, start=63)
    assert rejections.lately() == [Rejected(endpoint="v1", reason="key_wrong", last_hour=0, last_day=2)]


def test_what_came_before_the_first_sample_counts() -> None:
    """A sender that was turned away in the first minute is not forgotten."""
    metrics = Metrics()
    rejections = Rejections(metrics.rejected)
    metrics.rejected.labels("courier", "signature_wrong").inc(3)
    rejections.sample(now_ms=0)
    assert [one.last_hour for one in rejections.lately()] == [3]


async def test_rejected_requests_are_shown_where_people_look(world: Any) -> None:
    """On the overview, in the status, and where a search for a message finds nothing."""
    await world.arrive()
    assert "Rejected requests" not in (await world.get("/")).words
    world.parts.reporter.request_rejected("courier", "signature_wrong")
    await world.incidents.look()
    assert (
        "Rejected requests Endpoint Reason Last hour Last day courier signature wrong 1 1"
        in (await world.get("/")).words
    )
    assert (await world.api("/api/status"))["rejected"] == [
        {"endpoint": "courier", "reason": "signature_wrong", "last_hour": 1, "last_day": 1}
    ]
    assert "1 request was rejected in the last hour" in (await world.get("/events?message=lost")).words
