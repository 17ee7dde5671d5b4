"""What is shipped for operators: each file is valid for its own tool and agrees with the daemon's settings."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from forwarder.errors import SettingsInvalid
from forwarder.settings import Settings, load

_VARIABLE = re.compile(r"\b(?:FORWARDER|COURIER|RUDDERSTACK)_[A-Z_]+[A-Z]\b")
_MANIFESTS = "deploy/kubernetes/forwarder.yaml"


def _drain_max_s() -> float:
    default: float = Settings.model_fields["drain_max_s"].default
    return default


@pytest.fixture
def manifests(checkout: Path) -> dict[tuple[str, str], Any]:
    """Return the Kubernetes objects by kind and name."""
    documents = list(yaml.safe_load_all((checkout / _MANIFESTS).read_text()))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


@pytest.mark.parametrize(
    "file",
    [
        "Dockerfile",
        "deploy/compose/compose.yaml",
        "deploy/compose/example.env",
        "deploy/forwarder.service",
        "deploy/proxy/Caddyfile",
        "deploy/proxy/nginx.conf",
        "deploy/proxy/traefik.yaml",
        "deploy/compose/compose.postgres.yaml",
        "deploy/helm/forwarder/templates/_pod.tpl",
        "deploy/helm/forwarder/values.schema.json",
        "deploy/helm/forwarder/values.yaml",
        _MANIFESTS,
        ".ci/run",
        "Makefile",
        "docs/operating.md",
    ],
)
def test_names_only_settings_that_exist(checkout: Path, file: str) -> None:
    """Whatever looks like a setting in these files is one, so that nobody copies a name that the daemon refuses."""
    named = set(_VARIABLE.findall((checkout / file).read_text()))
    assert named <= {*Settings.variables(), "FORWARDER_SECRETS_DIR"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_without_a_word(checkout: Path, tmp_path: Path) -> None:
    """Systemd knows every key of the unit: a misspelt one only prints a warning, so anything printed is a failure."""
    unit = (checkout / "deploy/forwarder.service").read_text()
    # The program is not installed where the tests run, and its absence is an error of its own.
    (tmp_path / "forwarder.service").write_text(unit.replace("/opt/forwarder/bin/forwarder run", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "./forwarder.service"],  # noqa: S607 - wherever this machine has it
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_starts_the_daemon_without_a_credential(checkout: Path) -> None:
    """Each credential falls back to an empty one: the daemon names what is missing, and systemd does not try for ever.

    Without the fallback systemd 252 says "Failed to set up credentials: Protocol error" every two seconds.
    """
    unit = (checkout / "deploy/forwarder.service").read_text()
    loaded = dict(re.findall(r"^LoadCredential=([A-Z_]+):(\S+)$", unit, flags=re.MULTILINE))
    assert loaded.keys() == {one for one in Settings.variables() if Settings.is_secret(one)}
    assert all(path == f"/etc/forwarder/credentials/{name}" for name, path in loaded.items())
    # An empty value is no valid SetCredential=; a line's end is stripped as in any file of one value.
    assert re.findall(r"^SetCredential=([A-Z_]+):\\n$", unit, flags=re.MULTILINE) == list(loaded)
    assert "RestartPreventExitStatus=78" in unit.splitlines()


def test_systemd_waits_longer_than_a_drain(checkout: Path) -> None:
    """The unit's stop time-out is above the drain's own deadline, so that systemd never cuts a drain short."""
    unit = (checkout / "deploy/forwarder.service").read_text()
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, flags=re.MULTILINE)
    assert float(stop_s) > _drain_max_s() + 5


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_takes_the_manifests(manifests: dict[tuple[str, str], Any], version: str) -> None:
    """Each manifest is valid in an old and a new version of Kubernetes, with no field that it does not know."""
    assert len(manifests) == 4
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kubernetes_manifests_start_nothing_until_they_are_filled_in(manifests: dict[tuple[str, str], Any]) -> None:
    """As they are shipped they name no secret and no address that the daemon takes: it says which, and ends with 78."""
    (container,) = manifests["StatefulSet", "forwarder"]["spec"]["template"]["spec"]["containers"]
    secrets = manifests["Secret", "forwarder"]["stringData"]
    environ = {one["name"]: one["value"] for one in container["env"]} | secrets
    del environ["FORWARDER_SECRETS_DIR"]
    with pytest.raises(SettingsInvalid) as refused:
        load(environ, Path("/nowhere"))
    placeholders = re.findall(r"([A-Z_]+): it is the placeholder", str(refused.value))
    assert sorted(placeholders) == sorted([*secrets, "RUDDERSTACK_DATA_PLANE_URL"])


def test_kubernetes_waits_longer_than_a_drain(manifests: dict[tuple[str, str], Any]) -> None:
    """The pod's grace is above the pre-stop sleep and the drain together, so that a drain ends by itself."""
    pod = manifests["StatefulSet", "forwarder"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _, sleep_s = container["lifecycle"]["preStop"]["exec"]["command"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    drain_s = float(environment.get("FORWARDER_DRAIN_MAX_S", _drain_max_s()))
    assert pod["terminationGracePeriodSeconds"] > float(sleep_s) + drain_s + 5


def test_kubernetes_pod_can_write_only_its_volume(manifests: dict[tuple[str, str], Any]) -> None:
    """The pod runs as the image's numeric user, with a read-only root, no capability and one daemon per volume."""
    workload = manifests["StatefulSet", "forwarder"]["spec"]
    (container,) = workload["template"]["spec"]["containers"]
    assert workload["replicas"] == 1
    assert workload["template"]["spec"]["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {one["mountPath"] for one in container["volumeMounts"]} == {"/data", "/run/secrets/forwarder"}


def test_image_needs_no_root(checkout: Path) -> None:
    """The image runs as a numeric user, starts the daemon directly so that it gets SIGTERM, and writes only /data."""
    lines = (checkout / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["forwarder"]' in lines
    assert 'CMD ["run"]' in lines
    assert "VOLUME /data" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert [line for line in lines if line.startswith("EXPOSE")] == ["EXPOSE 8080"]  # `docker run -P` opens no page
    assert any("PYTHONDONTWRITEBYTECODE=1" in line for line in lines)


def test_image_says_what_it_was_built_from(checkout: Path) -> None:
    """The labels that registries and scanners read are there, and `make image` fills them."""
    image = (checkout / "Dockerfile").read_text()
    for label in ("title", "description", "version", "revision", "created", "source"):
        assert f"org.opencontainers.image.{label}=" in image, label
    recipe = (checkout / "Makefile").read_text()
    for argument in re.findall(r"^ARG ([A-Z_]+)=?", image, flags=re.MULTILINE):
        assert f"--build-arg {argument}=" in recipe, argument


def test_image_has_a_python_that_is_tested(checkout: Path) -> None:
    """CI runs each Python that the package names, and the image's is one of them."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    named = [one.rpartition(" ")[2] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert f"for version in {' '.join(named)}; do" in (checkout / ".ci/run").read_text()
    images = re.findall(r"^FROM python:([\d.]+)-", (checkout / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert len(images) == 2
    assert set(images) <= set(named)


def test_guide_runs_the_image_safely(checkout: Path) -> None:
    """The guide's `docker run` outlasts a drain and names its volume; the page is published on loopback alone."""
    guide = (checkout / "docs/operating.md").read_text().replace("\\\n", " ")
    (run,) = re.findall(r"^ {4}docker run .*$", guide, flags=re.MULTILINE)
    (stop_s,) = re.findall(r"--stop-timeout (\d+)", run)
    assert float(stop_s) > _drain_max_s() + 5
    assert "-v forwarder-data:/data" in run
    assert "--rm" not in run
    assert "8081" not in run
    assert "-p 127.0.0.1:8081:8081" in guide


def test_image_carries_only_locked_wheels(checkout: Path) -> None:
    """Everything that the image installs is named with its hash, or is our own wheel."""
    text = (checkout / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"\binstall\s+(-.*?)(?:&&|$)", text, flags=re.MULTILINE)
    pip_installs = [one for one in installs if not one.startswith("-d ")]
    assert len(pip_installs) == 3
    for arguments in pip_installs:
        assert "--require-hashes" in arguments or "--no-index" in arguments
