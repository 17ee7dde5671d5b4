"""`forwarder map`: what would be sent for a payload, without sending it; and is it what was expected?"""

import asyncio
import difflib
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from urllib.parse import unquote

import click

from forwarder.cli.check_vendors import courier_lists
from forwarder.cli.exits import FAILED, CommandFailed, ending
from forwarder.cli.filters import RouteWord
from forwarder.cli.links_command import links_in, rows_of
from forwarder.cli.options import URL, command_settings
from forwarder.clock import SystemClock
from forwarder.courier import wire as courier_wire
from forwarder.courier.catalogue import Known
from forwarder.errors import DaemonUnreachable
from forwarder.ingress import elements
from forwarder.ingress.cutting import array_of, at_once
from forwarder.ingress.elements import Element, NotJson, TooManyElements
from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack
from forwarder.mapping.links import Links
from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.model import Delivery, Envelope, Lease, RouteName, State
from forwarder.operator.explain import Explained, explained
from forwarder.ports import Mapper
from forwarder.rudderstack import wire
from forwarder.settings import Settings
from forwarder.settings.toml_files import read_links, read_mapping
from forwarder.transport import AiohttpTransport

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK.value, RouteName.RUDDERSTACK_TO_COURIER.value

Outcome = dict[str, Any]
_TARGET = re.compile(
    r"(?:POST|PUT|DELETE) /(?P<kind>automation|journey|list)s/(?P<id>[^/]+)/(?:invoke|subscriptions/.*)"
)

_SOURCES = MappingProxyType({OUTBOUND: ("webhook", "events"), INBOUND: ("rudderstack", "segment", "v1")})
_NO_OBJECT = MappingProxyType({"outcome": "dead", "reason": "not a JSON object"})


@click.command(
    "map",
    epilog=ending(
        "forwarder map webhook.json",
        "FORWARDER_RULES=rules.toml forwarder map --expect expected.json webhook.json",
        "forwarder map --route inbound --source segment - < track.json",
    ),
)
@click.option("--route", type=RouteWord(), default="outbound", show_default=True)
@click.option(
    "--source",
    help="Where it would come in: webhook or events; rudderstack, segment or v1. Default: the route's first.",
    type=click.Choice([source for sources in _SOURCES.values() for source in sources]),
)
@click.option("--received-at", type=click.DateTime(), help="When it would arrive, in UTC, for events without a time.")
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with this JSON file: exit 1 and a diff when it differs.",
)
@click.option("--connect", is_flag=True, help="Also say what speaks against a call's target by Courier's own lists.")
@URL
@click.argument("file", type=click.File("rb"))
@click.pass_context
def map_(
    ctx: click.Context,
    *,
    route: str,
    source: str | None,
    received_at: datetime | None,
    expect: Path | None,
    connect: bool,
    url: str | None,
    file: BinaryIO,
) -> None:
    """Print what would be sent for the event in FILE (- for standard input).

    Uses FORWARDER_EVENT_NAMES, FORWARDER_EVENTS and FORWARDER_RULES outbound; inbound FORWARDER_INBOUND_MODE,
    FORWARDER_LINKS and the stored links, as `forwarder links list` finds them. FILE holds one JSON object, or an
    array of them, which prints an array.
    """
    if source is not None and source not in _SOURCES[route]:
        raise click.UsageError(f"--source {source} is no endpoint of {route}: {', '.join(_SOURCES[route])}")
    at_ms = round(received_at.replace(tzinfo=UTC).timestamp() * 1000) if received_at else time.time_ns() // 1_000_000
    mapped = _mapped(file, route, source, at_ms, url)
    if connect and route == INBOUND:
        _add_doubts(mapped if isinstance(mapped, list) else [mapped], asyncio.run(_lists(command_settings())))
    text = json.dumps(mapped, indent=2, ensure_ascii=False, sort_keys=True)
    if expect is None:
        click.echo(text)
        return
    wanted = json.dumps(_json(expect.read_bytes(), str(expect)), indent=2, ensure_ascii=False, sort_keys=True)
    if wanted == text:
        click.echo("as expected")
        return
    _print_difference(wanted, text, expect)
    ctx.exit(FAILED)


def _mapped(file: BinaryIO, route: str, source: str | None, at_ms: int, url: str | None) -> Any:
    settings: Settings = command_settings()
    found, is_one = _elements(file)
    if route == OUTBOUND:
        outbound = read_mapping(settings).mapper()
        made = [outbound_outcome(outbound, one, at_ms=at_ms, source=source or "webhook") for one in found]
    else:
        inbound = _inbound_mapper(settings, asyncio.run(_stored_links(url)))
        made = [inbound_outcome(inbound, one, at_ms=at_ms, source=source or "rudderstack") for one in found]
    return made[0] if is_one else made


def _elements(file: BinaryIO) -> tuple[list[Element | None], bool]:
    """Cut the file as the endpoints do, so that what they put right is put right here; True for a lone event."""
    try:
        body = elements.trimmed(file.read())
        return list(map(elements.element, at_once(array_of(body)))), not body.startswith(b"[")
    except (NotJson, TooManyElements) as error:
        raise CommandFailed(f"{file.name} is no JSON: {error}") from None


async def _stored_links(url: str | None) -> Links:
    """Return the links that were not made in the file, of the daemon at `url` or as `links list` finds them."""
    try:
        return Links(links_in(row for row in await rows_of(url) if not row["pinned"]))
    except (DaemonUnreachable, CommandFailed) as error:
        if url is not None:
            raise
        click.echo(f"warning: stored links are not looked at ({error})", err=True)
        return Links()


def _inbound_mapper(settings: Settings, stored: Links) -> RudderstackToCourier:
    """Return the mapper as the daemon would have it; raises `RulesInvalid`."""
    pinned = read_links(settings)
    links = pinned.links.joined(stored)
    return RudderstackToCourier.of(lambda: links, pinned, is_relay=settings.inbound_mode == "relay")


def outbound_outcome(mapper: CourierToRudderStack, one: Element | None, *, at_ms: int, source: str) -> Outcome:
    """Map one webhook as the route would, were it received now; `{"outcome": …, "call"?: …, "reason"?: …}`.

    The call is without its `sentAt`. An audience event's `messageId` differs from the later real one: it counts the
    occurrences.
    """
    if one is None:
        return dict(_NO_OBJECT)
    envelope = courier_wire.envelope(one.payload, received_at_ms=at_ms, source=source)
    made = _made(mapper, envelope)
    if made.state is not State.DELIVERED:
        return {"outcome": made.state.value, "reason": made.reason}
    delivery = made.deliveries[0]
    noted = {"reason": delivery.note} if delivery.note else {}
    return {"outcome": "sent", **noted, "call": json.loads(delivery.body)}


def inbound_outcome(mapper: RudderstackToCourier, one: Element | None, *, at_ms: int, source: str) -> Outcome:
    """Map one call; `{"outcome": …, "calls"?: [{"operation", "body"}], "reason"?: …}`."""
    if one is None:
        return dict(_NO_OBJECT)
    if one.value is None:
        envelope = wire.unreadable(one.payload, received_at_ms=at_ms, source=source)
    else:
        envelope = wire.envelope(one.value, one.payload, received_at_ms=at_ms, source=source, unique=bytes)
    made = _made(mapper, envelope)
    if made.state is not State.DELIVERED:
        return {"outcome": made.state.value, "reason": made.reason}
    return {"outcome": "sent", "calls": [_shown(delivery) for delivery in made.deliveries]}


def _made(mapper: Mapper, envelope: Envelope) -> Explained:
    return explained(mapper, Lease(sequence=1, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope))


async def _lists(settings: Settings) -> Known:
    clock = SystemClock()
    async with AiohttpTransport(clock=clock, proxy_for=settings.reading.proxies.url_for) as transport:
        return await courier_lists(settings, transport, clock)


def _add_doubts(outcomes: Sequence[Outcome], known: Known) -> None:
    """Write beside each call what speaks against its target (`doubt`); warn of lists that could not be read."""
    for call in (call for outcome in outcomes for call in outcome.get("calls", ())):
        if (named := _TARGET.fullmatch(call["operation"])) and (
            doubt := known.doubt(named["kind"], unquote(named["id"]))
        ):
            call["doubt"] = doubt
        if call["operation"] == "POST /send" and (
            doubt := known.doubt("template", call["body"]["message"]["template"])
        ):
            call["doubt"] = doubt
    if known.problem:
        click.echo(f"warning: not all compared with Courier's lists ({known.problem})", err=True)


def _shown(delivery: Delivery) -> Outcome:
    return {"operation": delivery.operation, "body": json.loads(delivery.body) if delivery.body else None}


def _json(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"{name} is no JSON: {error}") from None


def _print_difference(wanted: str, made: str, expect: Path) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    lines = difflib.unified_diff(wanted.splitlines(), made.splitlines(), str(expect), "mapped", lineterm="")
    for line in lines:
        click.echo(click.style(line, fg=colours.get(line[:1])))
