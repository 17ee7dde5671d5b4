"""`forwarder links`: seen, changed, exported and imported, on a stopped daemon and on a running one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Shell = Callable[..., Result]
Daemon = Callable[..., Any]

_PINNED = '[[link]]\nevent = "Order Completed"\ntarget = "pinned"\n'


@pytest.fixture
def pinned(tmp_path: Path) -> dict[str, str]:
    """Return the environment with a file of one pinned link."""
    file = tmp_path / "pinned.toml"
    file.write_text(_PINNED)
    return {"FORWARDER_LINKS": str(file)}


def _done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def _targets(shell: Shell, **environ: str) -> list[str]:
    return [link["target"] for link in json.loads(_done(shell("links", "list", "--json", **environ)))]


def test_links_of_a_stopped_daemon_are_changed_in_its_folder(filled: Shell) -> None:
    """A link that is added stays until it is removed, over several runs of the command."""
    assert "no links yet" in _done(filled("links", "list"))
    assert _done(filled("links", "add", "Order Completed", "t1")) == ("added track Order Completed -> automation t1\n")
    assert "was there already" in _done(filled("links", "add", "Order Completed", "t1"))
    _done(filled("links", "add", "--to", "journey", "--source", "segment", "Order Completed", "j1"))
    assert _done(filled("links", "list")).splitlines() == [
        "track  Order Completed  automation t1",
        "track  Order Completed  journey j1     segment",
    ]
    assert _done(filled("links", "remove", "--to", "journey", "Order Completed")) == (
        "removed track Order Completed -> journey j1 (only segment)\n"
    )
    assert _targets(filled) == ["t1"]


def test_links_of_a_running_daemon_are_changed_through_its_listener(filled: Shell, daemon: Daemon) -> None:
    """A running daemon is asked, and what it took is there for the next command."""
    address = daemon().address
    _done(filled("links", "add", "--type", "identify", "identify", "welcome", FORWARDER_OPERATOR_LISTEN=address))
    assert _targets(filled, FORWARDER_OPERATOR_LISTEN=address) == ["welcome"]
    _done(filled("links", "remove", "identify", "welcome", FORWARDER_OPERATOR_LISTEN=address))
    assert _targets(filled, FORWARDER_OPERATOR_LISTEN=address) == []
    assert "no links yet" in _done(filled("links", "list", FORWARDER_OPERATOR_LISTEN=address))
    told = _done(filled("links", "import", "-", typed=_PINNED, FORWARDER_OPERATOR_LISTEN=address))
    assert told == "1 added, 0 removed, 1 in the file\n"
    assert _done(filled("links", "list", FORWARDER_OPERATOR_LISTEN=address)) == (
        "track  Order Completed  automation pinned\n"
    )


def test_pinned_links_are_shown_and_not_changed(filled: Shell, pinned: dict[str, str]) -> None:
    """The file's links come first and are changed in the file alone."""
    _done(filled("links", "add", "Signed Up", "t", **pinned))
    assert _done(filled("links", "list", **pinned)).splitlines()[0].endswith("pinned")
    refused = filled("links", "remove", "Order Completed", **pinned)
    assert refused.exit_code == 1
    assert "FORWARDER_LINKS" in refused.output
    assert _targets(filled, **pinned) == ["pinned", "t"]


def test_an_export_is_what_the_setting_reads(filled: Shell, pinned: dict[str, str], tmp_path: Path) -> None:
    """Exported links, used as FORWARDER_LINKS or imported, are the same links."""
    _done(filled("links", "add", "--type", "group", "group", 'quo"ted', **pinned))
    exported = tmp_path / "exported.toml"
    _done(filled("links", "export", str(exported), **pinned))
    assert exported.read_text() == _done(filled("links", "export", **pinned))
    assert _targets(filled, FORWARDER_LINKS=str(exported)) == ["pinned", 'quo"ted']
    assert _done(filled("links", "import", str(exported))) == "1 added, 0 removed, 2 in the file\n"
    assert sorted(_targets(filled)) == ["pinned", 'quo"ted']


def test_an_import_can_replace_what_is_stored(filled: Shell) -> None:
    """With --replace the stored links are those of the file afterwards."""
    _done(filled("links", "add", "Old", "t"))
    assert _done(filled("links", "import", "--replace", "-", typed=_PINNED)) == "1 added, 1 removed, 1 in the file\n"
    assert _targets(filled) == ["pinned"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("add", "Order Completed"), 2, "Missing argument"),
        (("add", "Order Completed", ".."), 2, "target: consists of dots"),
        (("add", "--type", "group", "Acme", "t"), 2, 'write "group"'),
        (("add", "--type", "page", "Home", "t"), 2, "page"),
        (("remove", "Nothing"), 1, "no such link"),
        (("import", "-"), 78, "link.target: is missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_told_with_its_exit_code(words: tuple[str, ...], code: int, told: str, filled: Shell) -> None:
    """Wrong usage, a failure and a wrong file have exit codes of their own, and a text that says what to do."""
    result = filled("links", *words, typed='[[link]]\nevent = "e"\n')
    assert result.exit_code == code
    assert told in result.output


def test_a_file_that_is_no_text_is_told(filled: Shell, tmp_path: Path) -> None:
    """An import of something else than UTF-8 text fails with a plain sentence."""
    file = tmp_path / "links.bin"
    file.write_bytes(b"\xff\xfe")
    result = filled("links", "import", str(file))
    assert (result.exit_code, "no UTF-8 text" in result.output) == (1, True)
