"""`forwarder demo`: the real daemon between two stand-in vendors, and the proof that nothing was lost.

The summary is counted at both ends: what the senders were told, and what the destinations got. The
daemon's own totals are asked for one thing only, what still waits on its disk.
"""

import asyncio
import contextlib
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp

from forwarder.cli.demo_view import Flow, Moment, Rates, Result, Screen, summary
from forwarder.clock import wait_within
from forwarder.demo.call_stream import LINKS_TOML
from forwarder.demo.scenario import Pace, Scenario
from forwarder.demo.totals import read_totals
from forwarder.demo.vendors import Courier, DataPlane, listening
from forwarder.model import RouteName
from forwarder.settings import Address, Settings
from forwarder.settings.values import address

# Run the daemon until the event is set, then drain it.
RunDaemon = Callable[[Settings, asyncio.Event], Awaitable[None]]

_USUAL = {"FORWARDER_LISTEN": Address("127.0.0.1", 8080), "FORWARDER_OPERATOR_LISTEN": Address("127.0.0.1", 8081)}
_SHOWN_EVERY_S = 0.25
_READY_MAX_S = 30.0
_STREAMS_END_S = 5.0  # for the posts that are under way when the streams stop
_ARRIVE_MAX_S = 12.0  # for what waits then
_LOOK_AGAIN_S = 0.05
_SHORT_S = 30.0  # a demo this short has its outage in its own middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Invented for one demo."""

    write_key: str = field(default_factory=secrets.token_urlsafe)
    webhook_secret: str = field(default_factory=secrets.token_urlsafe)
    api_key: str = field(default_factory=secrets.token_urlsafe)
    inbound_key: str = field(default_factory=secrets.token_urlsafe)


async def demo(
    seconds: float | None,
    *,
    run_daemon: RunDaemon,
    stop: asyncio.Event,
    screen: Screen,
    environ: Mapping[str, str],
    pace: Pace | None = None,
) -> int:
    """Run until `stop` is set or so many seconds passed; return 0 when every promise was kept, else 1.

    Of the environment only the two listeners are read. Everything is written into a temporary folder.
    """
    keys = Keys()
    with tempfile.TemporaryDirectory(prefix="forwarder-demo-") as folder:
        seed = secrets.randbits(32)
        plane, courier = DataPlane(keys.write_key), Courier(keys.api_key, seed=seed)
        async with listening(plane.answer) as plane_url, listening(courier.answer) as courier_url:
            settings = demo_settings(Path(folder), keys, plane_url=plane_url, courier_url=courier_url, environ=environ)
            scenario = Scenario(plane, courier, seed=seed, pace=pace or _pace(seconds))
            page_url = settings.operator_listen.url()
            async with _running(run_daemon, settings):
                screen.say(f"The page is up: {page_url}   (metrics: {page_url}/metrics)", "")
                await _run_and_show(scenario, settings, keys, screen=screen, stop=stop, seconds=seconds)
                await scenario.wait_until_arrived(timeout_s=_ARRIVE_MAX_S)
                result = await _result(scenario, page_url)
    screen.say("", *summary(result, screen.paint))
    return 0 if result.is_good else 1


def demo_settings(
    folder: Path, keys: Keys, *, plane_url: str, courier_url: str, environ: Mapping[str, str]
) -> Settings:
    """Return settings for both routes; listeners from the environment, else the usual ports, else free ones."""
    links = folder / "links.toml"
    links.write_text(LINKS_TOML)
    return Settings.model_validate(
        {
            "RUDDERSTACK_WRITE_KEY": keys.write_key,
            "RUDDERSTACK_DATA_PLANE_URL": plane_url,
            "COURIER_WEBHOOK_SECRET": keys.webhook_secret,
            "COURIER_API_KEY": keys.api_key,
            "COURIER_API_URL": courier_url,
            "FORWARDER_INBOUND_KEYS": keys.inbound_key,
            "FORWARDER_LINKS": str(links),
            "FORWARDER_DATA_DIR": str(folder / "data"),
            "FORWARDER_LOG_LEVEL": "error",  # a demo's outage is no news; the view tells of it
            "FORWARDER_LOG_FORMAT": "console",
        }
        | {variable: str(_listener(variable, environ)) for variable in _USUAL}
    )


def _listener(variable: str, environ: Mapping[str, str]) -> Address:
    text = environ.get(variable)
    if text:
        wanted = address(text)
        # The page's address is told before anybody could ask the system which port it chose.
        return wanted if wanted.port else Address(wanted.host, _free_port())
    usual = _USUAL[variable]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((usual.host, usual.port))
        except OSError:
            return Address(usual.host, _free_port())
    return usual


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _pace(seconds: float | None) -> Pace:
    if seconds is None or seconds >= _SHORT_S:
        return Pace()
    return Pace(outage_first_s=seconds * 0.35, outage_s=min(3.0, seconds * 0.25))


@asynccontextmanager
async def _running(run_daemon: RunDaemon, settings: Settings) -> AsyncIterator[None]:
    """Have the daemon run and be ready inside; it is drained at the end. Its errors are raised here."""
    over = asyncio.Event()
    running = asyncio.ensure_future(run_daemon(settings, over))
    try:
        await _until_ready(settings.listen[0].url(), running)
        yield
    finally:
        over.set()
        await running


async def _until_ready(url: str, running: "asyncio.Future[None]") -> None:
    async with asyncio.timeout(_READY_MAX_S), aiohttp.ClientSession() as http:
        while not running.done():
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/readyz") as response:
                    if response.status == HTTPStatus.OK:
                        return
            await asyncio.sleep(_LOOK_AGAIN_S)
    await running


async def _run_and_show(
    scenario: Scenario, settings: Settings, keys: Keys, *, screen: Screen, stop: asyncio.Event, seconds: float | None
) -> None:
    """Let the streams run until the end and show what goes on; return when they are over."""
    playing = asyncio.create_task(
        scenario.run(settings.listen[0].url(), secret=keys.webhook_secret, inbound_key=keys.inbound_key)
    )
    started_s = time.monotonic()
    rates = Rates()
    page_url = settings.operator_listen.url()
    while not stop.is_set() and not playing.done():
        elapsed_s = time.monotonic() - started_s
        if seconds is not None and elapsed_s >= seconds:
            break
        screen.show(_moment(scenario, rates, elapsed_s, page_url))
        await wait_within(_SHOWN_EVERY_S, stop)
    screen.say("", "Ending: no new events; what waits is delivered.")
    scenario.stop()
    with contextlib.suppress(TimeoutError):
        # What is not answered by then was promised to nobody.
        await asyncio.wait_for(playing, _STREAMS_END_S)


def _moment(scenario: Scenario, rates: Rates, elapsed_s: float, page_url: str) -> Moment:
    flows = _flows(scenario)
    counts = {flow.title: (flow.accepted, flow.delivered) for flow in flows}
    return Moment(
        elapsed_s=elapsed_s,
        page_url=page_url,
        is_outage=scenario.plane.is_down,
        flows=flows,
        rates=rates.at(elapsed_s, counts),
        latest=tuple(scenario.latest),
    )


def _flows(scenario: Scenario) -> tuple[Flow, ...]:
    ledgers = {"Courier -> RudderStack": scenario.outbound, "RudderStack -> Courier": scenario.inbound}
    return tuple(
        Flow(
            title=title,
            accepted=ledger.acknowledged,
            delivered=ledger.delivered,
            ended=ledger.silent,
            waiting=len(ledger.missing()),
            resent=ledger.resent,
            duplicates=ledger.duplicates,
        )
        for title, ledger in ledgers.items()
    )


async def _result(scenario: Scenario, operator_url: str) -> Result:
    totals = await read_totals(operator_url)
    ledgers = {RouteName.COURIER_TO_RUDDERSTACK: scenario.outbound, RouteName.RUDDERSTACK_TO_COURIER: scenario.inbound}
    missing = {route: len(ledger.missing()) for route, ledger in ledgers.items()}
    waiting = {route: min(count, totals.get(route, {}).get("pending", 0)) for route, count in missing.items()}
    return Result(
        flows=_flows(scenario),
        lost=sum(missing.values()) - sum(waiting.values()),
        waiting=sum(waiting.values()),
        wrong=(*scenario.outbound.wrong, *scenario.inbound.wrong),
        outages=scenario.outages,
    )
