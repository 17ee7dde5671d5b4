"""The lock file of the Node packages: exact versions with hashes, from no place that is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def locked(checkout: Path) -> dict[str, dict[str, Any]]:
    """Return what package-lock.json says of each package; "" is the tests' own."""
    packages: dict[str, dict[str, Any]] = json.loads((checkout / "tests" / "node" / "package-lock.json").read_text())[
        "packages"
    ]
    return packages


def test_every_node_package_has_a_hash_and_no_address(locked: dict[str, dict[str, Any]]) -> None:
    """Each package is pinned by version and SHA-512; where it comes from is the machine's affair."""
    for name, package in locked.items():
        if name:
            assert package["version"], name
            assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
        assert "link" not in package, name


def test_node_packages_that_are_asked_for_are_locked(checkout: Path, locked: dict[str, dict[str, Any]]) -> None:
    """package.json asks for exact versions, and the lock file holds just these."""
    asked = json.loads((checkout / "tests" / "node" / "package.json").read_text())["dependencies"]
    assert {"@rudderstack/rudder-sdk-node", "@segment/analytics-node", "axe-core"} <= set(asked)
    for name, wanted in asked.items():
        version = wanted.rpartition("@")[2]  # "npm:@segment/analytics-next@1.75.0": an older one beside the newest
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
        assert locked[f"node_modules/{name}"]["version"] == version
    assert locked[""]["dependencies"] == asked
