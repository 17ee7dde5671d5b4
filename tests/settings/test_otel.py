"""When events are traced, by OpenTelemetry's own variables."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from forwarder.errors import SettingsInvalid
from forwarder.operator.checks import local_findings
from forwarder.settings import Settings, load
from forwarder.settings.otel import TracingSettings, open_tracing, reaches_collector
from stand_ins.collector import Collector
from stand_ins.listener import free_port

_ROUTE = {
    "RUDDERSTACK_WRITE_KEY": "wk",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:1",
    "COURIER_WEBHOOK_SECRET": "whsec",
}
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_COLLECTOR = {_ENDPOINT: "http://user:pass@collector:4318"}


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Put the process' environment back: the SDK reads it, so tracing writes what it found into it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def _load(folder: Path, variables: dict[str, str]) -> Settings:
    return load(_ROUTE | variables, folder)


def _tracing(folder: Path, variables: dict[str, str]) -> TracingSettings | None:
    return _load(folder, variables).reading.tracing


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "bridge"},
        {_ENDPOINT: " "},
        _COLLECTOR | {"OTEL_SDK_DISABLED": "True"},
        _COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "zipkin"},
    ],
    ids=["nothing", "a name alone", "a blank", "disabled", "no exporter", "disabled whatever it is"],
)
def test_nothing_is_traced_unless_asked_for(tmp_path: Path, variables: dict[str, str]) -> None:
    """No endpoint and no exporter, or a word against it: nothing."""
    assert _tracing(tmp_path, variables) is None


def test_an_endpoint_alone_switches_it_on(tmp_path: Path) -> None:
    """Spans go there by OTLP, and the context over the wire; people see the host and no login."""
    tracing = _tracing(tmp_path, _COLLECTOR)
    assert tracing is not None
    assert (tracing.exporters, tracing.is_propagated, tracing.endpoint) == (("otlp",), True, "collector:4318")
    assert "pass" not in repr(tracing)


def test_an_exporter_alone_switches_it_on(tmp_path: Path) -> None:
    """OTLP then goes to its usual port on this machine; several exporters may be named."""
    tracing = _tracing(tmp_path, {"OTEL_TRACES_EXPORTER": "OTLP, console", "OTEL_PROPAGATORS": "b3"})
    assert tracing is not None
    assert (tracing.exporters, tracing.is_propagated, tracing.endpoint) == (
        ("otlp", "console"),
        False,
        "localhost:4318",
    )


def test_what_it_cannot_do_is_told_with_the_remedy(tmp_path: Path) -> None:
    """An exporter that there is none of, and gRPC, are errors as those of other settings."""
    wrong = _COLLECTOR | {"OTEL_TRACES_EXPORTER": "otlp,zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(SettingsInvalid) as caught:
        _tracing(tmp_path, wrong)
    assert "OTEL_TRACES_EXPORTER: this daemon has no exporter zipkin. Set otlp, console, or none." in str(caught.value)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: this daemon exports by http/protobuf alone" in str(caught.value)
    assert load(_ROUTE | wrong, tmp_path, is_for_daemon=False).reading.tracing is None


def test_the_variables_may_come_from_where_settings_do(tmp_path: Path) -> None:
    """From `.env`, and a login from the folder of secrets: the SDK finds them in the process' environment."""
    (tmp_path / ".env").write_text(f"{_ENDPOINT}=http://127.0.0.1:{free_port()}\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "OTEL_EXPORTER_OTLP_HEADERS").write_text("authorization=Bearer x\n")
    tracing = _tracing(tmp_path, {"FORWARDER_SECRETS_DIR": "secrets"})
    assert tracing is not None
    assert not reaches_collector(tracing)
    assert os.environ["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=Bearer x"


async def test_a_collector_that_takes_spans_is_reached(tmp_path: Path) -> None:
    """`check --connect` exports nothing, as spans would be."""
    async with Collector() as collector:
        tracing = _tracing(tmp_path, {_ENDPOINT: collector.url})
        assert tracing is not None
        assert await asyncio.to_thread(reaches_collector, tracing)
        assert (collector.exports, collector.spans) == (1, [])


async def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start ends with what to run, and so does `check`."""
    monkeypatch.delitem(sys.modules, "forwarder.telemetry.open_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = _load(tmp_path, _COLLECTOR | {"FORWARDER_DATA_DIR": str(tmp_path / "data")})
    said = f"{_ENDPOINT}: what it needs is not installed. Run: pip install 'courier-rudderstack-forwarder[otel]'"
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsInvalid) as caught:
            open_tracing(settings.reading.tracing, stack)
    assert str(caught.value) == said
    findings = {one.name: one for one in local_findings(settings, now_ms=1_800_000_000_000)}
    assert (findings["traces"].level, findings["traces"].text) == ("fail", said)


async def test_what_the_sdk_refuses_is_told_without_its_text(tmp_path: Path) -> None:
    """A limit that is no number ends the start; the text quotes no variable's value."""
    tracing = _tracing(tmp_path, _COLLECTOR | {"OTEL_SPAN_LINK_COUNT_LIMIT": "soon"})
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsInvalid, match=r"cannot be set up with these variables \(ValueError\)") as caught:
            open_tracing(tracing, stack)
    assert "soon" not in str(caught.value)


def test_check_says_where_spans_go(tmp_path: Path) -> None:
    """By name and port."""
    settings = _load(tmp_path, _COLLECTOR | {"FORWARDER_DATA_DIR": str(tmp_path / "data")})
    findings = {one.name: one for one in local_findings(settings, now_ms=1_800_000_000_000)}
    assert (findings["traces"].level, findings["traces"].text) == ("ok", "spans go by OTLP to collector:4318")
