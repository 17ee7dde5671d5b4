"""The files that settings name, as editors on any machine save them."""

from pathlib import Path

import pytest

from forwarder.errors import RulesInvalid
from forwarder.settings import Settings
from forwarder.settings.toml_files import read_links, read_mapping

_RULES = '[[rule]]\nwhen = { field = "event", equals = "Message Sent" }\nrename = "Größe"\n'
_LINKS = '[[link]]\nevent = "Größe"\ntarget = "an-automation"\n'


def _settings(folder: Path) -> Settings:
    return Settings.model_validate(
        {"FORWARDER_RULES": str(folder / "rules.toml"), "FORWARDER_LINKS": str(folder / "links.toml")}
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    """What Windows puts before a text is no part of it."""
    (tmp_path / "rules.toml").write_text(_RULES, encoding)
    (tmp_path / "links.toml").write_text(_LINKS, encoding)
    settings = _settings(tmp_path)
    assert [link.event for link in read_links(settings).links] == ["Größe"]
    read_mapping(settings)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    """The error names the file, the line, and what to do."""
    (tmp_path / "rules.toml").write_text(_RULES, encoding)
    (tmp_path / "links.toml").write_text(_LINKS, encoding)
    for read, name, line in ((read_mapping, "rules", 3), (read_links, "links", 2)):
        with pytest.raises(RulesInvalid) as raised:
            read(_settings(tmp_path))
        where = line if encoding == "latin-1" else 1
        assert str(raised.value) == f"{tmp_path}/{name}.toml: line {where} is no UTF-8 text. Save the file as UTF-8."


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    """A file that was there when the settings were read, and is not now."""
    for name in ("rules.toml", "links.toml"):
        (tmp_path / name).touch()
    settings = _settings(tmp_path)
    (tmp_path / "rules.toml").unlink()
    with pytest.raises(RulesInvalid, match="cannot be read \\(FileNotFoundError\\)"):
        read_mapping(settings)
