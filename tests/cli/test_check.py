"""forwarder check, on this machine and with the vendors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from click.testing import Result

from forwarder.cli.check_vendors import judged_courier, judged_rudderstack, skewed, vendor_findings
from forwarder.clock import SystemClock
from forwarder.mapping.link_store import STORE_KEY, encode_links
from forwarder.mapping.links import Link, Links, TargetKind
from forwarder.model import HttpResponse
from forwarder.operator.checks import Finding, LocalCheck, local_findings
from forwarder.settings import Settings
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from forwarder.transport import AiohttpTransport
from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Known
from stand_ins.data_plane import DataPlane

Shell = Callable[..., Result]

_NOW_MS = 1_800_000_000_000
_BOTH = {
    "RUDDERSTACK_WRITE_KEY": "wk",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:1",
    "COURIER_WEBHOOK_SECRET": "whsec",
    "COURIER_API_KEY": "ck",
    "COURIER_API_URL": "http://127.0.0.1:1",
    "FORWARDER_INBOUND_KEYS": "ik",
}


@pytest.fixture(autouse=True)
def lasting_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the data folder be on a disk that lasts, whatever this machine's temporary folder is on."""
    monkeypatch.setattr("forwarder.settings.data_volume.MOUNTS", tmp_path / "no-mounts")


def _levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings}


def _local(folder: Path, **changed: str) -> list[Finding]:
    settings = Settings.model_validate(_BOTH | {"FORWARDER_DATA_DIR": str(folder / "data")} | changed)
    return list(local_findings(settings, now_ms=_NOW_MS))


@pytest.mark.one_daemon("the Postgres of many replicas' tests does not sync, and check says so")
def test_a_good_setup_passes(filled: Shell) -> None:
    """Everything is ok: exit code 0, every setting is shown with its source, and no secret is."""
    result = filled("check", **_BOTH)
    assert result.exit_code == 0, result.output
    assert "sound, SQLite 3." in result.stdout
    assert "FORWARDER_DATA_DIR" in result.stdout
    assert "environment" in result.stdout
    assert "whsec" not in result.stdout
    told = json.loads(filled("check", "--json", **_BOTH).stdout)
    assert {finding["level"] for finding in told["findings"]} == {"ok"}
    assert {row["variable"]: row["value"] for row in told["settings"]}["COURIER_WEBHOOK_SECRET"] == "(1 set)"


@pytest.mark.one_daemon("a file of SQLite is read")
def test_a_quick_look_leaves_the_spool_unread(filled: Shell, tmp_path: Path) -> None:
    """For the page everything but the spool's pages is looked at, unless it is asked for."""
    assert filled("check", **_BOTH).exit_code == 0
    settings = Settings.model_validate(_BOTH | {"FORWARDER_DATA_DIR": str(tmp_path / "data")})
    check = LocalCheck(settings, SystemClock())
    told = {finding.name: finding.text for finding in check(is_thorough=False)}
    assert "its pages were not read" in told["spool"]
    assert "sound" in {finding.name: finding.text for finding in check(is_thorough=True)}["spool"]


def test_wrong_settings_end_with_78(shell: Shell) -> None:
    """A configuration error is printed whole, without a traceback, and ends with 78."""
    result = shell("check", FORWARDER_LISTN="x")
    assert result.exit_code == 78
    assert "FORWARDER_LISTN" in result.stderr
    assert "no route is set up" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.one_daemon("a file of SQLite is damaged")
def test_a_damaged_spool_fails(filled: Shell, tmp_path: Path) -> None:
    """A spool whose pages are damaged is found, with what to do; exit code 1."""
    database = tmp_path / "data" / "spool.db"
    raw = bytearray(database.read_bytes())
    raw[4096 : 4096 * 3] = b"\xff" * 8192
    database.write_bytes(raw)
    result = filled("check", **_BOTH)
    assert result.exit_code == 1
    assert "damaged" in result.stdout


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    """Something else under the spool's name is told apart from a spool."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    assert _levels(_local(tmp_path))["spool"] == "fail"


def test_wrong_files_are_named_line_by_line(tmp_path: Path) -> None:
    """Every problem of the rules and links files is a finding of its own."""
    (tmp_path / "rules.toml").write_text("[[rule]]\ncolour = 1\n")
    (tmp_path / "links.toml").write_bytes(b"\xff")
    found = _local(tmp_path, FORWARDER_RULES=str(tmp_path / "rules.toml"), FORWARDER_LINKS=str(tmp_path / "links.toml"))
    assert _levels(found)["rules"] == "fail"
    assert _levels(found)["links"] == "fail"
    (tmp_path / "links.toml").write_text("")
    assert _levels(_local(tmp_path, FORWARDER_LINKS=str(tmp_path / "links.toml")))["links"] == "ok"


def test_a_folder_that_cannot_be_made_fails(tmp_path: Path) -> None:
    """A data folder below a file cannot be written."""
    (tmp_path / "file").write_text("")
    assert _levels(_local(tmp_path / "file"))["data folder"] == "fail"


def test_a_folder_that_takes_no_file_fails() -> None:
    """A folder whose file system refuses new files is found by trying."""
    settings = Settings.model_validate(_BOTH | {"FORWARDER_DATA_DIR": "/proc/data"})
    assert _levels(list(local_findings(settings, now_ms=_NOW_MS)))["data folder"] == "fail"


def test_a_folder_that_may_vanish_is_a_warning(tmp_path: Path) -> None:
    """A data folder in memory is said."""
    (tmp_path / "no-mounts").write_text("1 0 0:1 / / rw - tmpfs tmpfs rw\n")
    assert _levels(_local(tmp_path))["data volume"] == "warn"


def test_an_old_sqlite_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library from before the fix of the log's reset is refused, whatever the spool says."""
    monkeypatch.setattr("apsw.sqlite_lib_version", lambda: "3.40.1")
    (finding,) = [one for one in _local(tmp_path) if one.name == "spool"]
    assert (finding.level, "3.51.3 is needed" in finding.text) == ("fail", True)


def test_doubts_and_open_folders_are_warnings(tmp_path: Path) -> None:
    """What probably was not meant is a warning, which fails nothing."""
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    found = _local(tmp_path, FORWARDER_OPERATOR_TOKEN="short", FORWARDER_SPOOL_BYTES_MAX=str(2**62))
    texts = [finding.text for finding in found if finding.level == "warn"]
    assert len(texts) == 3
    assert "FORWARDER_OPERATOR_TOKEN" in texts[0]


def test_the_check_says_how_an_inbound_key_is_rotated(tmp_path: Path) -> None:
    """Whoever rotates a key reads beforehand that the old one must stay for a while."""
    (told,) = [one.text for one in _local(tmp_path, FORWARDER_INBOUND_KEYS="old,new") if one.name == "inbound keys"]
    assert told.startswith("2 are taken")
    assert "keep naming the old one" in told
    assert "HTTP Webhook" in told


def test_the_database_is_looked_at_instead_of_the_folder(tmp_path: Path, postgres_url: str) -> None:
    """With Postgres the check says how server and schema are, and nothing of a folder; one that is away fails."""
    own = {"FORWARDER_SPOOL": "postgres", "FORWARDER_POSTGRES_URL": postgres_url}
    found = _local(tmp_path, **own)
    assert {one.name for one in found} == {"settings", "inbound keys", "database", "clock"}
    texts = [one.text for one in found if one.name == "database"]
    assert "fsync is on, our commits wait for the disk" in texts
    assert "nothing is kept there yet; the schema forwarder is made at the start" in texts
    away = _local(tmp_path, **own | {"FORWARDER_POSTGRES_URL": "postgresql://u@127.0.0.1:1/x"})
    assert [one.level for one in away if one.name == "database"] == ["fail"]


def test_an_implausible_clock_fails(tmp_path: Path) -> None:
    """A machine that believes in 1970 cannot judge signatures."""
    settings = Settings.model_validate(_BOTH | {"FORWARDER_DATA_DIR": str(tmp_path)})
    assert _levels(list(local_findings(settings, now_ms=0)))["clock"] == "fail"


async def test_the_vendors_are_asked_without_an_event(tmp_path: Path) -> None:
    """Right keys are recognised at both stand-ins, wrong ones are failures, and no event arrives."""
    clock = SystemClock()
    async with DataPlane(write_keys=["wk"]) as plane, CourierApi(api_keys=["ck"]) as courier:
        for key, level in (("", "ok"), ("wrong", "fail")):
            settings = Settings.model_validate(
                _BOTH
                | {"RUDDERSTACK_DATA_PLANE_URL": plane.url, "COURIER_API_URL": courier.url}
                | {"RUDDERSTACK_WRITE_KEY": key or "wk", "COURIER_API_KEY": key or "ck"}
            )
            async with AiohttpTransport(clock=clock) as transport:
                found = [one async for one in vendor_findings(settings, transport, clock)]
            levels = {one.name: one.level for one in found if one.name != "clock"}
            assert levels == {"rudderstack": level, "courier": level}
            assert not [one for one in found if one.name == "clock" and one.level != "ok"]
        assert not plane.events
    del tmp_path


async def test_links_are_compared_with_couriers_lists(tmp_path: Path) -> None:
    """Pinned and stored links whose target Courier does not list are warned of; a key that may not list is, too."""
    file, folder, clock = tmp_path / "links.toml", tmp_path / "data", SystemClock()
    file.write_text('[[link]]\nevent = "A"\ntarget = "welcome"\nto = "journey"\n')
    reporter = Reporter(Metrics(), structlog.get_logger())
    spool = await SqliteSpool.open(folder, limits=SpoolLimits(), clock=clock, reporter=reporter)
    await spool.put(STORE_KEY, encode_links(Links([Link(event="B", target="gone", target_kind=TargetKind.JOURNEY)])))
    await spool.close()
    known = Known(automations=set(), journeys={"welcome"}, templates=set(), lists=set())
    async with CourierApi(api_keys=["ck"], known=known) as courier, AiohttpTransport(clock=clock) as transport:
        own = {"COURIER_API_URL": courier.url, "FORWARDER_LINKS": str(file), "FORWARDER_DATA_DIR": str(folder)}
        settings = Settings.model_validate(_BOTH | own | {"FORWARDER_ROUTES": "rudderstack_to_courier"})

        async def told() -> list[tuple[str, str]]:
            found = [one async for one in vendor_findings(settings, transport, clock)]
            return [(one.level, one.text) for one in found if one.name == "links"]

        assert await told() == [("warn", "track/B to journey gone: Courier lists no published journey of this id")]
        known.journeys = {"welcome", "gone"}
        assert await told() == [("ok", "2 of 2 lead to what Courier lists")]
        known.journeys = None
        ((level, text),) = await told()
        assert (level, "journeys: the API key may not list them" in text) == ("warn", True)


def test_vendors_that_are_not_there_fail_the_check(shell: Shell) -> None:
    """Without a connection the finding names the address and the variable."""
    result = shell("check", "--connect", **_BOTH)
    assert result.exit_code == 1
    assert "RUDDERSTACK_DATA_PLANE_URL" in result.stdout
    assert "connection refused" in result.stdout


def _answer(status: int, body: bytes = b"{}") -> HttpResponse:
    return HttpResponse(status=status, headers={}, body=body, duration_s=0.1)


@pytest.mark.parametrize(
    ("status", "body", "level"),
    [
        (400, b"empty batch payload", "ok"),
        (400, b"something else", "fail"),
        (401, b"invalid write key", "fail"),
        (301, b"", "fail"),
        (404, b"source is disabled", "fail"),
        (200, b"ok", "warn"),
        (503, b"", "fail"),
    ],
)
def test_what_the_gateway_answers_to_nothing(status: int, body: bytes, level: str) -> None:
    """Only the gateway's own refusal of an empty batch proves address and key."""
    assert judged_rudderstack(_answer(status, body)).level == level


@pytest.mark.parametrize(("body", "blames_address"), [(b"source is disabled\n", False), (b"not found", True)])
def test_a_disabled_source_does_not_blame_the_address(body: bytes, *, blames_address: bool) -> None:
    """The remedy of a 404 depends on who said it."""
    finding = judged_rudderstack(_answer(404, body))
    assert ("RUDDERSTACK_DATA_PLANE_URL" in finding.text) is blames_address
    assert ("enable its source" in finding.text) is not blames_address


@pytest.mark.parametrize(
    ("status", "body", "level"),
    [
        (200, b"{}", "ok"),
        (404, b'{"message":"x"}', "ok"),
        (404, b"<html>", "fail"),
        (401, b"{}", "fail"),
        (403, b"{}", "warn"),
        (500, b"", "fail"),
    ],
)
def test_what_courier_answers_to_a_profile(status: int, body: bytes, level: str) -> None:
    """A profile, or Courier's own word that there is none, proves address and key."""
    assert judged_courier(_answer(status, body)).level == level


@pytest.mark.parametrize(
    ("date", "level"),
    [
        ("Fri, 15 Jan 2027 08:00:30 GMT", "ok"),
        ("Fri, 15 Jan 2027 08:00:30 -0000", "ok"),
        ("Fri, 15 Jan 2027 07:00:00 GMT", "warn"),
        ("Fri, 15 Jan 2027 09:00:00 GMT", "warn"),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_clock_is_compared_with_the_vendors(date: str, level: str | None) -> None:
    """More than a minute off is a warning; a vendor that tells no time proves nothing."""
    found = skewed({"date": date}, now_ms=_NOW_MS)
    assert (found.level if found else None) == level
