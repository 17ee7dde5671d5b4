"""The settings of the Postgres spool: what is doubted, what is hidden, and where a password that changed is read."""

from pathlib import Path

import pytest

from forwarder.engine import UrlReader
from forwarder.errors import SettingsInvalid
from forwarder.settings import load
from forwarder.settings.data_volume import start_doubts
from forwarder.settings.extras import module_of
from forwarder.settings.together import doubts

_OUTBOUND = {
    "RUDDERSTACK_WRITE_KEY": "wk-1",
    "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com/",
    "COURIER_WEBHOOK_SECRET": "whsec",
}
_POSTGRES = _OUTBOUND | {"FORWARDER_SPOOL": "postgres"}
_SAFE = "postgresql://u:hunter2@db.example.com/bridge?sslmode=verify-full&sslrootcert=system"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (_POSTGRES | {"FORWARDER_POSTGRES_URL": _SAFE}, ""),
        (_POSTGRES | {"FORWARDER_POSTGRES_URL": "postgresql://u:hunter2@127.0.0.1/bridge"}, ""),
        (_POSTGRES | {"FORWARDER_POSTGRES_URL": "postgresql://u:hunter2@db.example.com/bridge"}, "sslmode=verify-full"),
        (_OUTBOUND | {"FORWARDER_POSTGRES_URL": _SAFE}, "FORWARDER_SPOOL is not postgres"),
    ],
    ids=["proven", "own machine", "anybody", "not used"],
)
def test_what_is_probably_not_meant_is_doubted(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    """A server that need not prove who it is, and a URL that nothing uses, are told; the password never is."""
    settings = load(environ, tmp_path)
    assert [said in doubt and "hunter2" not in doubt for doubt in doubts(settings)] == ([True] if said else [])
    assert "hunter2" not in repr(settings)
    assert {row.variable: row.value for row in settings.rows()}["FORWARDER_POSTGRES_URL"] == "(set)"


def test_a_data_folder_that_may_vanish_is_no_matter_with_postgres(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept in it then; with SQLite the same folder is told of."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr("forwarder.settings.data_volume.MOUNTS", mounts)
    folder = {"FORWARDER_DATA_DIR": str(tmp_path / "data")}
    assert start_doubts(load(_POSTGRES | {"FORWARDER_POSTGRES_URL": _SAFE} | folder, tmp_path)) == []
    assert len(start_doubts(load(_OUTBOUND | folder, tmp_path))) == 1


def test_a_password_that_changed_is_read_again(tmp_path: Path) -> None:
    """From its file, for every connection; an unusable text, or another database, waits for a restart."""
    file = tmp_path / "secrets" / "FORWARDER_POSTGRES_URL"
    file.parent.mkdir()
    file.write_text(_SAFE + "\n")
    read = UrlReader(load(_POSTGRES | {"FORWARDER_SECRETS_DIR": str(file.parent)}, tmp_path))
    assert read() == _SAFE
    file.write_text(_SAFE.replace("hunter2", "swordfish"))
    assert "swordfish" in read()
    for text in ("", "postgresql://", _SAFE.replace("/bridge", "/other")):
        file.write_text(text)
        assert read() == _SAFE


def test_what_an_extra_brings_is_named_with_its_command() -> None:
    """A module of ours whose package is missing says what to run; another error inside it stays what it is."""
    with pytest.raises(
        SettingsInvalid, match=r"FORWARDER_X: .*pip install 'courier-rudderstack-forwarder\[postgres\]'"
    ):
        module_of("no_such_package.part", extra="postgres", packages=("no_such_package",), variable="FORWARDER_X")
    with pytest.raises(ModuleNotFoundError):
        module_of("no_such_package.part", extra="postgres", packages=("asyncpg",), variable="FORWARDER_X")
