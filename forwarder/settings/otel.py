"""Whether events are traced, as OpenTelemetry's own variables have it. What else they say, the SDK reads by itself.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final
from urllib.parse import urlsplit

from forwarder.errors import SettingsInvalid
from forwarder.settings.extras import module_of
from forwarder.settings.sources import OTEL_PREFIX, Found
from forwarder.telemetry.tracing import Tracing

_EXPORTERS: Final = ("otlp", "console")
_TRACES, _OTLP = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"  # the more special one wins
_PROTOCOL: Final = "http/protobuf"
_PROPAGATOR: Final = "tracecontext"
_DEFAULT_ENDPOINT: Final = "http://localhost:4318"
_PACKAGES: Final = ("opentelemetry", "google", "requests")  # what the extra brings


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """How events are traced. No repr of the variables: they may hold a login."""

    exporters: tuple[str, ...]  # at least one
    is_propagated: bool  # whether the context is taken from the wire and put on it
    endpoint: str  # host and port, for people
    variables: Mapping[str, str] = field(repr=False)  # by name, whatever their source


def read_tracing(found: Mapping[str, Found]) -> tuple[TracingSettings | None, list[str]]:
    """Return how events are traced, None when they are not, and what is wrong with what was asked for.

    They are when `OTEL_TRACES_EXPORTER` names an exporter, or when an OTLP endpoint is set and it names none.
    """
    variables = {name: one.text for name, one in found.items() if name.startswith(OTEL_PREFIX)}
    endpoint = variables.get(f"{_TRACES}ENDPOINT") or variables.get(f"{_OTLP}ENDPOINT")
    asked = _words(variables.get("OTEL_TRACES_EXPORTER", "otlp" if endpoint else "none"))
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true" or asked in ([], ["none"]):
        return None, []
    problems = [
        f"OTEL_TRACES_EXPORTER: this daemon has no exporter {name}. Set otlp, console, or none."
        for name in asked
        if name not in _EXPORTERS
    ]
    protocol = next((name for part in (_TRACES, _OTLP) if (name := f"{part}PROTOCOL") in variables), "")
    if protocol and "otlp" in asked and variables[protocol] != _PROTOCOL:
        problems.append(f"{protocol}: this daemon exports by {_PROTOCOL} alone (port 4318). Set that, or remove it.")
    if problems:
        return None, problems
    return TracingSettings(
        exporters=tuple(asked),
        is_propagated=_PROPAGATOR in _words(variables.get("OTEL_PROPAGATORS", _PROPAGATOR)),
        endpoint=urlsplit(endpoint or _DEFAULT_ENDPOINT).netloc.rpartition("@")[2],
        variables=variables,
    ), []


def open_tracing(settings: TracingSettings | None, stack: AsyncExitStack) -> Tracing | None:
    """Begin to trace, if asked for; `stack` ends it. Raises `SettingsInvalid`: no package, or it refuses."""
    if settings is None:
        return None
    module = load_sdk(settings)
    try:
        tracing: Tracing = module.OpenTelemetry(
            [module.EXPORTERS[name]() for name in settings.exporters], is_propagated=settings.is_propagated
        )
    except Exception as error:  # noqa: BLE001  whatever the SDK raises for what its variables say; its text may quote one
        raise SettingsInvalid(
            f"OTEL_…: the OpenTelemetry SDK cannot be set up with these variables ({type(error).__name__}). "
            "Look them over: numbers, paths of certificates."
        ) from None
    stack.push_async_callback(tracing.close)
    return tracing


def reaches_collector(settings: TracingSettings) -> bool:
    """Export nothing, as spans would be, and tell whether it was taken; blocks for as long as the SDK tries."""
    module = load_sdk(settings)
    return bool(module.EXPORTERS["otlp"]().export([]) is module.SUCCESS)


def load_sdk(settings: TracingSettings) -> ModuleType:
    """Import what makes spans; raises `SettingsInvalid` with the command that installs it."""
    # The SDK reads the process' environment alone; ours may come from `.env` or a folder of secrets.
    os.environ.update(settings.variables)
    names = (name for name in sorted(settings.variables) if name.endswith(("_ENDPOINT", "_EXPORTER")))
    return module_of(
        "forwarder.telemetry.open_telemetry", extra="otel", packages=_PACKAGES, variable=next(names, "OTEL_…")
    )


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip().lower())]
