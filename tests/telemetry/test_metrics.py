"""What a scrape shows: every metric of the public contract, from the first moment on."""

import pytest
from prometheus_client import generate_latest

from forwarder import __version__
from forwarder.model import RouteName
from forwarder.telemetry.answer_times import Answers
from forwarder.telemetry.metrics import Metrics

_FROM_THE_START = [
    *(
        f'{name}{{route="{route.value}"}} 0.0'
        for route in RouteName
        for name in (
            "forwarder_events_received_total",
            "forwarder_duplicates_total",
            "forwarder_request_duration_seconds_count",
            "forwarder_delivery_latency_seconds_count",
        )
    ),
    'forwarder_events_settled_total{outcome="dead",route="courier_to_rudderstack"} 0.0',
    'forwarder_requests_total{route="rudderstack_to_courier",verdict="held"} 0.0',
    "forwarder_commit_duration_seconds_count 0.0",
    "forwarder_log_lines_dropped_total 0.0",
    f'forwarder_build_info{{version="{__version__}"}} 1.0',
    "process_resident_memory_bytes ",
    "process_open_fds ",
    "python_gc_collections_total",
    "python_info",
]


@pytest.mark.parametrize("sample", _FROM_THE_START)
def test_it_is_there_from_the_start(sample: str) -> None:
    """Known labels are shown as 0 before anything happened, and the process tells of itself."""
    assert sample in generate_latest(Metrics().registry).decode()


def test_no_counter_tells_its_birthday() -> None:
    """A `_created` series would double what a scrape costs."""
    metrics = Metrics()
    metrics.received.labels("courier_to_rudderstack").inc()
    assert "_created" not in generate_latest(metrics.registry).decode()


def test_answers_are_counted_in_buckets() -> None:
    """A time on a bucket's bound is in it; buckets add up; an endpoint that was not expected is counted too."""
    metrics = Metrics()
    metrics.answers.expect("/events", [200, 401])
    for duration_s in (0.0005, 0.001, 0.0011, 60.0):
        metrics.answers.add("/events", 200, duration_s)
    metrics.answers.add("other", 404, 0.0)
    value = metrics.registry.get_sample_value
    name = "forwarder_answer_duration_seconds_bucket"
    bounds = {bound: value(name, {"endpoint": "/events", "le": bound}) for bound in ("0.001", "0.0025", "10.0", "+Inf")}
    assert bounds == {"0.001": 2, "0.0025": 3, "10.0": 3, "+Inf": 4}
    assert value("forwarder_answers_total", {"endpoint": "/events", "status": "200"}) == 4
    assert value("forwarder_answers_total", {"endpoint": "/events", "status": "401"}) == 0
    assert value("forwarder_answers_total", {"endpoint": "other", "status": "404"}) == 1


def test_names_are_told_without_reading() -> None:
    """A registry asks for the names once, before anything was counted."""
    assert [metric.name for metric in Answers().describe()] == [
        "forwarder_answer_duration_seconds",
        "forwarder_answers",
    ]
