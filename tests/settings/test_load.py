"""Settings: every source, every problem at once, and no secret in sight."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import SettingsInvalid
from forwarder.model import RouteName
from forwarder.settings import Address, Settings, load
from forwarder.settings.data_volume import start_doubts
from forwarder.settings.sources import SECRETS_DIR, Found, Origin
from forwarder.settings.together import doubts
from forwarder.settings.values import address, addresses, secret_list

_OUTBOUND = {
    "RUDDERSTACK_WRITE_KEY": "wk-1",
    "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com/",
    "COURIER_WEBHOOK_SECRET": "whsec",
}
_INBOUND = {"FORWARDER_INBOUND_KEYS": "k1,k2", "COURIER_API_KEY": "ck"}


def _problems(environ: dict[str, str], directory: Path) -> str:
    with pytest.raises(SettingsInvalid) as raised:
        load(environ, directory)
    return str(raised.value)


def test_three_variables_start_the_outbound_route(tmp_path: Path) -> None:
    """Write key, data plane and webhook secret are enough; everything else has its documented default."""
    read = load(_OUTBOUND, tmp_path)
    assert read.routes == (RouteName.COURIER_TO_RUDDERSTACK,)
    assert read.rudderstack_data_plane_url == "https://dp.example.com"
    assert ([str(one) for one in read.listen], str(read.operator_listen)) == (["0.0.0.0:8080"], "127.0.0.1:8081")
    assert (read.segment_signature, read.proxy_protocol, read.idle_max_s, read.public_url) == ("body", False, 75, None)
    assert (read.batch_events_max, read.batch_bytes_max, read.batch_wait_max_s) == (100, 500_000, 0.2)
    assert (read.retention_s, read.signature_age_max_s, read.spool_bytes_max) == (604_800, 93_600, 4_294_967_296)
    assert (read.body_bytes_max, read.drain_max_s, read.concurrency_max) == (6_291_456, 25, 32)
    assert (read.log_format, read.log_level, read.event_names, read.events) == ("json", "info", "courier", ("native",))
    assert (read.spool, read.inbound_mode, read.courier_api_url) == ("sqlite", "direct", "https://api.courier.com")


@pytest.mark.parametrize(
    ("environ", "routes"),
    [
        (_OUTBOUND, ["courier_to_rudderstack"]),
        (_INBOUND, ["rudderstack_to_courier"]),
        (_OUTBOUND | _INBOUND, ["courier_to_rudderstack", "rudderstack_to_courier"]),
        (_OUTBOUND | {"COURIER_API_KEY": "ck"}, ["courier_to_rudderstack"]),
        (_OUTBOUND | _INBOUND | {"FORWARDER_ROUTES": "rudderstack_to_courier"}, ["rudderstack_to_courier"]),
        (
            _OUTBOUND | {"FORWARDER_INBOUND_KEYS": "k", "FORWARDER_ROUTES": "courier_to_rudderstack"},
            ["courier_to_rudderstack"],
        ),
        (
            {k: v for k, v in _OUTBOUND.items() if "SECRET" not in k} | {"FORWARDER_EVENTS_KEY": "e"},
            ["courier_to_rudderstack"],
        ),
    ],
    ids=[
        "outbound alone",
        "inbound alone",
        "both",
        "an API key alone begins nothing",
        "one asked for of two",
        "one asked for, the other only begun",
        "the internal bus as the source",
    ],
)
def test_routes_run_when_their_settings_are_given(environ: dict[str, str], routes: list[str], tmp_path: Path) -> None:
    """Routes follow from what is given, unless FORWARDER_ROUTES asks for fewer."""
    assert [route.value for route in load(environ, tmp_path).routes] == routes


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ["no route is set up", "RUDDERSTACK_WRITE_KEY", "FORWARDER_INBOUND_KEYS"]),
        (
            {"RUDDERSTACK_WRITE_KEY": "w"},
            ["RUDDERSTACK_DATA_PLANE_URL", "COURIER_WEBHOOK_SECRET or FORWARDER_EVENTS_KEY"],
        ),
        (_OUTBOUND | {"FORWARDER_INBOUND_KEYS": "k"}, ["rudderstack_to_courier", "Set COURIER_API_KEY"]),
        (
            _OUTBOUND | {"FORWARDER_ROUTES": "rudderstack_to_courier"},
            ["asked for by FORWARDER_ROUTES", "FORWARDER_INBOUND_KEYS, and COURIER_API_KEY"],
        ),
        (_OUTBOUND | {"FORWARDER_ROUTES": "courier_to_ruderstack"}, ["did you mean courier_to_rudderstack?"]),
        (_OUTBOUND | {"FORWARDER_ROUTES": ","}, ["no name between its commas"]),
    ],
    ids=["none", "outbound begun", "inbound begun", "asked for but missing", "misspelt", "only commas"],
)
def test_an_incomplete_route_says_what_is_missing(environ: dict[str, str], said: list[str], tmp_path: Path) -> None:
    """No route, or half of one, is an error that lists what to set."""
    text = _problems(environ, tmp_path)
    assert [part for part in said if part not in text] == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RUDDERSTACK_DATA_PLANE_URL", "http://dp.example.com", "unencrypted"),
        ("RUDDERSTACK_DATA_PLANE_URL", "https://user:hunter2@dp.example.com", "credentials"),
        ("RUDDERSTACK_DATA_PLANE_URL", "https://dp.example.com/?a=hunter2", "query"),
        ("RUDDERSTACK_DATA_PLANE_URL", "https://dp.example.com/v1/batch", "base URL"),
        ("RUDDERSTACK_DATA_PLANE_URL", "ftp://dp.example.com", "https://"),
        ("RUDDERSTACK_DATA_PLANE_URL", "dp.example.com", "no URL"),
        ("RUDDERSTACK_DATA_PLANE_URL", "https://[::1", "no URL"),
        ("RUDDERSTACK_WRITE_KEY", "hunter2 hunter2", "header"),
        ("COURIER_WEBHOOK_SECRET", '["hunter2"', "JSON array"),
        ("COURIER_WEBHOOK_SECRET", '["hunter2", 3]', "non-empty strings"),
        ("COURIER_WEBHOOK_SECRET", ",", "no secret"),
        ("FORWARDER_LISTEN", "8080", "no port"),
        ("FORWARDER_LISTEN", "host:99999", "no port"),
        ("FORWARDER_LISTEN", "::1:80", "brackets"),
        ("FORWARDER_LISTEN", "http://x:80", "brackets"),
        ("FORWARDER_LISTEN", "a/b:80", "no name or address"),
        ("FORWARDER_LISTEN", "[zz]:80", "FORWARDER_LISTEN"),
        ("FORWARDER_LISTEN", "127.0.0.1:8081", "is taken by FORWARDER_LISTEN"),
        ("FORWARDER_OPERATOR_LISTEN", "0.0.0.0:8081", "FORWARDER_OPERATOR_TOKEN"),
        ("FORWARDER_RETENTION_S", "93599", "at least 93600"),
        ("FORWARDER_BATCH_BYTES_MAX", "4096001", "4096000"),
        ("FORWARDER_BATCH_EVENTS_MAX", "0", "number of events"),
        ("FORWARDER_BATCH_EVENTS_MAX", "many", "integer"),
        ("FORWARDER_BATCH_WAIT_MAX_S", "nan", "seconds"),
        ("FORWARDER_DRAIN_MAX_S", "-1", "seconds"),
        ("FORWARDER_EVENTS", ", ,", "no name"),
        ("FORWARDER_LISTEN", "0.0.0.0:8081", "is taken by FORWARDER_LISTEN"),
        ("FORWARDER_LISTEN", "[::]:8080,127.0.0.1:8081", "is taken by FORWARDER_LISTEN"),
        ("FORWARDER_LISTEN", ",", "no address"),
        ("FORWARDER_LISTEN", "0.0.0.0:80,x", "no port"),
        ("FORWARDER_PUBLIC_URL", "bridge.example.com", "no URL"),
        ("FORWARDER_PUBLIC_URL", "ftp://bridge.example.com", "https://"),
        ("FORWARDER_PUBLIC_URL", "https://u:hunter2@bridge.example.com", "credentials"),
        ("FORWARDER_PUBLIC_URL", "https://bridge.example.com/?a", "query"),
        ("FORWARDER_ALERT_URL", "http://alerts.example.org/hunter2", "unencrypted"),
        ("FORWARDER_ALERT_URL", "ftp://alerts.example.org/hunter2", "https://"),
        ("FORWARDER_ALERT_URL", "https://u:hunter2@alerts.example.org", "credentials"),
        ("FORWARDER_ALERT_URL", "hunter2", "no URL"),
        ("FORWARDER_ALERT_TEMPLATE", "T1", "also need COURIER_API_KEY and FORWARDER_ALERT_TO"),
        ("FORWARDER_ALERT_TO", "u1", "also need COURIER_API_KEY and FORWARDER_ALERT_TEMPLATE"),
        ("FORWARDER_PROXY_PROTOCOL", "v2", "Set true"),
        ("FORWARDER_IDLE_MAX_S", "0", "load balancer"),
        ("FORWARDER_SEGMENT_SIGNATURE", "firs", "did you mean first?"),
        ("FORWARDER_SPOOL", "memory", "it is none of sqlite, postgres"),
        ("FORWARDER_SPOOL", "jetstream", "it is none of sqlite, postgres"),
        ("FORWARDER_SPOOL", "postgres", "postgres needs FORWARDER_POSTGRES_URL"),
        ("FORWARDER_POSTGRES_URL", "mysql://u:hunter2@db/x", "does not begin with postgresql://"),
        ("FORWARDER_POSTGRES_URL", "postgresql://u:hunter2@db/x?keepalive=1", "there is no parameter keepalive here"),
        ("FORWARDER_POSTGRES_URL", "postgresql://u:hun#ter2@db/x", "%23"),
        ("FORWARDER_EVENTS", "native,Message Snt", "did you mean Message Sent?"),
        ("FORWARDER_LOG_LEVEL", "warn", "did you mean warning?"),
        ("FORWARDER_RULES", "/nowhere.toml", "no such file"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(variable: str, value: str, said: str, tmp_path: Path) -> None:
    """The error names the variable and the problem, and never shows a secret."""
    text = _problems(_OUTBOUND | {variable: value}, tmp_path)
    assert variable in text
    assert said in text
    assert "hunter2" not in text
    assert text.startswith("1 problem in the settings:")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FORWARDER_ALERT_TEMPLATE", "a b", "a blank"),
        ("FORWARDER_ALERT_TO", "u1,a b", "a blank"),
        ("FORWARDER_ALERT_TO", ",", "no name"),
        ("FORWARDER_ALERT_TO", ",".join(map(str, range(11))), "more than 10"),
    ],
)
def test_a_wrong_recipient_is_named(variable: str, value: str, said: str, tmp_path: Path) -> None:
    """Alerts through Courier go to a few recipients that exist as ids."""
    through = {"COURIER_API_KEY": "k", "FORWARDER_ALERT_TEMPLATE": "T", "FORWARDER_ALERT_TO": "ops@acme.org"}
    assert load(_OUTBOUND | through, tmp_path).alert_to == ("ops@acme.org",)
    text = _problems(_OUTBOUND | through | {variable: value}, tmp_path)
    assert text.startswith("1 problem")
    assert f"{variable}: " in text
    assert said in text


def test_all_problems_come_together(tmp_path: Path) -> None:
    """Wrong values, unknown names and conflicts are one report, a line each."""
    text = _problems(
        _OUTBOUND
        | {
            "FORWARDER_RETENTION_S": "1",
            "FORWARDER_LISTN": "x",
            "FORWARDER_OPERATOR_LISTEN": "0.0.0.0:1",
            "FORWARDER_INBOUND_KEYS": "k",
        },
        tmp_path,
    )
    assert len(text.splitlines()) == 5
    assert "FORWARDER_LISTN: there is no such setting (did you mean FORWARDER_LISTEN?)" in text


def test_commands_need_no_route(tmp_path: Path) -> None:
    """What only the daemon needs may be missing for a command; what is there must be right all the same."""
    environ = {"FORWARDER_OPERATOR_LISTEN": "10.0.0.1:8081", "COURIER_WEBHOOK_SECRET": "s"}
    assert load(environ, tmp_path, is_for_daemon=False).operator_listen.host == "10.0.0.1"
    with pytest.raises(SettingsInvalid, match="FORWARDER_LOG_LEVEL"):
        load(environ | {"FORWARDER_LOG_LEVEL": "x"}, tmp_path, is_for_daemon=False)


def test_a_wrong_value_is_not_missing_too(tmp_path: Path) -> None:
    """A variable that is set wrongly is reported once, not also as missing."""
    text = _problems(_OUTBOUND | {"RUDDERSTACK_WRITE_KEY": "a b"}, tmp_path)
    assert text.count("RUDDERSTACK_WRITE_KEY") == 1


def test_sources_win_in_their_order(tmp_path: Path) -> None:
    """Environment beats .env, which beats the secrets directory, which beats systemd's credentials."""
    secrets, credentials = tmp_path / "secrets", tmp_path / "credentials"
    secrets.mkdir()
    credentials.mkdir()
    (tmp_path / ".env").write_text(f"{SECRETS_DIR}=secrets\nRUDDERSTACK_WRITE_KEY=dotenv\nFORWARDER_LOG_LEVEL=debug\n")
    for folder in (secrets, credentials):
        (folder / "RUDDERSTACK_WRITE_KEY").write_text(f"{folder.name}\n")
        (folder / "courier_webhook_secret").write_text(f"  {folder.name}\n")
        (folder / "unrelated").write_text("x")
    (credentials / "RUDDERSTACK_DATA_PLANE_URL").write_text("https://dp.example.com\n")
    read = load({"FORWARDER_LOG_LEVEL": "error", "CREDENTIALS_DIRECTORY": str(credentials)}, tmp_path)
    assert read.rudderstack_write_key is not None
    assert read.rudderstack_write_key.get_secret_value() == "dotenv"
    assert [one.get_secret_value() for one in read.courier_webhook_secrets] == ["secrets"]
    assert read.log_level == "error"
    kinds = {row.variable: row.origin.split(" ")[0] for row in read.rows()}
    assert kinds["FORWARDER_LOG_LEVEL"] == "environment"
    assert kinds["RUDDERSTACK_WRITE_KEY"] == ".env"
    assert kinds["COURIER_WEBHOOK_SECRET"] == "secrets"
    assert kinds["RUDDERSTACK_DATA_PLANE_URL"] == "credentials"
    assert kinds["FORWARDER_LISTEN"] == "default"


def test_a_dollar_in_a_secret_stays(tmp_path: Path) -> None:
    """A .env value is taken as it is written: nothing is interpolated."""
    (tmp_path / ".env").write_text("COURIER_WEBHOOK_SECRET='a${HOME}b'\n")
    read = load({k: v for k, v in _OUTBOUND.items() if k != "COURIER_WEBHOOK_SECRET"}, tmp_path)
    assert read.courier_webhook_secrets[0].get_secret_value() == "a${HOME}b"


def test_a_file_without_leave_to_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rules file that this user may not read is an error before the daemon starts."""
    rules = tmp_path / "rules.toml"
    rules.write_text("")
    # Root may read everything, so the system's answer is stood in for.
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be read by this user" in _problems(_OUTBOUND | {"FORWARDER_RULES": str(rules)}, tmp_path)


def test_an_empty_value_is_unset(tmp_path: Path) -> None:
    """An empty or blank variable counts as not given."""
    read = load(_OUTBOUND | {"FORWARDER_LOG_LEVEL": "", "FORWARDER_INBOUND_KEYS": " "}, tmp_path)
    assert read.log_level == "info"
    assert read.routes == (RouteName.COURIER_TO_RUDDERSTACK,)


def test_unreadable_sources_are_problems(tmp_path: Path) -> None:
    """A missing secrets folder, a binary secret or a broken .env is said, not passed over."""
    (tmp_path / "FORWARDER_EVENTS_KEY").write_bytes(b"\xff\xfe")
    (tmp_path / ".env").write_bytes(b"FORWARDER_LISTEN=\xff\n")
    text = _problems(
        _OUTBOUND | {SECRETS_DIR: str(tmp_path / "none"), "CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path
    )
    assert "FORWARDER_SECRETS_DIR: the folder cannot be listed" in text
    assert "FORWARDER_EVENTS_KEY: its file" in text
    assert ".env: it cannot be read" in text


def test_files_that_may_not_be_looked_at_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that can be listed but not entered is said, at the start and under a running daemon alike."""
    (tmp_path / "COURIER_API_KEY").touch()

    def refuse(_: Path) -> bool:
        raise PermissionError

    # Root may look at everything, so the system's answer is stood in for.
    monkeypatch.setattr(Path, "is_file", refuse)
    text = _problems({SECRETS_DIR: str(tmp_path)}, tmp_path)
    assert "FORWARDER_SECRETS_DIR: the folder cannot be listed (PermissionError)" in text
    assert ".env: it cannot be read (PermissionError)" in text


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    """Neither repr nor the rows of the page hold a secret."""
    secret = "hunter2"
    environ = _OUTBOUND | {
        "RUDDERSTACK_WRITE_KEY": secret,
        "COURIER_WEBHOOK_SECRET": f"{secret},{secret}3",
        "FORWARDER_OPERATOR_TOKEN": secret,
    }
    read = load(environ, tmp_path)
    assert secret not in f"{read.rows()}"
    rows = {row.variable: row for row in read.rows()}
    assert rows["COURIER_WEBHOOK_SECRET"].value == "(2 set)"
    assert rows["COURIER_WEBHOOK_SECRET"].is_secret
    assert secret not in repr(read)
    assert secret not in repr(Found("COURIER_API_KEY", secret, Origin("environment")))


@pytest.mark.parametrize(
    ("text", "secrets"),
    [("a", ["a"]), ("a, b ,", ["a", "b"]), ('["a,b", "c"]', ["a,b", "c"])],
    ids=["one", "several", "JSON array"],
)
def test_secrets_come_in_lists(text: str, secrets: list[str]) -> None:
    """Rotation: several secrets comma-separated, or a JSON array where one contains a comma."""
    assert [one.get_secret_value() for one in secret_list(text)] == secrets


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0, True),
        ("[::1]:8081", "::1", 8081, True),
        ("localhost:1", "localhost", 1, True),
        (":8080", "0.0.0.0", 8080, False),  # noqa: S104 - a value to be read, nothing is bound
        ("bridge.internal:80", "bridge.internal", 80, False),
    ],
)
def test_addresses(text: str, host: str, port: int, *, is_loopback: bool) -> None:
    """An address is host and port; loopback is recognised by name and number."""
    read = address(text)
    assert (read.host, read.port, read.is_loopback()) == (host, port, is_loopback)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[::]:8080", ["[::]:8080"]),
        ("127.0.0.1:80, [::1]:80,", ["127.0.0.1:80", "[::1]:80"]),
        ("0.0.0.0:80,[::]:80,[::1]:80", ["[::]:80"]),
        ("0.0.0.0:80,[::1]:80,10.0.0.1:80,10.0.0.1:81", ["0.0.0.0:80", "[::1]:80", "10.0.0.1:81"]),
        ("a:0,a:0", ["a:0"]),
    ],
)
def test_several_addresses(text: str, kept: list[str]) -> None:
    """Several addresses come comma-separated; what a wildcard serves already is not opened twice."""
    assert [str(one) for one in addresses(text)] == kept


@settings(max_examples=100, deadline=None)
@given(st.ip_addresses(), st.integers(0, 65_535))
def test_an_address_reads_back_as_it_is_written(host: object, port: int) -> None:
    """Writing an address and reading it gives the same address."""
    written = Address(str(host), port)
    assert address(str(written)) == written


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_json_array_carries_any_secret(secrets: list[str]) -> None:
    """Whatever a secret contains, a JSON array carries it."""
    text = Settings.model_validate({"FORWARDER_INBOUND_KEYS": json.dumps(secrets)})
    assert [one.get_secret_value() for one in text.inbound_keys] == secrets


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"COURIER_API_KEY": "k"}, "FORWARDER_INBOUND_KEYS is not"),
        ({"FORWARDER_SIGNATURE_AGE_MAX_S": "700000"}, "FORWARDER_SIGNATURE_AGE_MAX_S"),
        ({"FORWARDER_SPOOL_BYTES_MAX": "1000000"}, "FORWARDER_BODY_BYTES_MAX"),
        ({"FORWARDER_SPOOL_BYTES_MAX": "262143"}, "FORWARDER_SPOOL_BYTES_MAX (262143) is hardly more than an empty"),
        ({"FORWARDER_OPERATOR_TOKEN": "short"}, "FORWARDER_OPERATOR_TOKEN"),
        ({"FORWARDER_LINKS": __file__}, "FORWARDER_LINKS"),
        (
            {"FORWARDER_ALERT_TEMPLATE": "T", "FORWARDER_ALERT_TO": "u", "COURIER_API_KEY": "k"},
            "while Courier is what fails, nobody is told",
        ),
    ],
)
def test_doubtful_combinations_are_warned_of(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    """What is allowed but probably not meant is a warning of the check, naming its variable."""
    (doubt,) = doubts(load(_OUTBOUND | environ, tmp_path))
    assert said in doubt


@pytest.mark.parametrize(("cap", "count"), [("262143", 1), ("262144", 0)])
def test_a_cap_without_room_is_said_at_the_start(cap: str, count: int, tmp_path: Path) -> None:
    """What an empty spool fills is no cap to start with silently."""
    told = start_doubts(load(_OUTBOUND | {"FORWARDER_SPOOL_BYTES_MAX": cap}, tmp_path))
    assert sum("FORWARDER_SPOOL_BYTES_MAX" in doubt for doubt in told) == count


def test_a_plain_setup_has_no_doubts(tmp_path: Path) -> None:
    """Both routes with defaults raise no warning."""
    assert doubts(load(_OUTBOUND | _INBOUND, tmp_path)) == []


def test_the_example_file_documents_every_setting(tmp_path: Path) -> None:
    """config.example.env names every setting once, with the true default where it shows one."""
    lines = (Path(__file__).parents[2] / "config.example.env").read_text().splitlines()
    shown = dict(line.removeprefix("#").split("=", 1) for line in lines if line[1:].split("=")[0].isupper())
    assert set(shown) == {*Settings.variables(), SECRETS_DIR, "OTEL_EXPORTER_OTLP_ENDPOINT"}
    defaults = {row.variable: row.value for row in load(_OUTBOUND, tmp_path).rows() if row.origin == "default"}
    shown["FORWARDER_DATA_DIR"] = shown["FORWARDER_DATA_DIR"].removeprefix("./")
    assert {name: shown[name] for name, value in defaults.items() if value} == {
        name: value for name, value in defaults.items() if value
    }
