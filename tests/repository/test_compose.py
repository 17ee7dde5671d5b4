"""The Compose file: a daemon that takes what it is given, keeps its events, and is watched with the tested files."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from forwarder import __version__
from forwarder.cli.command import cli
from forwarder.errors import SettingsInvalid
from forwarder.settings import Settings, load

_FOLDER = "deploy/compose"


@pytest.fixture
def folder(checkout: Path) -> Path:
    """Return the folder that the commands run in."""
    return checkout / _FOLDER


@pytest.fixture
def compose(folder: Path) -> Any:
    """Return the Compose file."""
    return yaml.safe_load((folder / "compose.yaml").read_text())


class _Loader(yaml.SafeLoader):
    """YAML with Compose's own tag."""


def _overriding(loader: _Loader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    found: list[Any] = loader.construct_sequence(node)
    return found


_Loader.add_constructor("!override", _overriding)


@pytest.fixture
def postgres(folder: Path) -> Any:
    """Return the file that goes over the Compose file."""
    return yaml.load((folder / "compose.postgres.yaml").read_text(), _Loader)  # noqa: S506 - a safe loader


def _given(folder: Path, compose: Any, **filled_in: str) -> dict[str, str]:
    """Return the environment of the daemon, as Compose puts it together."""
    lines = (folder / "example.env").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    own = compose["services"]["forwarder"]["environment"].items()
    made = {name: re.sub(r"\$\{(\w+):\?\}", r"\1-0123456789abcdef", text) for name, text in own}
    return example | filled_in | made


def test_daemon_takes_its_settings_once_they_are_filled_in(folder: Path, compose: Any) -> None:
    """With the placeholders it names each of them and does not start; filled in, Prometheus may only look."""
    with pytest.raises(SettingsInvalid) as refused:
        load(_given(folder, compose), folder)
    placeholders = {"RUDDERSTACK_WRITE_KEY", "RUDDERSTACK_DATA_PLANE_URL", "COURIER_WEBHOOK_SECRET"}
    assert set(re.findall(r"([A-Z_]+): it is the placeholder", str(refused.value))) == placeholders
    values = dict.fromkeys(placeholders, "a-secret") | {"RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.org"}
    settings = load(_given(folder, compose, **values), folder)
    assert [(token.name, token.role) for token in settings.named_tokens()] == [("prometheus", "view")]


def test_daemon_keeps_its_events_and_outlasts_a_drain(compose: Any) -> None:
    """It is of this version, its data is a named volume, its page is on loopback, and Compose waits for its drain."""
    daemon = compose["services"]["forwarder"]
    assert daemon["image"] == f"forwarder:{__version__}"
    assert daemon["volumes"] == ["data:/data"]
    assert "data" in compose["volumes"]
    assert (daemon["read_only"], daemon["cap_drop"]) == (True, ["ALL"])
    assert float(daemon["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_max_s"].default + 5
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["8080:8080"]


def test_prometheus_scrapes_the_daemon_with_its_own_token(folder: Path, compose: Any) -> None:
    """The scrape's target, its job and its token are those of the daemon, the rules and the Compose file."""
    (scrape,) = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["job_name"] == "forwarder"
    assert scrape["static_configs"] == [{"targets": ["forwarder:8081"]}]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    token = compose["secrets"][secret]["environment"]
    assert compose["services"]["forwarder"]["environment"]["FORWARDER_OPERATOR_TOKENS"].endswith(f"${{{token}:?}}")


def test_every_file_that_is_mounted_exists(folder: Path, compose: Any) -> None:
    """Docker makes an empty folder of a file that is not there."""
    mounted = [one.split(":")[0] for service in compose["services"].values() for one in service["volumes"]]
    files = [one for one in mounted if one.startswith(".")]
    assert len(files) == 5
    assert all((folder / one).is_file() for one in files)
    assert {one for one in mounted if not one.startswith(".")} == compose["volumes"].keys()


def test_replicas_share_a_database_that_keeps_its_data(folder: Path, compose: Any, postgres: Any) -> None:
    """Over the Compose file the daemon takes its settings, waits for the database, and a second one has other ports."""
    first, second, database = (postgres["services"][name] for name in ("forwarder", "forwarder-2", "postgres"))
    own = {name: text.replace("${POSTGRES_PASSWORD:?}", "pw") for name, text in first["environment"].items()}
    values = dict.fromkeys(("RUDDERSTACK_WRITE_KEY", "COURIER_WEBHOOK_SECRET"), "a-secret")
    given = _given(folder, compose, **values, RUDDERSTACK_DATA_PLANE_URL="https://dp.example.org")
    assert load(given | own, folder).spool == "postgres"
    assert (second["environment"], second["depends_on"]) == (first["environment"], first["depends_on"])
    assert first["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert database["environment"]["POSTGRES_USER"] in database["healthcheck"]["test"][1]
    (volume,) = database["volumes"]
    assert volume.split(":")[0] in postgres["volumes"]
    ports = compose["services"]["forwarder"]["ports"] + second["ports"]
    assert len({port.rsplit(":", 1)[0] for port in ports}) == len(ports)
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["8080:8080", "8090:8080"]


def test_readme_names_what_exists(folder: Path, compose: Any, postgres: Any) -> None:
    """Its lines name these files, their services, profiles and variables, and commands of the daemon."""
    lines = re.findall(r"^ {4}(.+)$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    made = next(line for line in lines if "OPERATOR_TOKEN" in line)
    asked = set(re.findall(r"\$\{(\w+):\?\}", (folder / "compose.yaml").read_text()))
    assert set(re.findall(r"[A-Z]+_[A-Z]+", made)) == asked
    (files,) = {line.split("COMPOSE_FILE=")[1] for line in lines if "COMPOSE_FILE" in line}
    assert all((folder / file).is_file() for file in files.split(":"))
    services = compose["services"] | postgres["services"]
    profiles = {line.split("--profile ")[1].split()[0] for line in lines if "--profile" in line}
    assert {name for one in services.values() for name in one.get("profiles", ())} == profiles
    used = [words for words in map(shlex.split, lines) if words[:2] == ["docker", "compose"]]
    assert {word for words in used for word in words if word.startswith("forwarder")} <= services.keys()
    called = [words for words in used if {"exec", "run"} & set(words)]
    assert called
    for words in called:
        *_, command = (one for one in words if not one.startswith("-"))
        assert cli.get_command(click.Context(cli), command), words
