"""The suite itself: it tests the installed wheel where it says so, and skips nothing in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import forwarder


@pytest.mark.skipif(
    "CI" not in os.environ and "EXPECT_INSTALLED_WHEEL" not in os.environ,
    reason="only `make test` tests the installed wheel",
)
def test_what_is_tested_is_the_installed_wheel() -> None:
    """In `make test` and in CI, every test imports what the wheel installed, never the checkout beside it."""
    assert "site-packages" in Path(forwarder.__file__).parts


_SUITE = {
    "test_passes.py": "def test_a(): pass",
    "test_skips.py": "import pytest\ndef test_a(): pytest.skip('no browser')",
    "test_module_skips.py": "import pytest\npytest.skip('no node', allow_module_level=True)",
    "test_known.py": "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_a(): raise ValueError",
}


@pytest.mark.parametrize(
    ("extra", "outcome"),
    [
        pytest.param({"CI": "true"}, "1 failed, 1 passed, 1 xfailed, 1 error", id="in CI"),
        pytest.param({}, "1 passed, 2 skipped, 1 xfailed", id="elsewhere"),
    ],
)
def test_nothing_is_skipped_in_ci(tmp_path: Path, checkout: Path, extra: dict[str, str], outcome: str) -> None:
    """With CI set a skip is a failure, so that a missing tool cannot pass for a green run; elsewhere it is a skip."""
    (tmp_path / "conftest.py").write_text((checkout / "tests" / "conftest.py").read_text())
    for name, text in _SUITE.items():
        (tmp_path / name).write_text(text)
    inherited = {name: value for name, value in os.environ.items() if name != "CI" and "COV" not in name}
    done = subprocess.run(  # noqa: S603 - our own interpreter on our own files
        [
            *(sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "--rootdir", str(tmp_path)),
            *("-o", f"pythonpath={checkout / 'tests'}", "."),  # for `stand_ins`
        ],
        cwd=tmp_path,
        env={**inherited, **extra, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome in done.stdout
