"""`forwarder check --unit`: what a systemd unit would give the daemon, from beside it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from forwarder.cli.unit import place_of
from forwarder.errors import SettingsInvalid
from forwarder.settings import read

Shell = Callable[..., Result]

_UNIT = """\
# {folder}/forwarder.service
[Unit]
Environment=FORWARDER_LISTN=not-of-the-service

[Service]
ExecStart=/opt/forwarder/bin/forwarder run
EnvironmentFile=-{folder}/forwarder.env
EnvironmentFile=-{folder}/missing.env
Environment=PYTHONUNBUFFERED=1 "FORWARDER_EVENTS=Message Sent" \\
  FORWARDER_DATA_DIR={folder}/data
LoadCredential=RUDDERSTACK_WRITE_KEY:{folder}/credentials/RUDDERSTACK_WRITE_KEY
LoadCredential=COURIER_WEBHOOK_SECRET:{folder}/credentials/COURIER_WEBHOOK_SECRET
#LoadCredential=COURIER_API_KEY:{folder}/credentials/COURIER_API_KEY
WorkingDirectory={folder}

# {folder}/forwarder.service.d/override.conf
[Service]
Environment=FORWARDER_LOG_LEVEL=warning
"""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Write a unit with its files; return its path."""
    (tmp_path / "credentials").mkdir()
    for variable in ("RUDDERSTACK_WRITE_KEY", "COURIER_WEBHOOK_SECRET"):
        (tmp_path / "credentials" / variable).write_text("s3cret\n")
    (tmp_path / "forwarder.env").write_text(
        "# settings\n; and more\nRUDDERSTACK_DATA_PLANE_URL='https://dp.example.com'\nFORWARDER_DRAIN_MAX_S = 20\nodd\n"
    )
    path = tmp_path / "forwarder.service"
    path.write_text(_UNIT.format(folder=tmp_path))
    return path


def test_a_unit_is_read_as_systemd_reads_it(unit: Path) -> None:
    """Environment, environment files, credentials and drop-ins make the daemon's settings."""
    settings = read(place_of(str(unit)))
    assert settings.rudderstack_write_key is not None
    assert settings.rudderstack_write_key.get_secret_value() == "s3cret"
    assert settings.rudderstack_data_plane_url == "https://dp.example.com"
    assert (settings.drain_max_s, settings.log_level, settings.events) == (20, "warning", ("Message Sent",))
    assert str(settings.origin("RUDDERSTACK_WRITE_KEY")).startswith("credentials (")


def test_files_override_lines_and_an_empty_line_starts_anew(unit: Path) -> None:
    """The order of precedence is systemd's own."""
    unit.write_text(f"{unit.read_text()}Environment=\nEnvironment=FORWARDER_DRAIN_MAX_S=1 FORWARDER_LOG_FORMAT=json\n")
    environ = place_of(str(unit)).environ
    assert (environ["FORWARDER_DRAIN_MAX_S"], environ["FORWARDER_LOG_FORMAT"]) == ("20", "json")
    assert "FORWARDER_LOG_LEVEL" not in environ


def test_the_check_asks_systemd(shell: Shell, unit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit's name is looked up, and this shell's own settings play no part."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(
        f'#!/bin/sh\n[ "$4" = forwarder ] && exec cat {unit}\necho "No files found" >&2; exit 1\n'
    )
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    result = shell("check", "--unit", "forwarder", FORWARDER_LISTN="of this shell")
    assert result.exit_code == 0, result.output
    assert "credentials (" in result.stdout
    assert "s3cret" not in result.output
    wrong = shell("check", "--unit", "backwarder")
    assert wrong.exit_code == 78
    assert "backwarder: systemd does not know the unit: No files found" in wrong.stderr


def test_a_missing_credential_is_named(unit: Path, tmp_path: Path, shell: Shell) -> None:
    """A credential's file that is not there is said with its path, before systemd says less."""
    (tmp_path / "credentials" / "RUDDERSTACK_WRITE_KEY").unlink()
    result = shell("check", "--unit", str(unit))
    assert result.exit_code == 78
    assert (
        f"RUDDERSTACK_WRITE_KEY: its file in LoadCredential cannot be read (FileNotFoundError: {tmp_path}"
        in result.stderr
    )


def test_a_missing_credential_with_an_empty_fallback_is_unset(unit: Path, tmp_path: Path, shell: Shell) -> None:
    """As systemd does, the check takes the fallback for a file that is not there; what is missing is named then."""
    fallbacks = [f"SetCredential={name}:\\n" for name in ("RUDDERSTACK_WRITE_KEY", "COURIER_WEBHOOK_SECRET")]
    unit.write_text("\n".join([unit.read_text(), *fallbacks, ""]))
    (tmp_path / "credentials" / "RUDDERSTACK_WRITE_KEY").unlink()
    result = shell("check", "--unit", str(unit))
    assert result.exit_code == 78
    assert "Set RUDDERSTACK_WRITE_KEY" in result.stderr
    assert "FileNotFoundError" not in result.stderr
    assert place_of(str(unit)).credentials.keys() == {"COURIER_WEBHOOK_SECRET"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("EnvironmentFile=/nowhere/forwarder.env", "EnvironmentFile is missing"),
        ("EnvironmentFile=/", "EnvironmentFile cannot be read"),
        ('Environment="A=b', "a quote that is not closed"),
        ("LoadCredentialEncrypted=COURIER_API_KEY:/x", "cannot be read here"),
        ("SetCredential=COURIER_API_KEY:s3cret", "SetCredential cannot be read here"),
    ],
)
def test_what_cannot_be_read_is_named(unit: Path, line: str, said: str) -> None:
    """A file that the unit needs, or a credential that only systemd can open, ends the check."""
    unit.write_text(f"{unit.read_text()}{line}\n")
    with pytest.raises(SettingsInvalid, match=said):
        place_of(str(unit))


def test_without_systemd_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without systemd the unit cannot be read."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for unit in ("forwarder", "./forwarder.service"):
        with pytest.raises(SettingsInvalid, match="cannot be read \\(FileNotFoundError\\)"):
            place_of(unit)


def test_a_credential_without_a_path_comes_from_the_store(unit: Path) -> None:
    """Its name alone is looked up where systemd keeps credentials."""
    unit.write_text(f"{unit.read_text()}LoadCredential=COURIER_API_KEY\n")
    assert place_of(str(unit)).credentials["COURIER_API_KEY"] == Path("/etc/credstore/COURIER_API_KEY")


def test_our_own_unit_is_understood() -> None:
    """The unit that we ship names its data folder, and no credential that is not there."""
    place = place_of(str(Path(__file__).parents[2] / "deploy" / "forwarder.service"))
    assert all(path.exists() for path in place.credentials.values())
    assert place.environ["FORWARDER_DATA_DIR"] == "/var/lib/forwarder"
