"""`forwarder check`: is everything as it must be, before or while the daemon runs?"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict

import click

from forwarder.cli import show
from forwarder.cli.check_vendors import vendor_findings
from forwarder.cli.exits import FAILED, ending
from forwarder.cli.options import AS_JSON, daemon_settings
from forwarder.cli.unit import place_of
from forwarder.clock import SystemClock
from forwarder.errors import SettingsInvalid, SourceAway
from forwarder.operator.checks import Finding, is_failed, local_findings
from forwarder.settings import Settings, read
from forwarder.settings.otel import TracingSettings, reaches_collector
from forwarder.sources.configured import Configured, configured
from forwarder.transport import AiohttpTransport


@click.command(
    epilog=ending(
        "forwarder check",
        "forwarder check --connect",
        "sudo forwarder check --unit forwarder",
        "forwarder check --json | jq '.findings[]'",
    )
)
@click.option(
    "--connect",
    is_flag=True,
    help="Also ask both vendors (name, TLS, key, clock), your bus (login, stream, rights) and the traces' collector. "
    "No event is sent.",
)
@click.option(
    "--unit",
    metavar="NAME",
    help="Check what this systemd unit (or unit file) would be given, not this shell's settings.",
)
@AS_JSON
@click.pass_context
def check(ctx: click.Context, *, connect: bool, unit: str | None, as_json: bool) -> None:
    """Check settings, files, data folder or database, spool and clock.

    Prints every setting that is in effect with its source, secrets masked, then what was found. Warnings do
    not fail the check.
    """
    settings: Settings = read(place_of(unit)) if unit else daemon_settings()
    clock = SystemClock()
    findings = list(local_findings(settings, now_ms=clock.wall_ms()))
    try:
        buses = list(configured(settings, clock))
    except SettingsInvalid as error:
        findings.append(Finding("fail", "your bus", str(error)))
        buses = []
    if connect:
        findings += asyncio.run(_connected(settings, buses, clock))
    if as_json:
        rows = [asdict(row) for row in settings.rows()]
        click.echo(json.dumps({"findings": [finding.as_json() for finding in findings], "settings": rows}))
    else:
        _print(settings, findings)
    if is_failed(findings):
        ctx.exit(FAILED)


async def _connected(settings: Settings, buses: Iterable[Configured], clock: SystemClock) -> list[Finding]:
    async with AiohttpTransport(clock=clock, proxy_for=settings.reading.proxies.url_for) as transport:
        found = [finding async for finding in vendor_findings(settings, transport, clock)]
    found += [finding async for finding in source_findings(buses)]
    tracing = settings.reading.tracing
    return found if tracing is None or "otlp" not in tracing.exporters else [*found, await _collector(tracing)]


async def _collector(tracing: TracingSettings) -> Finding:
    if await asyncio.to_thread(reaches_collector, tracing):
        return Finding("ok", "traces", f"{tracing.endpoint} takes spans")
    return Finding("fail", "traces", f"{tracing.endpoint} takes no spans: check OTEL_EXPORTER_OTLP_… and the network")


async def source_findings(buses: Iterable[Configured]) -> AsyncIterator[Finding]:
    """Prove that each of the user's own buses can be read; no message is taken."""
    for one in buses:
        try:
            yield Finding("ok", one.name, await one.bus.prove())
        except SourceAway as error:
            yield Finding(
                "fail", one.name, f"{error}. Check FORWARDER_{one.name.upper()}_…, the network and the rights"
            )
        finally:
            await one.bus.close()


def _print(settings: Settings, findings: list[Finding]) -> None:
    for row in settings.rows():
        if row.value:
            click.echo(show.cut(f"{row.variable:<30}  {show.plain(row.value, 33)}  {row.origin}"))
    click.echo("")
    for finding in findings:
        click.echo(f"{show.coloured(finding.level, 4)}  {finding.name:<14}  {show.plain(finding.text)}")
