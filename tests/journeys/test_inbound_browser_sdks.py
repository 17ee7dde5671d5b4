"""The vendors' browser SDKs, in a real Chromium, on a site of another origin, use the daemon without knowing it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from forwarder.model import RouteName
from stand_ins.courier_api import CourierApi
from stand_ins.process import DaemonProcess

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
LINKS_TOML = '[[link]]\nevent = "Order Completed"\ntarget = "order-thanks"\n'
USER = "user-0/maya okafor+ä"
TENANT = "acct/1 ü"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("identify", {"userId": USER, "traits": {"email": "maya@example.com", "firstName": "Maya"}}),
    ("track", {"event": "Order Completed", "properties": {"total": 12.5, "grüße": "注文"}}),
    ("track", {"event": "Product Viewed", "properties": {}}),
    ("group", {"groupId": TENANT, "traits": {"name": "Acme"}}),
    ("page", {"name": "Home"}),
    ("alias", {"userId": USER}),
]
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@dataclass(frozen=True, slots=True)
class BrowserSdk:
    """One SDK as a site loads it: the bundle in its package, and the program that drives it in the page."""

    bundle: str
    program: str
    way: str

    def __str__(self) -> str:
        """Name it in test ids."""
        return f"{self.bundle.removesuffix('/index.js').removesuffix('/umd').replace('/dist', '')}-{self.way}"


RUDDER = "@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js"
RUDDER_LEGACY = "@rudderstack/analytics-js/dist/npm/legacy/bundled/umd/index.js"
RUDDER_2 = "rudder-sdk-js/dist/npm/index.js"  # the one before, whose interface is 1.1
SEGMENT = "@segment/analytics-next/dist/umd/index.js"
SEGMENT_1_75 = "segment-analytics-next-1.75/dist/umd/index.js"  # the write key is in its bodies only; batches go by TLS
BROWSER_SDKS = (
    *(BrowserSdk(RUDDER, "rudder_analytics_js.js", way) for way in ("xhr", "batch", "beacon")),
    BrowserSdk(RUDDER_LEGACY, "rudder_analytics_js.js", "xhr"),
    *(BrowserSdk(RUDDER_2, "rudder_analytics_js.js", way) for way in ("xhr", "beacon")),
    *(
        BrowserSdk(SEGMENT, "segment_analytics_next.js", way)
        for way in ("v1", "bare-host", "batching", "batching-bare-host", "settings")
    ),
    *(BrowserSdk(SEGMENT_1_75, "segment_analytics_next.js", way) for way in ("v1", "bare-host", "settings")),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that asks no proxy."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: chromium chromium-driver)")
    options = Options()
    options.binary_location = browser
    for flag in (*_FLAGS, "--no-proxy-server"):
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_script_timeout(30)
    yield chrome
    chrome.quit()


@pytest.fixture
async def site(checkout: Path) -> AsyncIterator[str]:
    """A site of another origin than the daemon's: a page, and the SDKs' bundles."""
    modules = checkout / "tests" / "node" / "node_modules"
    if not (modules / SEGMENT).is_file():
        pytest.skip("needs the packages of Node: make sdks")

    async def page(request: web.Request) -> web.Response:
        script = f'<script src="/sdk/{request.query["bundle"]}"></script>' if "bundle" in request.query else ""
        text = f"<!doctype html><meta charset=utf-8><title>Shop</title><link rel=icon href=data:,>{script}"
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_static("/sdk", modules)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    port = runner.addresses[0][1]
    yield f"http://localhost:{port}"
    await runner.cleanup()


@pytest.fixture
def visit(chromium: webdriver.Chrome, site: str, checkout: Path) -> Callable[..., Awaitable[list[str]]]:
    """Return a function that opens the page, makes the calls, leaves it, and returns what the SDK says failed."""

    def go(sdk: BrowserSdk, url: str, key: str) -> list[str]:
        chromium.get(site)
        chromium.delete_all_cookies()
        chromium.execute_script("localStorage.clear(); sessionStorage.clear()")
        chromium.get(f"{site}/?bundle={sdk.bundle}")
        program = (checkout / "tests" / "sdks" / sdk.program).read_text()
        failed: list[str] = chromium.execute_async_script(program, url, key, sdk.way, CALLS)
        chromium.get("about:blank")
        return failed

    async def aside(sdk: BrowserSdk, url: str, key: str) -> list[str]:
        return await asyncio.to_thread(go, sdk, url, key)

    return aside


@pytest.fixture
async def daemon(make_daemon: Callable[[dict[str, str]], DaemonProcess], inbound: dict[str, str]) -> DaemonProcess:
    """A daemon with one link, not started yet."""
    made = make_daemon(inbound)
    links = made.folder / "links.toml"
    links.write_text(LINKS_TOML)
    made.settings["FORWARDER_LINKS"] = str(links)
    return made


@pytest.mark.parametrize("sdk", BROWSER_SDKS, ids=str)
async def test_a_browser_sdk_uses_the_daemon_as_its_data_plane(
    sdk: BrowserSdk,
    daemon: DaemonProcess,
    courier: CourierApi,
    visit: Callable[..., Awaitable[list[str]]],
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """What a site's calls say is taken once, in the transport that the site chose, and does what it should."""
    await daemon.start()

    assert await visit(sdk, daemon.url, daemon.settings["FORWARDER_INBOUND_KEYS"]) == []
    totals = await daemon.wait_for_totals(
        INBOUND, lambda totals: (totals["accepted"], totals["pending"]) == (len(CALLS), 0), timeout_s=20
    )

    assert totals == {"accepted": 6, "pending": 0, "delivered": 3, "filtered": 2, "unmapped": 1, "dead": 0}
    assert await duplicates(daemon) == 0
    state = courier.state
    assert state.profiles == {USER: {"email": "maya@example.com", "given_name": "Maya"}}
    assert state.tenants == {TENANT: {"id": TENANT, "name": "Acme"}}
    assert list(state.memberships) == [(USER, TENANT)]
    (invoked,) = [effect for effect in state.effects_of(USER) if effect.operation.startswith("POST /automations")]
    assert (invoked.params["template"], invoked.body["data"]["grüße"]) == ("order-thanks", "注文")
