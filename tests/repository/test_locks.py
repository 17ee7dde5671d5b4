"""The lock files: complete, with hashes, from no place that is named, and in step with what is asked for."""

import ast
import re
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_LOCKS = ("run", "extras", "build", "dev")
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>[^ ;\\]+)(?P<rest>[^\\]*)\\$")


def _asked_for(path: Path) -> list[Requirement]:
    """Return the requirements of an .in file, those that it includes among them."""
    asked: list[Requirement] = []
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            asked += _asked_for(path.with_name(line.removeprefix("-r ").strip()))
        elif line and not line.startswith("#"):
            asked.append(Requirement(line))
    return asked


def _locked(path: Path) -> dict[str, str]:
    return {
        canonicalize_name(match["name"]): match["version"]
        for line in path.read_text().splitlines()
        if (match := _ENTRY.match(line))
    }


@pytest.mark.parametrize("lock", [*_LOCKS, "pip", "go"])
def test_every_locked_package_has_hashes(checkout: Path, lock: str) -> None:
    """Each entry of a lock file pins one version and at least one hash, so that nothing else can be installed."""
    text = (checkout / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    assert not entries[0].strip()
    assert entries[1:]
    for entry in entries[1:]:
        first, *rest = entry.splitlines()
        assert _ENTRY.match(first), first
        assert any("--hash=sha256:" in line for line in rest), first


@pytest.mark.parametrize("lock", [*_LOCKS, "pip", "go"])
def test_lock_names_no_place_to_fetch_from(checkout: Path, lock: str) -> None:
    """A lock file names packages and hashes only: where they come from is the machine's affair."""
    text = (checkout / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, flags=re.MULTILINE)


@pytest.mark.parametrize("lock", _LOCKS)
def test_lock_answers_what_is_asked_for(checkout: Path, lock: str) -> None:
    """Whatever an .in file asks for is locked at a version that satisfies it: `make lock` was not forgotten."""
    locked = _locked(checkout / "requirements" / f"{lock}.txt")
    for asked in _asked_for(checkout / "requirements" / f"{lock}.in"):
        assert canonicalize_name(asked.name) in locked, asked
        assert asked.specifier.contains(locked[canonicalize_name(asked.name)]), asked


@pytest.mark.parametrize("lock", _LOCKS)
def test_lock_is_closed(checkout: Path, lock: str) -> None:
    """Whatever a locked package needs on this Python is locked too, so that installing never resolves anything."""
    locked = _locked(checkout / "requirements" / f"{lock}.txt")
    for name in locked:
        if name == "colorama":  # for Windows only: not installed here
            continue
        for line in distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, f"{name} needs {line}"


def test_what_runs_is_the_same_in_every_environment(checkout: Path) -> None:
    """The tests run with exactly the versions that the daemon is installed with, and the wheel is built with."""
    dev = _locked(checkout / "requirements" / "dev.txt")
    for lock in ("run", "extras", "build"):
        for name, version in _locked(checkout / "requirements" / f"{lock}.txt").items():
            assert dev[name] == version, name


def test_package_asks_for_what_is_locked(checkout: Path) -> None:
    """The wheel's own dependencies are those of run.in, with every extra extras.in, and its builder build.in."""
    metadata = tomllib.loads((checkout / "pyproject.toml").read_text())
    project = metadata["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    for asked, lock in (
        (project["dependencies"], "run"),
        (project["dependencies"] + extras, "extras"),
        (metadata["build-system"]["requires"], "build"),
    ):
        assert sorted(asked) == sorted(str(one) for one in _asked_for(checkout / "requirements" / f"{lock}.in"))


def test_whatever_the_package_imports_is_asked_for(checkout: Path) -> None:
    """No import stands on a package that only another one happens to bring along, and no requirement is idle."""
    metadata = tomllib.loads((checkout / "pyproject.toml").read_text())
    project = metadata["project"]
    asked = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    extra = {
        canonicalize_name(Requirement(text).name) for one in project["optional-dependencies"].values() for text in one
    }
    distributions = packages_distributions()
    imported: set[str] = set()
    for file in (checkout / "forwarder").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"forwarder"}
    assert {canonicalize_name(distributions[name][0]) for name in foreign} - extra == asked
