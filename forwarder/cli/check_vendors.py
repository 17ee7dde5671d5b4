"""What `forwarder check --connect` asks the vendors: name, connection, TLS, key and clock; no event is sent.

RudderStack gets an empty batch, which its gateway refuses in its own words once the key is right. Courier
is asked for a profile that need not exist, and for the lists that links lead into.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from forwarder.courier.catalogue import Catalogue, Known
from forwarder.engine import read_kept_value
from forwarder.errors import NoAnswer
from forwarder.mapping.link_store import STORE_KEY, LinkTable, decode_links
from forwarder.mapping.links import LinkInvalid, Links
from forwarder.model import HttpRequest, HttpResponse, RouteName
from forwarder.operator.checks import Finding
from forwarder.ports import Clock, Transport
from forwarder.settings import Settings
from forwarder.settings.rotation import courier_client
from forwarder.settings.toml_files import read_links
from forwarder.settings.values import revealed

_TIMEOUT_S = 15.0
_SKEW_S_MAX = 60.0
_EMPTY_BATCH = "empty batch payload"
_SOURCE_DISABLED = "source is disabled"
_PROFILE = "forwarder-check"


async def vendor_findings(settings: Settings, transport: Transport, clock: Clock) -> AsyncIterator[Finding]:
    """Ask the destination of every route that runs."""
    if RouteName.COURIER_TO_RUDDERSTACK in settings.routes:
        async for finding in _asked("rudderstack", _of_rudderstack(settings), transport, clock):
            yield finding
    if RouteName.RUDDERSTACK_TO_COURIER in settings.routes or settings.alert_template:
        async for finding in _asked("courier", _of_courier(settings), transport, clock):
            yield finding
        for finding in link_findings(
            await asyncio.to_thread(_links, settings), await courier_lists(settings, transport, clock)
        ):
            yield finding
    if settings.alert_url:
        yield await _alert_host(settings.alert_url.get_secret_value(), transport)


async def _alert_host(url: str, transport: Transport) -> Finding:
    """Reach the host of the alerts without telling it anything; whatever it answers, it is there."""
    host = urlsplit(url).hostname
    try:
        await transport.exchange(HttpRequest(method="HEAD", url=url, headers={}, body=b"", timeout_s=_TIMEOUT_S))
    except NoAnswer as error:
        return Finding("fail", "alerts", f"{host}: {error}. Check FORWARDER_ALERT_URL, the network and the proxy")
    return Finding("ok", "alerts", f"{host} is reached; whether it takes alerts, `forwarder alert --test` says")


async def courier_lists(settings: Settings, transport: Transport, clock: Clock) -> Known:
    """Ask Courier what there is to start."""
    return await Catalogue(courier_client(settings, transport, clock), clock).known(wait_s=_TIMEOUT_S)


def link_findings(links: Links, known: Known) -> Iterator[Finding]:
    """Compare the links with Courier's own lists: what speaks against one is a warning, never a failure."""
    doubts = [(link, known.doubt(link.target_kind.value, link.target)) for link in links]
    for link, doubt in doubts:
        if doubt:
            named = f"{link.type.value}/{link.event} to {link.target_kind.value} {link.target}"
            yield Finding("warn", "links", f"{named}: {doubt}")
    if links and known.problem:
        yield Finding("warn", "links", f"not all compared with Courier's lists ({known.problem})")
    elif links and not any(doubt for _, doubt in doubts):
        yield Finding("ok", "links", f"{len(links)} of {len(links)} lead to what Courier lists")


def _links(settings: Settings) -> Links:
    """Return the links in force: those of the file, and those that the spool keeps, if it can be read."""
    pinned = read_links(settings)
    try:
        return LinkTable(pinned, decode_links(read_kept_value(settings, STORE_KEY))).links()
    except LinkInvalid:
        return pinned.links


async def _asked(name: str, request: HttpRequest, transport: Transport, clock: Clock) -> AsyncIterator[Finding]:
    variable = "RUDDERSTACK_DATA_PLANE_URL" if name == "rudderstack" else "COURIER_API_URL"
    try:
        response = await transport.exchange(request)
    except NoAnswer as error:
        yield Finding(
            "fail", name, f"{request.url}: {error}. Check {variable}, the network, the proxy and the certificates"
        )
        return
    yield judged_rudderstack(response) if name == "rudderstack" else judged_courier(response)
    skew = skewed(response.headers, now_ms=clock.wall_ms())
    if skew is not None:
        yield skew


def judged_rudderstack(response: HttpResponse) -> Finding:
    """Say what the gateway's answer to an empty batch means."""
    status, text = response.status, response.body[:2_048].decode(errors="replace")
    if status == HTTPStatus.BAD_REQUEST and _EMPTY_BATCH in text:
        return Finding("ok", "rudderstack", "reached, and the write key is known")
    if status == HTTPStatus.UNAUTHORIZED:
        return Finding("fail", "rudderstack", "401: RUDDERSTACK_WRITE_KEY is wrong, or its source was deleted")
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Finding("fail", "rudderstack", f"{status}, a redirect: set RUDDERSTACK_DATA_PLANE_URL to where it leads")
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
        is_off = status == HTTPStatus.NOT_FOUND and _SOURCE_DISABLED in text.lower()
        why = "RUDDERSTACK_DATA_PLANE_URL is not a data plane's base URL"
        return Finding(
            "fail", "rudderstack", f"{status}: {'the write key is known; enable its source' if is_off else why}"
        )
    if status == HTTPStatus.OK:
        return Finding("warn", "rudderstack", "200 to an empty batch: that is not what a RudderStack gateway answers")
    return Finding(
        "fail", "rudderstack", f"{status}: not what a gateway answers to an empty batch; try again, or ask its log"
    )


def judged_courier(response: HttpResponse) -> Finding:
    """Say what Courier's answer to a profile's GET means."""
    match response.status:
        case HTTPStatus.OK:
            return Finding("ok", "courier", "reached, and the API key is known")
        case HTTPStatus.NOT_FOUND if _is_object(response.body):
            return Finding("ok", "courier", "reached, and the API key is known")
        case HTTPStatus.UNAUTHORIZED:
            return Finding(
                "fail", "courier", "401: COURIER_API_KEY is wrong, or of another region than COURIER_API_URL"
            )
        case HTTPStatus.FORBIDDEN:
            return Finding(
                "warn", "courier", "403: the API key is known but may not read profiles; give it more rights"
            )
        case HTTPStatus.NOT_FOUND:
            return Finding("fail", "courier", "404 without Courier's error: COURIER_API_URL is not Courier's API")
        case status:
            return Finding("fail", "courier", f"{status}: not what Courier answers here; try again later")


def skewed(headers: Mapping[str, str], *, now_ms: int) -> Finding | None:
    """Compare our clock with the vendor's; None when it says none."""
    try:
        theirs = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    theirs = theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC)
    skew_s = (datetime.fromtimestamp(now_ms / 1000, UTC) - theirs).total_seconds()
    if abs(skew_s) <= _SKEW_S_MAX:
        return Finding("ok", "clock", "agrees with the vendor's within a minute")
    side = "ahead of" if skew_s > 0 else "behind"
    return Finding("warn", "clock", f"{abs(skew_s):.0f} s {side} the vendor's: turn time synchronisation on")


def _of_rudderstack(settings: Settings) -> HttpRequest:
    key = revealed(settings.rudderstack_write_key)
    return HttpRequest(
        method="POST",
        url=f"{settings.rudderstack_data_plane_url}/v1/batch",
        headers={
            "Authorization": "Basic " + b64encode(f"{key}:".encode()).decode(),
            "Content-Type": "application/json",
        },
        body=b'{"batch":[]}',
        timeout_s=_TIMEOUT_S,
    )


def _of_courier(settings: Settings) -> HttpRequest:
    key = revealed(settings.courier_api_key)
    return HttpRequest(
        method="GET",
        url=f"{settings.courier_api_url}/profiles/{_PROFILE}",
        headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
        body=b"",
        timeout_s=_TIMEOUT_S,
    )


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
