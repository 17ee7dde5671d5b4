"""A lock installs on any later day what it installed on the day it was made.

The index of these tests is a folder of tiny wheels: every package at the version that is locked, with the
requirements of the real one, and at a newer version. What installs from it is the Makefile itself.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.utils import canonicalize_name

_ENTRY = re.compile(
    r"^(?P<asked>(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>[^ ;\\]+))(?: ; (?P<marker>[^\\]+?))? \\\n"
    r"(?:    --hash=\S+(?: \\)?\n)+",
    flags=re.MULTILINE,
)
_NEWER = "9999.0"


def _wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel without code that asks for what the installed distribution asks for; return its hash."""
    try:
        real = distribution(name).metadata
    except PackageNotFoundError:  # for another platform
        asks = []
    else:
        asks = [f"{key}: {value}" for key in ("Requires-Dist", "Provides-Extra") for value in real.get_all(key) or ()]
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *asks, ""]),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{stem}.dist-info/{file},sha256={digest},{len(text.encode())}\n"
        wheel.writestr(f"{stem}.dist-info/RECORD", f"{record}{stem}.dist-info/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _LaterDay:
    """A checkout with the real Makefile, and locks of the real versions with the hashes of the tiny wheels."""

    def __init__(self, folder: Path, checkout: Path, pip_wheel: Path) -> None:
        self._folder = folder
        self._index = folder / "index"
        self._index.mkdir()
        self._pip_wheel = pip_wheel
        shutil.copy(pip_wheel, self._index)
        (folder / "forwarder").mkdir()
        (folder / "requirements").mkdir()
        shutil.copy(checkout / "Makefile", folder)
        shutil.copy(checkout / "requirements" / "pip.txt", folder / "requirements")

    def lock(self, text: str) -> str:
        """Fill the index for a lock file; return the same lock with the hashes of what is there."""

        def entry(match: re.Match[str]) -> str:
            _wheel(self._index, match["name"], _NEWER)
            digest = _wheel(self._index, match["name"], match["version"])
            marker = f" ; {match['marker']}" if match["marker"] else ""
            return f"{match['asked']}{marker} \\\n    --hash=sha256:{digest}\n"

        return _ENTRY.sub(entry, text)

    def write(self, lock: str, text: str) -> None:
        """Put a lock file into this checkout."""
        (self._folder / "requirements" / lock).write_text(text)

    def run(self, *words: str, is_old_pip: bool) -> subprocess.CompletedProcess[str]:
        """Run a program in the folder, with this index alone and either kind of pip."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "MAKE", "MFLAGS", "PYTHON"))
        }
        environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self._index), "PIP_CONFIG_FILE": os.devnull}
        if is_old_pip:
            environ["PYTHONPATH"] = str(self._pip_wheel)
        return subprocess.run(  # noqa: S603 - the Makefile and the pip of this checkout
            words, cwd=self._folder, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    def installed(self, environment: str) -> Mapping[str, str]:
        """Return the versions that an environment holds, without pip itself."""
        python = str(self._folder / environment / "bin" / "python")
        listed = json.loads(self.run(python, "-m", "pip", "list", "--format", "json", is_old_pip=False).stdout)
        versions = {canonicalize_name(one["name"]): one["version"] for one in listed}
        return {name: version for name, version in versions.items() if name not in {"pip", "setuptools"}}


def _expected(lock: str) -> Mapping[str, str]:
    return {
        canonicalize_name(match["name"]): match["version"]
        for match in _ENTRY.finditer(lock)
        if not match["marker"] or Marker(match["marker"]).evaluate()
    }


@pytest.fixture
def later_day(tmp_path: Path, checkout: Path) -> _LaterDay:
    """Return a checkout on a day on which everything has a newer release."""
    wheels = sorted((checkout / ".venv" / "pip").glob("pip-*.whl"))
    if not wheels:
        pytest.skip("the old pip is not there: `make env` fetches it")
    return _LaterDay(tmp_path, checkout, wheels[0])


@pytest.mark.parametrize("is_old_pip", [True, False], ids=["a pip that forgets pins", "this Python's pip"])
@pytest.mark.parametrize(
    ("lock", "target", "environment"),
    [("run.txt", ".venv/run/.installed", ".venv/run"), ("dev.txt", "env", ".venv")],
    ids=["what runs", "what tests"],
)
def test_a_later_day_installs_what_was_locked(
    later_day: _LaterDay, checkout: Path, lock: str, target: str, environment: str, *, is_old_pip: bool
) -> None:
    """With newer releases of everything in the index, each environment holds exactly the locked versions."""
    text = later_day.lock((checkout / "requirements" / lock).read_text())
    later_day.write(lock, text)
    done = later_day.run("make", target, f"PYTHON={sys.executable}", is_old_pip=is_old_pip)
    assert done.returncode == 0, done.stdout + done.stderr
    assert later_day.installed(environment) == _expected(text)
    # A line for each package as it comes: an installation that is silent for a minute looks like one that hangs.
    assert len(re.findall(r"^  \d+ [a-z]", done.stdout, flags=re.MULTILINE)) == len(_expected(text))
    assert "No broken requirements found." in done.stdout


def test_resolving_a_lock_is_what_fails_on_a_later_day(later_day: _LaterDay, checkout: Path) -> None:
    """The control: the old pip, left to resolve, wants the newer release of a package, and has no hash for it."""
    text = later_day.lock((checkout / "requirements" / "dev.txt").read_text())
    later_day.write("dev.txt", text.replace("coverage[toml]==", "coverage=="))
    words = (
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--target",
        "unused",
        "--require-hashes",
        "-r",
        "requirements/dev.txt",
    )
    done = later_day.run(sys.executable, *words, is_old_pip=True)
    assert done.returncode == 1
    assert "coverage[toml]" in done.stderr


@pytest.mark.parametrize(
    "file", ["Makefile", "Dockerfile", "deploy/forwarder.service", "docs/operating.md", "README.md"]
)
def test_nobody_is_told_to_resolve_a_lock(checkout: Path, file: str) -> None:
    """Wherever a lock file is installed, it is without resolving, and `pip check` follows."""
    text = re.sub(r"\\\n#? *", " ", (checkout / file).read_text()).replace("$(LOCKED)", "--no-deps --require-hashes")
    installs = re.findall(r"\binstall\b[^\n&]*-r requirements/\S+[^\n]*", text)
    for install in installs:
        assert {"--no-deps", "--require-hashes"} <= set(install.split()), install
    assert not installs or re.search(r"(?:pip|\$\(PIP\)|python) check", text)
