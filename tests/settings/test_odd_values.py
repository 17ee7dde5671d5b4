"""Values that were copied with what surrounds them, or never filled in: named before any event is turned away."""

import json
import re
from pathlib import Path

import pytest

from forwarder.errors import SettingsInvalid
from forwarder.settings import Settings, load
from forwarder.settings.values import is_placeholder

_OUTBOUND = {
    "RUDDERSTACK_WRITE_KEY": "wk-1",
    "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com/",
    "COURIER_WEBHOOK_SECRET": "whsec",
}
_SECRETS = ("RUDDERSTACK_WRITE_KEY", "COURIER_WEBHOOK_SECRET", "FORWARDER_INBOUND_KEYS", "FORWARDER_OPERATOR_TOKEN")


def _problems(environ: dict[str, str], directory: Path) -> str:
    with pytest.raises(SettingsInvalid) as raised:
        load(environ, directory)
    return str(raised.value)


@pytest.mark.parametrize("variable", _SECRETS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"hunter2"', "begins and ends with a quote"),
        ("'hunter2'", "begins and ends with a quote"),
        ("\u201chunter2\u201d", "begins and ends with a quote"),
        ("\ufeffhunter2", "a byte order mark"),
        ("hunter2\u200b", "an invisible character (U+200B)"),
        ("hunter2 # of staging", "looks like a comment"),
        ("hunter2\thunter3", "contains a"),
        ("hunter2\nhunter3", "contains a"),
        ("replace-me", "placeholder"),
        ("replace-me-with-openssl-rand-hex-32", "placeholder"),
        ("REPLACE-ME", "placeholder"),
    ],
)
def test_an_odd_secret_is_named(variable: str, text: str, said: str, tmp_path: Path) -> None:
    """By environment and by file alike, the error names the variable and what is odd, never the secret."""
    environ = _OUTBOUND | {"COURIER_API_KEY": "ck", "FORWARDER_INBOUND_KEYS": "ik"}
    problem = _problems(environ | {variable: text}, tmp_path)
    (tmp_path / variable).write_text(text + "\n")
    environ.pop(variable, None)
    assert _problems(environ | {"FORWARDER_SECRETS_DIR": str(tmp_path)}, tmp_path) == problem
    assert f"- {variable}: " in problem
    assert said in problem
    assert "hunter" not in problem


@pytest.mark.parametrize("variable", ["RUDDERSTACK_DATA_PLANE_URL", "FORWARDER_RETENTION_S", "FORWARDER_EVENTS"])
def test_quotes_are_named_wherever_they_are_left_over(variable: str, tmp_path: Path) -> None:
    """No setting begins and ends with a quote."""
    assert f"{variable}: it begins and ends with a quote" in _problems(_OUTBOUND | {variable: '"1"'}, tmp_path)


def test_one_placeholder_among_several_secrets_is_enough(tmp_path: Path) -> None:
    """Every secret of a list is looked at, in a JSON array too."""
    for text in ("good,replace-me", '["good", "replace-me"]'):
        assert "placeholder" in _problems(_OUTBOUND | {"COURIER_WEBHOOK_SECRET": text}, tmp_path)


def test_a_json_array_is_the_way_out(tmp_path: Path) -> None:
    """A secret that truly holds blanks, quotes or a comment's sign goes into a JSON array."""
    secret = '" a #b "'
    read = load(_OUTBOUND | {"COURIER_WEBHOOK_SECRET": json.dumps([secret])}, tmp_path)
    assert [one.get_secret_value() for one in read.courier_webhook_secrets] == [secret]


def test_a_byte_order_mark_before_dotenv_hides_nothing(tmp_path: Path) -> None:
    """An editor's mark at the head of .env does not swallow its first name."""
    lines = "\n".join(f"{variable}={text}" for variable, text in _OUTBOUND.items())
    (tmp_path / ".env").write_text(lines, "utf-8-sig")
    assert load({}, tmp_path).rudderstack_data_plane_url == "https://dp.example.com"


def _shown(checkout: Path) -> set[tuple[str, str, str]]:
    """Return (file, variable, value) of every assignment in what we ship for people to copy."""
    files = [checkout / name for name in ("config.example.env", "README.md", "Dockerfile")]
    files += [path for folder in ("deploy", "docs") for path in (checkout / folder).rglob("*") if path.is_file()]
    # NAME=value, NAME: value of a manifest, or a pair of `name:` and `value:`; what holds a reference is no value.
    assigned = re.compile(
        r"""\b((?:FORWARDER|COURIER|RUDDERSTACK)_[A-Z_]*[A-Z])(?:=|:[ ]|["']?\s*\n?\s*value:[ ])["']?([^\s"'`|{$\\]+)"""
        r"""(?![^\s"'`|\\])"""
    )
    return {
        (str(path.relative_to(checkout)), variable, value)
        for path in files
        for variable, value in assigned.findall(path.read_text(errors="replace"))
    }


def test_every_placeholder_of_our_examples_is_refused() -> None:
    """Whatever an example of ours shows for a secret or an address works as it stands, or cannot be started with."""
    rows = {row.variable: row for row in Settings.model_validate({}).rows()}
    works = {"https://api.courier.com", "https://api.eu.courier.com"}
    shown = {
        (file, variable, value)
        for file, variable, value in _shown(Path(__file__).parents[2])
        if variable in rows and (rows[variable].is_secret or variable.endswith("_URL"))
    }
    assert [one for one in sorted(shown) if one[2] not in works and not is_placeholder(one[2])] == []
    assert {"replace-me", "https://example.dataplane.rudderstack.com"} <= {value for _, _, value in shown}
