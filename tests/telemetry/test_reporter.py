"""Facts become metrics and lines together."""

from collections.abc import Callable

import pytest
import structlog
from structlog.testing import CapturingLogger

from forwarder.model import RouteName
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

_ROUTE = RouteName.COURIER_TO_RUDDERSTACK
_LABELS = {"route": _ROUTE.value}

Fact = Callable[[Reporter], None]


def _reporter() -> tuple[Reporter, CapturingLogger]:
    lines = CapturingLogger()
    log = structlog.wrap_logger(lines, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    return Reporter(Metrics(), log), lines


@pytest.mark.parametrize(
    ("fact", "line"),
    [
        (lambda r: r.request_rejected("/events", "key_missing"), "request.rejected"),
        (lambda r: r.event_buried(_ROUTE, sequence=3, reason="no id"), "event.buried"),
        (lambda r: r.request_failed(_ROUTE, reason="503", status=503, events=2), "request.failed"),
        (lambda r: r.route_held(_ROUTE, scope="route", reason="401", status=401), "route.held"),
        (lambda r: r.route_hold_ended(_ROUTE, scope="route", held_s=1.23), "route.hold_ended"),
        (lambda r: r.route_backing_off(_ROUTE, scope="route", reason="429", after_s=1), "route.backing_off"),
        (lambda r: r.route_paused(_ROUTE, who="page"), "route.paused"),
        (lambda r: r.route_resumed(_ROUTE, who="page"), "route.resumed"),
        (lambda r: r.spool_refusing(reason="cap"), "spool.refusing"),
        (lambda r: r.spool_accepting(), "spool.accepting"),
        (lambda r: r.loop_stopped("loop guard: marked as Courier's own event"), "loop.stopped"),
        (lambda r: r.history_yielded(events=2), "spool.history_yielded"),
        (lambda r: r.row_quarantined(sequence=3), "spool.row_quarantined"),
        (lambda r: r.spool_damaged(), "spool.damaged"),
        (lambda r: r.settlement_waiting(reason="disk", events=3), "spool.settlement_waiting"),
        (lambda r: r.request_crashed("/events", error="KeyError", where="x.py:1"), "request.crashed"),
        (lambda r: r.listener_started(host="h", port=1), "listener.started"),
        (lambda r: r.listener_stopped(), "listener.stopped"),
        (lambda r: r.operator_failed(ValueError("x")), "operator.failed"),
        (lambda r: r.setting_noticed("X"), "setting.unread"),
        (lambda r: r.daemon_ready(version="1"), "daemon.ready"),
        (lambda r: r.daemon_draining(drain_max_s=1), "daemon.draining"),
        (lambda r: r.drain_cut_off(workers=["a"]), "daemon.drain_cut_off"),
        (lambda r: r.worker_stuck(worker="a"), "worker.stuck"),
    ],
)
def test_each_fact_is_one_line(fact: Fact, line: str) -> None:
    """A fact that people must hear of is exactly one line, named noun.fact."""
    reporter, lines = _reporter()
    fact(reporter)
    assert [call.kwargs["event"] for call in lines.calls] == [line]


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
            lambda r: r.request_finished(_ROUTE, verdict="held", duration_s=0.1),
            "forwarder_requests_total",
            {"verdict": "held"},
            1,
        ),
        (
            lambda r: r.request_finished(_ROUTE, verdict="held", duration_s=0.1),
            "forwarder_request_duration_seconds_count",
            {},
            1,
        ),
        (
            lambda r: r.events_delivered(_ROUTE, latencies_s=[0.1, 0.2]),
            "forwarder_delivery_latency_seconds_count",
            {},
            2,
        ),
        (lambda r: r.concurrency_changed(_ROUTE, limit=8), "forwarder_concurrency_limit", {}, 8),
        (lambda r: r.route_state_changed(_ROUTE, "held"), "forwarder_route_state", {"state": "held"}, 1),
        (lambda r: r.route_state_changed(_ROUTE, "held"), "forwarder_route_state", {"state": "running"}, 0),
    ],
)
def test_each_count_has_its_contract_name(fact: Fact, sample: str, labels: dict[str, str], value: float) -> None:
    """Counting facts move the metric of the public contract, and log nothing."""
    reporter, lines = _reporter()
    fact(reporter)
    assert reporter.metrics.registry.get_sample_value(sample, _LABELS | labels) == value
    assert lines.calls == []


def test_rejections_are_counted_by_door_and_reason() -> None:
    """A door that turns a request away counts it under its endpoint and reason."""
    reporter, _ = _reporter()
    reporter.request_rejected("/events", "key_missing")
    labels = {"endpoint": "/events", "reason": "key_missing"}
    assert reporter.metrics.registry.get_sample_value("forwarder_rejected_total", labels) == 1
