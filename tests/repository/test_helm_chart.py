"""The Helm chart: what it takes and refuses, and what Helm's own engine makes of it."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from forwarder import __version__
from forwarder.settings import Settings

_CHART = "deploy/helm/forwarder"
_LEAST = {"existingSecret": "forwarder"}
_EVERYTHING = {
    "existingSecret": "forwarder",
    "image": {"repository": "registry.example.com/forwarder", "tag": "1"},
    "imagePullSecrets": [{"name": "pull"}],
    "settings": {"FORWARDER_EVENTS": "all", "FORWARDER_ROUTES": "courier_to_rudderstack"},
    "files": {"FORWARDER_RULES": {"configMap": "rules", "key": "rules.toml"}},
    "drainMaxSeconds": 60,
    "preStopSeconds": 10,
    "persistence": {"size": "100Gi", "storageClass": "fast", "spoolBytesMax": "90000000000"},
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "bridge.example.com",
        "tlsSecret": "tls",
        "annotations": {"a": "b"},
    },
    "networkPolicy": {"operatorFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
    "podDisruptionBudget": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "p"}, "tokenSecret": {"name": "scrape", "key": "token"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
}
_THREE = ("sqlite", "postgres", "postgres-autoscaled")
_STOPPED = {"existingSecret": "forwarder", "replicas": 0, "networkPolicy": {"enabled": False}}


@pytest.fixture
def schema(checkout: Path) -> Any:
    """Return the schema that Helm holds the values against."""
    return json.loads((checkout / _CHART / "values.schema.json").read_text())


@pytest.fixture
def defaults(checkout: Path) -> Any:
    """Return the chart's own values."""
    return yaml.safe_load((checkout / _CHART / "values.yaml").read_text())


def test_chart_is_of_this_version(checkout: Path) -> None:
    """The chart starts the image of the version that it comes with."""
    chart = yaml.safe_load((checkout / _CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize("values", [_LEAST, _EVERYTHING, _STOPPED], ids=["least", "everything", "stopped"])
def test_schema_takes_what_is_right(schema: Any, defaults: Any, values: dict[str, Any]) -> None:
    """The defaults need a secret's name and nothing else."""
    jsonschema.validate(defaults | values, schema)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"existingSecret": ""}, "existingSecret|''"),
        ({"replicas": 2}, "the SQLite spool belongs to one process"),
        ({"autoscaling": {"enabled": True}}, "the SQLite spool belongs to one process"),
        ({"spool": "jetstream"}, "jetstream"),
        ({"settings": {"FORWARDER_SPOOL": "postgres"}}, "FORWARDER_SPOOL"),
        ({"settings": {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=x"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"replicas": -1}, "-1"),
        ({"replica": 1}, "replica"),
        ({"settings": {"FORWARDER_EVENTS_KEY": "x"}}, "FORWARDER_EVENTS_KEY"),
        ({"settings": {"FORWARDER_DRAIN_MAX_S": "30"}}, "FORWARDER_DRAIN_MAX_S"),
        ({"settings": {"FORWARDER_IDLE_MAX_S": 30}}, "30"),
        ({"persistence": {"spoolBytesMax": 8589934592}}, "8589934592"),
        ({"ingress": {"enabled": True, "host": "", "tlsSecret": ""}}, "''"),
        ({"serviceMonitor": {"enabled": True, "tokenSecret": {"name": "", "key": ""}}}, "''"),
    ],
)
def test_schema_refuses_what_is_wrong(schema: Any, defaults: Any, values: dict[str, Any], said: str) -> None:
    """A wrong value never reaches a cluster, and the message names it; for replicas it says why."""
    with pytest.raises(jsonschema.ValidationError, match=said):
        jsonschema.validate(defaults | _LEAST | values, schema)


def test_no_secret_is_a_value(schema: Any, checkout: Path) -> None:
    """Every secret, and every setting that the chart makes itself, is refused among the settings."""
    refused = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    template = (checkout / _CHART / "templates/_pod.tpl").read_text()
    own = set(re.findall(r"name: (FORWARDER_\w+),", template)) | {"FORWARDER_RULES", "FORWARDER_LINKS"}
    ours = {name for name in refused if not name.startswith("OTEL_")}
    assert ours == {name for name in Settings.variables() if Settings.is_secret(name)} | own


Render = Callable[[dict[str, Any]], dict[tuple[str, str], Any]]


@pytest.fixture
def render(checkout: Path, tmp_path: Path) -> Render:
    """Return what Helm's own engine makes of values: objects by kind and name."""
    program = checkout / "tests/sdks/.built/helm"
    if not program.exists():
        pytest.skip("needs Helm's engine: make sdks")

    def rendered(values: dict[str, Any]) -> dict[tuple[str, str], Any]:
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        command = [program, checkout / _CHART, tmp_path / "values.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own
        if done.returncode:
            raise ValueError(done.stderr)
        return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}

    return rendered


def _sample(checkout: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((checkout / _CHART / f"ci/{name}-values.yaml").read_text())
    return values


def test_there_are_three_sets_of_values_to_begin_with(checkout: Path, schema: Any, defaults: Any) -> None:
    """One for each way to run it; the schema takes them."""
    assert {path.name for path in (checkout / _CHART / "ci").iterdir()} == {f"{name}-values.yaml" for name in _THREE}
    for name in _THREE:
        jsonschema.validate(defaults | _sample(checkout, name), schema)


_AROUND = "NetworkPolicy PodDisruptionBudget Service Service"


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("sqlite", f"Ingress {_AROUND} StatefulSet"),
        ("postgres", f"Deployment {_AROUND}"),
        (
            "postgres-autoscaled",
            f"Deployment HorizontalPodAutoscaler {_AROUND} PrometheusRule ServiceMonitor",
        ),
    ],
)
def test_kubernetes_takes_what_helm_makes(render: Render, checkout: Path, name: str, kinds: str, version: str) -> None:
    """Each object is valid in an old and a new version of Kubernetes; the Prometheus operator's have no schema."""
    objects = render(_sample(checkout, name))
    assert sorted(kind for kind, _ in objects) == sorted(kinds.split())
    for one in objects.values():
        if "monitoring.coreos.com" not in one["apiVersion"]:
            kubernetes_validate.validate(one, version, strict=True)


def test_chart_starts_the_pod_of_the_manifests(render: Render, checkout: Path) -> None:
    """With the same settings, the pod, its volume and the services are those of deploy/kubernetes, but for labels."""
    text = (checkout / "deploy/kubernetes/forwarder.yaml").read_text()
    plain = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}
    settings = {"RUDDERSTACK_DATA_PLANE_URL": "https://example.dataplane.rudderstack.com"}
    made = render(_LEAST | {"settings": settings})

    def comparable(workload: Any) -> Any:
        pod = workload["spec"]["template"]["spec"]
        for container in pod["containers"]:
            kept = [one for one in container["env"] if one != {"name": "FORWARDER_SPOOL", "value": "sqlite"}]
            container["env"] = sorted(kept, key=lambda one: one["name"])
            container.pop("imagePullPolicy", None)
        return pod, workload["spec"]["volumeClaimTemplates"], workload["spec"]["serviceName"]

    named = "StatefulSet", "forwarder"
    assert comparable(made[named]) == comparable(plain[named])
    for name in ("forwarder", "forwarder-operator"):
        for one in (made["Service", name]["spec"], plain["Service", name]["spec"]):
            del one["selector"]
            one.setdefault("type", "ClusterIP")
        assert made["Service", name]["spec"] == plain["Service", name]["spec"]


def test_replicas_that_share_a_database_are_apart_and_have_no_volume(render: Render, checkout: Path) -> None:
    """They spread over zones and nodes, are replaced and evicted one at a time, and keep nothing of their own."""
    objects = render(_sample(checkout, "postgres"))
    spec = objects["Deployment", "forwarder"]["spec"]
    assert (spec["replicas"], spec["strategy"]["rollingUpdate"]["maxUnavailable"]) == (3, 0)
    assert objects["PodDisruptionBudget", "forwarder"]["spec"]["maxUnavailable"] == 1
    pod = spec["template"]["spec"]
    spread = {one["topologyKey"]: one["labelSelector"]["matchLabels"] for one in pod["topologySpreadConstraints"]}
    labels = spec["template"]["metadata"]["labels"]
    assert spread == {"topology.kubernetes.io/zone": labels, "kubernetes.io/hostname": labels}
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["FORWARDER_SPOOL"] == "postgres"
    assert "FORWARDER_DATA_DIR" not in environment
    assert [one["name"] for one in pod["volumes"]] == ["secrets"]


def test_autoscaling_follows_the_oldest_event_that_waits(render: Render, checkout: Path) -> None:
    """Its metric is the one that the adapter's sample serves; the Deployment then names no number of its own."""
    objects = render(_sample(checkout, "postgres-autoscaled"))
    assert "replicas" not in objects["Deployment", "forwarder"]["spec"]
    spec = objects["HorizontalPodAutoscaler", "forwarder"]["spec"]
    assert (spec["scaleTargetRef"]["kind"], spec["minReplicas"], spec["maxReplicas"]) == ("Deployment", 2, 8)
    (metric,) = spec["metrics"]
    (rule,) = yaml.safe_load((checkout / "deploy/prometheus/adapter.yaml").read_text())["externalRules"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    assert metric["external"]["target"] == {"type": "Value", "value": "20"}


def test_drain_and_files_reach_the_pod(render: Render) -> None:
    """The grace follows the drain, and a rules file is mounted where its setting says."""
    pod = render(_EVERYTHING)["StatefulSet", "forwarder"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 60 + 10 + 15
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["FORWARDER_DRAIN_MAX_S"] == "60"
    assert environment["FORWARDER_SPOOL_BYTES_MAX"] == "90000000000"
    assert environment["FORWARDER_RULES"] == "/etc/forwarder/FORWARDER_RULES/rules.toml"
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes[mounts["/etc/forwarder/FORWARDER_RULES"]]["configMap"] == {"name": "rules"}


def test_prometheus_gets_the_tested_rules(render: Render, checkout: Path) -> None:
    """The rules are those of deploy/prometheus, and the scrape's job is called as they expect."""
    objects = render(_EVERYTHING)
    rules = yaml.safe_load((checkout / "deploy/prometheus/rules.yml").read_text())
    assert objects["PrometheusRule", "forwarder"]["spec"] == rules
    monitor, service = objects["ServiceMonitor", "forwarder"]["spec"], objects["Service", "forwarder-operator"]
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "forwarder"
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [one["port"] for one in monitor["endpoints"]] == [one["name"] for one in service["spec"]["ports"]]


def test_nobody_reaches_the_page_unless_named(render: Render) -> None:
    """The network policy opens the public port to all and the operator's port to those who are named."""

    def opened(values: dict[str, Any]) -> dict[str, Any]:
        rules = render(values)["NetworkPolicy", "forwarder"]["spec"]["ingress"]
        return {rule["ports"][0]["port"]: rule.get("from") for rule in rules}

    named = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
    assert opened(_LEAST) == {"http": None}
    assert opened(_LEAST | {"networkPolicy": {"operatorFrom": named}}) == {"http": None, "operator": named}


def test_helm_says_why_there_is_one_replica(render: Render) -> None:
    """Helm itself refuses two on SQLite, with the reason."""
    with pytest.raises(ValueError, match="the SQLite spool belongs to one process"):
        render(_LEAST | {"replicas": 2})
