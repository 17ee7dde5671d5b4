"""The documents: their links lead somewhere, and what they name exists."""

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from forwarder import __version__
from forwarder.cli.command import cli
from forwarder.settings import Settings

_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
_DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
_CODE_BLOCK = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
# Where the machines that build this may fetch from is no part of the project. In pieces: this file is searched too.
_PLACES = [
    "".join(pieces)
    for pieces in (
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("pythonhosted", ".org"),
        ("pypi", ".org/simple"),
        ("registry.npmjs", ".org"),
        ("proxy.golang", ".org"),
        ("deb.debian", ".org"),
    )
]


def _documents(checkout: Path) -> list[Path]:
    found: list[Path] = []
    for name in _DOCUMENTS:
        path = checkout / name
        found += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return found


def _anchors(text: str) -> set[str]:
    """Return the anchors that a forge gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", _CODE_BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere(checkout: Path) -> None:
    """Each link between the documents names a file that exists and a heading in it."""
    broken = []
    for document in _documents(checkout):
        for link in _LINK.findall(_CODE_BLOCK.sub("", document.read_text())):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text())):
                broken.append(f"{document.relative_to(checkout)}: {link}")
    assert not broken


def test_every_make_target_that_is_named_exists(checkout: Path) -> None:
    """Each `make …` in the documents is a target, and each target of the help is one too."""
    targets = set(re.findall(r"^([a-z]+):", (checkout / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        name
        for document in _documents(checkout)
        for name in re.findall(r"(?:`|^|\$ )make ([a-z]+)", document.read_text(), flags=re.MULTILINE)
    }
    assert named
    assert named <= targets
    assert {"demo", "run", "test", "check", "bench", "lock", "wheel", "clean", "help"} <= targets


def test_every_command_that_is_named_exists(checkout: Path) -> None:
    """Each `forwarder …` in the documents is a command with the options that are shown."""
    shown = {
        line
        for document in _documents(checkout)
        for line in re.findall(r"(?:`|^ {4})forwarder ([a-z][^`\n]*)", document.read_text(), flags=re.MULTILINE)
    }
    assert shown
    unknown = []
    for line in shown:
        command = cli.get_command(click.Context(cli), line.split()[0])
        options = {name for one in command.params for name in one.opts} if command else set()
        asked = set(re.findall(r"(?<= )--[a-z-]+", line))
        if command is None or not (isinstance(command, click.Group) or asked <= options):
            unknown.append(line)
    assert not unknown


def test_every_path_of_the_package_that_is_named_exists(checkout: Path) -> None:
    """Each file or folder that the documents name is there: a map of a house that was rebuilt misleads."""
    missing = [
        f"{document.relative_to(checkout)}: {path}"
        for document in _documents(checkout)
        for path in re.findall(r"`((?:forwarder|tests|deploy|docs|requirements)/[\w./-]*)`", document.read_text())
        if not (checkout / path).exists()
    ]
    assert not missing


def test_readme_shows_every_setting_with_its_default(checkout: Path) -> None:
    """The README's table names every setting once, with the default that the code has."""
    rows = re.findall(
        r"^\| `((?:FORWARDER|COURIER|RUDDERSTACK)_[A-Z_]+)` \| ([^|]*) \|",
        (checkout / "README.md").read_text(),
        flags=re.MULTILINE,
    )
    shown = {variable: default.strip().strip("`") for variable, default in rows}
    assert len(shown) == len(rows)
    expected = {row.variable: row.value for row in Settings.model_validate({}).rows()}
    shown.pop("FORWARDER_SECRETS_DIR")  # where settings come from, not one of them
    assert {name: default for name, default in shown.items() if default not in {"required", "unset", "automatic"}} == {
        name: default for name, default in expected.items() if default
    }
    assert shown.keys() == expected.keys()


def _metrics_in_code(checkout: Path) -> set[str]:
    return {
        node.value
        for path in sorted((checkout / "forwarder" / "telemetry").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"forwarder_[a-z]+_?[a-z_]+[a-z]", node.value)
    }


def test_operating_guide_explains_every_metric(checkout: Path) -> None:
    """The guide's table holds exactly the metrics that the code has, each with its meaning and what to do."""
    text = (checkout / "docs" / "operating.md").read_text()
    rows = re.findall(r"^\| `(forwarder_[a-z_]+)(?:\{[^}]*\})?` \|([^|]*)\|([^|]*)\|$", text, flags=re.MULTILINE)
    assert all(meaning.strip() and action.strip() for _, meaning, action in rows)
    assert {name.removesuffix("_total") for name, _, _ in rows} == _metrics_in_code(checkout)


def test_version_is_the_same_everywhere(checkout: Path) -> None:
    """The package's version is the one of the changelog, the image, the manifests and the guide."""
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (checkout / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert f"ARG VERSION={__version__}" in (checkout / "Dockerfile").read_text()
    assert f"image: forwarder:{__version__}" in (checkout / "deploy/kubernetes/forwarder.yaml").read_text()
    assert f" forwarder:{__version__}\n" in (checkout / "docs/operating.md").read_text()


def test_decisions_are_numbered_and_short(checkout: Path) -> None:
    """Decisions are numbered without a gap, each fits on a page, and says what was decided and what follows."""
    decisions = sorted((checkout / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text()
        assert len(text.splitlines()) <= 50, path.name
        assert {"decision", "consequences"} <= _anchors(text), path.name


@pytest.mark.parametrize("place", _PLACES)
def test_repository_names_no_machine(checkout: Path, place: str) -> None:
    """No file names a folder of somebody's machine or a host that packages come from."""
    naming = [
        path.relative_to(checkout).as_posix()
        for pattern in ("*", ".ci/*", "forwarder/**/*", "tests/**/*", "docs/**/*", "deploy/**/*", "requirements/*")
        for path in checkout.glob(pattern)
        if path.is_file()
        and not {"node_modules", ".git"} & set(path.parts)
        and path.suffix not in {".pyc", ".png"}
        and not path.name.startswith(".coverage")
        if place in path.read_text(errors="replace")
    ]
    assert not naming
