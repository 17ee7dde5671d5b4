"""Names that are no settings: mistakes stop the start, what belongs to others does not."""

from pathlib import Path

import pytest

from forwarder.errors import SettingsInvalid
from forwarder.settings import Settings, load
from forwarder.settings.names import MEANT, is_of_kubernetes
from forwarder.settings.together import doubts

_OUTBOUND = {
    "RUDDERSTACK_WRITE_KEY": "wk-1",
    "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com/",
    "COURIER_WEBHOOK_SECRET": "whsec",
}


def _problems(environ: dict[str, str], directory: Path) -> str:
    with pytest.raises(SettingsInvalid) as raised:
        load(environ, directory)
    return str(raised.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FORWARDER_LISTN", " (did you mean FORWARDER_LISTEN?)"),
        ("FORWARDER_WEBHOOK_SECRET", " (did you mean COURIER_WEBHOOK_SECRET?)"),
        ("FORWARDER_X", ""),
        ("FORWARDER_", ""),
        ("COURIER_APIKEY", " (did you mean COURIER_API_KEY?)"),
        ("COURIER_WEBHOOK_SECRETS", " (did you mean COURIER_WEBHOOK_SECRET?)"),
        ("COURIER_INBOUND_KEYS", " (did you mean FORWARDER_INBOUND_KEYS?)"),
        ("RUDDERSTACK_WRITEKEY", " (did you mean RUDDERSTACK_WRITE_KEY?)"),
        ("RUDDERSTACK_DATA_PLANE_URI", " (did you mean RUDDERSTACK_DATA_PLANE_URL?)"),
    ],
)
def test_a_misspelt_name_is_an_error(variable: str, meant: str, tmp_path: Path) -> None:
    """The prefix neither makes names alike nor keeps a wrong one from being corrected."""
    text = _problems(_OUTBOUND | {variable: "x"}, tmp_path)
    assert f"{variable}: there is no such setting{meant}. Remove it" in text


@pytest.mark.parametrize(
    "variable",
    ["COURIER_CUSTOM_HEADERS", "COURIER_BRAND_ID", "RUDDERSTACK_ACCESS_TOKEN", "RUDDERSTACK_CONTROL_PLANE_URL"],
)
def test_the_vendors_own_names_are_only_told(variable: str, tmp_path: Path) -> None:
    """Variables of the vendors' SDKs and tools stop nothing; the check says that they are not read."""
    (doubt,) = doubts(load(_OUTBOUND | {variable: "x"}, tmp_path))
    assert doubt == f"{variable}: it is no setting of this daemon and is not read."


@pytest.mark.parametrize("variable", MEANT)
def test_the_vendors_words_for_our_settings_are_known(variable: str, tmp_path: Path) -> None:
    """What the vendors' SDKs and docs call a setting of ours stops nothing, and brings the right suggestion."""
    assert MEANT[variable] in Settings.variables()
    (doubt,) = doubts(load(_OUTBOUND | {variable: "x"}, tmp_path))
    assert f"{variable}: it is no setting" in doubt
    assert f"(did you mean {MEANT[variable]}?)" in doubt


def test_a_missing_setting_is_likened_to_the_vendors_word(tmp_path: Path) -> None:
    """Who has the vendors' names in place of ours is told so with what is missing."""
    text = _problems({"COURIER_WEBHOOK_SECRET": "s", "RUDDERSTACK_URL": "https://dp", "WRITE_KEY": "w"}, tmp_path)
    assert "(did you mean RUDDERSTACK_DATA_PLANE_URL?)" in text
    assert "(did you mean RUDDERSTACK_WRITE_KEY?)" in text
    assert text.startswith("1 problem in the settings:")


def test_variables_of_other_programs_are_nothing_to_us(tmp_path: Path) -> None:
    """Names without our prefixes are not looked at."""
    assert doubts(load(_OUTBOUND | {"PATH": "/bin", "MY_FORWARDER_LISTN": "x"}, tmp_path)) == []


@pytest.mark.parametrize(
    "variable",
    [
        "FORWARDER_SERVICE_HOST",
        "FORWARDER_SERVICE_PORT",
        "FORWARDER_SERVICE_PORT_HTTP",
        "FORWARDER_PORT",
        "FORWARDER_PORT_8080_TCP",
        "FORWARDER_PORT_8080_TCP_ADDR",
        "RUDDERSTACK_INGEST_PORT_53_UDP_PROTO",
    ],
)
def test_what_kubernetes_injects_is_no_setting(variable: str, tmp_path: Path) -> None:
    """Variables made for a service of our name are ignored."""
    assert is_of_kubernetes(variable)
    assert doubts(load(_OUTBOUND | {variable: "tcp://10.0.0.1:8080"}, tmp_path)) == []
