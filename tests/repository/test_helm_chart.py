"""The Helm chart: what it takes and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
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
        ({"replicas": 2}, "this version has SQLite alone, whose spool belongs to one process"),
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
    template = (checkout / _CHART / "templates/statefulset.yaml").read_text()
    own = set(re.findall(r"name: (FORWARDER_\w+),", template)) | {"FORWARDER_RULES", "FORWARDER_LINKS"}
    assert refused == {name for name in Settings.variables() if Settings.is_secret(name)} | own
