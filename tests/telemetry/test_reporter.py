"""One fact, one method: at most one line, or a metric that moves, and never an error for what it is told."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import pytest
import structlog
from prometheus_client import generate_latest
from structlog.testing import CapturingLogger

from forwarder.model import RouteName
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

_ROUTE = RouteName.COURIER_TO_RUDDERSTACK
_ARGUMENTS: dict[Any, Any] = {
    RouteName: _ROUTE,
    str: "held",
    int: 2,
    int | None: 2,
    float: 0.5,
    Sequence[str]: ["a"],
    Sequence[float]: [0.1, 0.2],
    Mapping[RouteName, int]: {RouteName.COURIER_TO_RUDDERSTACK: 3},
    Exception: ValueError("secret"),
}


def _reporter() -> tuple[Reporter, CapturingLogger]:
    lines = CapturingLogger()
    log = structlog.wrap_logger(lines, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    return Reporter(Metrics(), log), lines


_FACTS = [name for name, _ in inspect.getmembers(Reporter, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("fact", _FACTS)
def test_a_fact_is_told_once(fact: str) -> None:
    """A fact that people must hear of is one line named noun.fact; one that is only counted moves a metric."""
    reporter, lines = _reporter()
    before = generate_latest(reporter.metrics.registry)
    method = getattr(reporter, fact)
    hints = get_type_hints(method)
    given = {name: _ARGUMENTS[hints[name]] for name in inspect.signature(method).parameters}
    positional = [
        given.pop(name)
        for name, one in inspect.signature(method).parameters.items()
        if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    method(*positional, **given)
    events = [call.kwargs["event"] for call in lines.calls]
    is_moved = generate_latest(reporter.metrics.registry) != before
    assert len(events) == 1 or (not events and is_moved)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", event) for event in events)
    # An alarm wants a person, so its level is error; nothing else is.
    assert {call.method_name for call in lines.calls if "Alarm" in (method.__doc__ or "")} <= {"error", "warning"}


@pytest.mark.parametrize(
    ("fact", "sample", "labels", "value"),
    [
        (lambda r: r.events_received(_ROUTE, accepted=2, duplicates=0), "forwarder_events_received_total", {}, 2),
        (lambda r: r.events_received(_ROUTE, accepted=0, duplicates=1), "forwarder_duplicates_total", {}, 1),
        (
            lambda r: r.events_settled(_ROUTE, outcome="dead", count=3),
            "forwarder_events_settled_total",
            {"outcome": "dead"},
            3,
        ),
        (
            lambda r: r.events_delivered(_ROUTE, latencies_s=[0.1, 0.2]),
            "forwarder_delivery_latency_seconds_count",
            {},
            2,
        ),
        (lambda r: r.route_state_changed(_ROUTE, "held"), "forwarder_route_state", {"state": "held"}, 1),
        (lambda r: r.route_state_changed(_ROUTE, "held"), "forwarder_route_state", {"state": "running"}, 0),
    ],
)
def test_counts_are_exact(fact: Callable[[Reporter], None], sample: str, labels: dict[str, str], value: float) -> None:
    """Counting facts move the metric of the public contract by what they are told."""
    reporter, _ = _reporter()
    fact(reporter)
    assert reporter.metrics.registry.get_sample_value(sample, {"route": _ROUTE.value} | labels) == value
