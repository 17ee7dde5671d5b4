"""The alert rules and the dashboard: each metric and label that they name is one that a daemon shows."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from forwarder.archive_port import SpoolFacts
from forwarder.ingress.routing import ENDPOINT_NAMES
from forwarder.model import RouteName, Totals
from forwarder.operator.incidents.traffic import SENDERS_REASONS
from forwarder.telemetry.collector import TotalsCollector
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

_RULES = "deploy/prometheus/rules.yml"
_TESTS = "deploy/prometheus/rules_test.yml"
_DASHBOARD = "deploy/grafana/forwarder.json"
_SCRAPES = {"job", "instance"}  # labels that Prometheus adds to everything
_PROMQL = {
    "min",
    "max",
    "sum",
    "rate",
    "increase",
    "delta",
    "changes",
    "absent",
    "min_over_time",
    "histogram_quantile",
    "label_values",
}
_WORDS = _PROMQL | {"by", "on", "without", "or", "and", "le"}
_needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")

Shown = Mapping[str, Mapping[str, set[str]]]


def _totals() -> TotalsCollector:
    """Return what shows the spool, of which every replica tells the whole."""
    totals = TotalsCollector()
    each = dict.fromkeys(RouteName, 1)
    facts = SpoolFacts(
        size_bytes=1,
        cap_bytes=1,
        unsettled_bytes=each,
        totals=dict.fromkeys(RouteName, Totals(accepted=0, pending=0, delivered=0, filtered=0, unmapped=0, dead=0)),
        oldest_pending_ms=dict.fromkeys(RouteName, 1),
        retrying=each,
        open_dead=each,
        discarded=each,
        corrupt_rows=0,
        is_accepting=True,
        refusal="",
        engine="",
    )
    totals.show(facts, now_ms=1)
    return totals


@pytest.fixture(scope="module")
def shown() -> Shown:
    """Return what a daemon shows that runs both routes: metric, label, values; and Prometheus's own `up`."""
    metrics = Metrics()
    metrics.registry.register(_totals())
    reporter = Reporter(metrics, structlog.get_logger())
    for endpoint in ENDPOINT_NAMES:
        reporter.endpoint_opened(endpoint)
        reporter.request_answered(endpoint, 200, 0.0)
    for route in RouteName:
        reporter.route_state_changed(route, "running")
        reporter.concurrency_changed(route, limit=1)
    for source in ("nats", "kafka", "redis"):
        reporter.source_lag(source, 1)
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def _unknown(expression: str, told: str, shown: Shown) -> Iterator[str]:
    """Yield what an expression, or the text told of its result (`$labels.x`, a legend's `{{x}}`), names in vain."""
    plain = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    groups = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", plain)
    bare = re.sub(r"\b(?:by|on|without)\s*\([^)]*\)|\{[^}]*\}|\$\w+", "", plain)
    names = set(re.findall(r"[a-z_]\w*", re.sub(r"label_values\((\w+), \w+\)", r"\1", bare))) - _WORDS
    yield from names - shown.keys()
    known = {label for name in names for label in shown.get(name, ())} | _SCRAPES
    named = {label.strip() for group in groups for label in group.split(",")}
    named |= set(re.findall(r"(?:\$labels\.|\{\{)(\w+)", told))
    yield from named - known
    for name, matchers in re.findall(r"([a-z_]\w*)\{([^}]*)\}", expression):
        for label, sign, value in re.findall(r'(\w+)(!?=~?)"([^"]*)"', matchers):
            values = shown.get(name, {}).get(label)
            if label in _SCRAPES:
                continue
            if values is None:
                yield f"{name}{{{label}}}"
            elif "$" not in value:
                asked = value.split("|") if "~" in sign else [re.escape(value)]
                yield from (one for one in asked if not any(re.fullmatch(one, each) for each in values))


def _rules(checkout: Path) -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((checkout / _RULES).read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_rules_name_only_what_a_daemon_shows(checkout: Path, shown: Shown) -> None:
    """An alert on a metric, a label or a value that does not exist would never fire."""
    for rule in _rules(checkout):
        assert not [*_unknown(rule["expr"], rule["annotations"]["summary"], shown)], rule["alert"]


def _dashboard(checkout: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads((checkout / _DASHBOARD).read_text())
    return dashboard


def test_dashboard_names_only_what_a_daemon_shows(checkout: Path, shown: Shown) -> None:
    """A panel, a legend or a variable on what does not exist would stay empty."""
    dashboard = _dashboard(checkout)
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert targets
    for target in targets:
        assert not [*_unknown(target["expr"], target["legendFormat"], shown)], target["expr"]
    (query,) = (one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query")
    assert not [*_unknown(query, "", shown)]


def test_dashboard_shows_once_what_every_replica_tells(checkout: Path) -> None:
    """What is the whole's, such as what waits, is not drawn once for each replica, and never added up."""
    whole = {family.name for family in _totals().collect()} | {"forwarder_route_state"}
    expressions = [target["expr"] for panel in _dashboard(checkout)["panels"] for target in panel.get("targets", ())]
    told = [one for one in expressions if whole & set(re.findall(r"forwarder_\w+", one))]
    assert len(told) > 10
    assert [one for one in told if not re.match(r"(?:sum\()?(?:max|min)\b[^{]*\(forwarder_", one)] == []


def test_dashboard_has_a_place_for_every_panel(checkout: Path) -> None:
    """Panels have numbers of their own, fill rows of 24 and do not overlap; each reads the chosen Prometheus."""
    dashboard = _dashboard(checkout)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells) == 24 * max(at["y"] + at["h"] for at in places)
    assert {panel["datasource"]["uid"] for panel in panels if "targets" in panel} == {"${datasource}"}


@pytest.mark.parametrize(
    ("expression", "told", "unknown"),
    [
        ("forwarder_gone > 0", "", "forwarder_gone"),
        ('sum(rate(forwarder_rejected_total{cause="x"}[5m]))', "", "forwarder_rejected_total{cause}"),
        ('forwarder_route_state{state="stuck"} == 1', "", "stuck"),
        ('increase(forwarder_rejected_total{reason=~"key_unknown|key_gone"}[5m])', "", "key_gone"),
        ("sum by (job, state) (forwarder_spool_cap_bytes)", "", "state"),
        ("forwarder_spool_accepting == 0", "{{ $labels.route }}", "route"),
        ("forwarder_spool_accepting", "{{route}}", "route"),
    ],
)
def test_what_is_not_shown_is_found(shown: Shown, expression: str, told: str, unknown: str) -> None:
    """The control of the two tests that look: each kind of wrong name is noticed."""
    assert [*_unknown(expression, told, shown)] == [unknown]


def test_every_alert_says_what_to_do(checkout: Path) -> None:
    """Each runbook is a heading of the guide."""
    for rule in _rules(checkout):
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (checkout / path).read_text(), flags=re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, rule["alert"]


def test_rejected_senders_are_those_of_the_incident(checkout: Path) -> None:
    """The alert and the daemon's own incident count the same reasons."""
    (rule,) = (rule for rule in _rules(checkout) if rule["alert"] == "ForwarderSendersRejected")
    (reasons,) = re.findall(r'reason=~"([^"]*)"', rule["expr"])
    assert set(reasons.split("|")) == SENDERS_REASONS


def test_every_alert_is_seen_to_fire(checkout: Path) -> None:
    """The rules' own tests make each alert fire at least once."""
    tests = (checkout / _TESTS).read_text()
    assert set(re.findall(r'alertname="(\w+)"', tests)) == {rule["alert"] for rule in _rules(checkout)}


def _promtool(folder: Path, what: str, file: str) -> None:
    command = ["promtool", what, "rules", file]
    done = subprocess.run(  # noqa: S603 - wherever this machine has it
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@_needs_promtool
@pytest.mark.parametrize(("what", "file"), [("check", _RULES), ("test", _TESTS)])
def test_prometheus_takes_the_rules(checkout: Path, what: str, file: str) -> None:
    """Prometheus's own tool reads the rules, and they fire exactly when their tests say."""
    _promtool(checkout, what, file)


@_needs_promtool
def test_prometheus_takes_the_dashboards_queries(checkout: Path, tmp_path: Path) -> None:
    """Each query is PromQL once Grafana has put its interval in."""
    targets = [target for panel in _dashboard(checkout)["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{number}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for number, target in enumerate(targets)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool(tmp_path, "check", "rules.yml")
