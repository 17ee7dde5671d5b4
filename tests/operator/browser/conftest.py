"""A real Chromium, the real daemon as a process, and both stand-in vendors: what every test of the page drives.

Selenium blocks, so the stand-ins live on an event loop of their own, in a thread. One browser serves a whole session;
every test begins with a blank page, no cookie, desktop width and light colours. A missing browser is a visible skip.
"""

import asyncio
import base64
import io
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from forwarder.demo.signing import signed
from stand_ins.courier_api import CourierApi
from stand_ins.data_plane import DataPlane
from stand_ins.process import DaemonProcess
from stand_ins.replicas import one_or_more

DESKTOP, PHONE = (1440, 900), (390, 844)
_PATIENCE_S = 60.0
_LOOK_AGAIN_S = 0.03
_PICTURE_HEIGHT_MAX = 3_000
_TABS_MAX = 60
_WRITE_KEY, _SECRET, _API_KEY = "browser-write-key-51c7", "browser-webhook-secret-9d2a", "pk_browser_77e1"
_INBOUND_KEY = "browser-inbound-key-3b0f"
_SECRETS = (_WRITE_KEY, _SECRET, _API_KEY, _INBOUND_KEY)
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

Json = dict[str, Any]
T = TypeVar("T")


class Aside:
    """An event loop in a thread of its own, for what must go on while a test waits for the browser."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aside")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def wait_until(is_so: Callable[[], T], *, what: str = "it") -> T:
    """Return the first result that counts as true; an assertion at the time-out."""
    ends_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < ends_s:
        try:
            if result := is_so():
                return result
        except StaleElementReferenceException:
            pass  # the page changed under us: look again
        time.sleep(_LOOK_AGAIN_S)
    raise AssertionError(f"{what} did not happen within {_PATIENCE_S:.0f} s")


@dataclass(kw_only=True)
class World:
    """A daemon between its vendors, and the ways to make something happen."""

    aside: Aside
    plane: DataPlane
    courier: CourierApi
    daemon: DaemonProcess
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        """Return the page's address."""
        return self.daemon.operator_url

    def start(self) -> None:
        """Start the daemon."""
        self.aside.run(self.daemon.start())

    def kill(self) -> None:
        """End the daemon as a power cut would."""
        self.aside.run(self.daemon.kill())

    def webhook(self, status: str = "SENT", *, message: str = "message-1", user: str = "user-1", **more: Any) -> int:
        """Have Courier tell of a message; return the event's sequence."""
        return self.raw_webhook(json.dumps(status_of(status, message=message, user=user, **more)).encode())

    def raw_webhook(self, body: bytes) -> int:
        """Have Courier post this body; return the event's sequence."""
        return self._post("/webhooks/courier", body, signed(body, _SECRET, time.time_ns() // 1_000_000))

    def call(self, event: str = "Order Completed", *, user: str = "customer-1", **more: Any) -> int:
        """Have RudderStack send a track; return the event's sequence."""
        made = {"type": "track", "event": event, "userId": user, "messageId": f"call-{next(self._numbers)}"}
        body = json.dumps(made | {"originalTimestamp": "2026-01-31T12:00:00Z", "properties": {"total": 7}} | more)
        return self._post("/inbound/rudderstack", body.encode(), {"Authorization": f"Bearer {_INBOUND_KEY}"})

    def events(self) -> list[Json]:
        """Return the events that the API lists, newest first."""
        rows: list[Json] = self.aside.run(self._get("/api/events?limit=500"))["events"]
        return rows

    def wait_for_state(self, sequence: int, state: str) -> None:
        """Wait until the event is in this state."""
        wait_until(
            lambda: any(row["sequence"] == sequence and row["state"] == state for row in self.events()),
            what=f"event {sequence} {state}",
        )

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        before = {row["sequence"] for row in self.events()}
        self.aside.run(self._send(path, body, headers))
        return wait_until(lambda: max({row["sequence"] for row in self.events()} - before, default=0), what="arrival")

    def turned_away(self, path: str, headers: dict[str, str]) -> None:
        """Post what the daemon rejects."""

        async def ask() -> int:
            async with (
                aiohttp.ClientSession(self.daemon.url) as http,
                http.post(path, data=b"{}", headers=headers) as answer,
            ):
                return answer.status

        assert self.aside.run(ask()) >= HTTPStatus.BAD_REQUEST

    async def _send(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        async with (
            aiohttp.ClientSession(self.daemon.url) as http,
            http.post(path, data=io.BytesIO(body), headers=headers, raise_for_status=True) as answer,
        ):
            await answer.read()

    async def _get(self, path: str) -> Json:
        headers = {"Authorization": f"Bearer {self.daemon.settings.get('FORWARDER_OPERATOR_TOKEN', '')}"}
        async with (
            aiohttp.ClientSession(self.url, headers=headers) as http,
            http.get(path, raise_for_status=True) as answer,
        ):
            read: Json = await answer.json()
            return read


def status_of(status: str, *, message: str, user: str, **more: Any) -> Json:
    """Return a webhook of Courier's about a message that reached this status a moment ago."""
    at_ms = time.time_ns() // 1_000_000
    times = {"enqueued": at_ms - 900, "sent": at_ms - 500, "delivered": at_ms - 200, "opened": at_ms, "clicked": at_ms}
    data = {"id": message, "status": status, "recipient": user, "event": "welcome", "providers": []}
    return {"type": "message:updated", "data": data | times | more}


@dataclass(kw_only=True)
class Page:
    """The browser, in the words of the tests."""

    driver: webdriver.Chrome
    base: str = ""
    size: tuple[int, int] = DESKTOP
    clicks: int = 0

    def open(self, path: str) -> None:
        """Go to a page of the daemon."""
        self.driver.get(self.base + path)

    def all(self, css: str) -> list[WebElement]:
        """Return what the selector finds now."""
        return self.driver.find_elements("css selector", css)

    def find(self, css: str, text: str = "") -> WebElement:
        """Wait for a visible element that holds the text, and return the first."""

        def look() -> list[WebElement]:
            return [one for one in self.all(css) if one.is_displayed() and text in one.text]

        return wait_until(look, what=f"{css} with {text!r} on {self.path}")[0]

    def click(self, css: str, text: str = "") -> None:
        """Click on the first such element."""

        def clicked() -> bool:
            found = self.find(css, text)
            self.script("arguments[0].scrollIntoView({block: 'center'})", found)  # from under the bar at the top
            found.click()
            return True

        wait_until(clicked, what=f"a click on {css} with {text!r}")  # a live page may draw it anew meanwhile
        self.clicks += 1

    def tab_to(self, text: str) -> WebElement:
        """Walk with Tab until the link or button that has the focus says this."""
        for _ in range(_TABS_MAX):
            self.press(Keys.TAB)
            if self.focus.tag_name in ("a", "button") and text in self.focus.text:
                return self.focus
        raise AssertionError(f"no {_TABS_MAX} tabs lead to {text!r} on {self.path}")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def script(self, text: str, *given: Any) -> Any:
        """Run a script in the page and return its result."""
        return self.driver.execute_script(text, *given)

    @property
    def path(self) -> str:
        """Return where we are, without the address."""
        return self.driver.current_url.removeprefix(self.base)

    @property
    def focus(self) -> WebElement:
        """Return the element that has the focus."""
        return self.driver.switch_to.active_element

    def look_as(self, size: tuple[int, int], scheme: str = "light") -> None:
        """Take this size and this colour scheme from now on."""
        self.size = width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self._tell("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # nothing half faded in
        ]
        self._tell("Emulation.setEmulatedMedia", {"features": features})

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        wide: int = self.script("return document.scrollingElement.scrollWidth")
        return max(0, wide - self.size[0])

    def picture(self, file: Path) -> None:
        """Write what the page looks like, to its end or to the height of some screens."""
        width, height = self.size
        tall: int = self.script("return document.scrollingElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": min(max(tall, height), _PICTURE_HEIGHT_MAX), "scale": 1}
        taken = self._tell("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        file.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """Return what the console holds against the page's script or policy; failed loads are the tests' own."""
        log: list[Json] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # as above
        told = [str(line["message"]) for line in log if line["level"] in ("SEVERE", "WARNING")]
        return [line for line in told if "Failed to load resource" not in line and "net::ERR" not in line]

    def _tell(self, command: str, given: Json) -> Json:
        told: Json = self.driver.execute_cdp_cmd(command, given)
        return told


@pytest.fixture(scope="session")
def aside() -> Iterator[Aside]:
    """The loop of the stand-ins."""
    loop = Aside()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for the session."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium or chromedriver is not installed (Debian: apt install chromium chromium-driver)")
    options = Options()
    options.binary_location = browser
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[Page]:
    """A blank page at desktop width; at the end the console must be clean."""
    made = Page(driver=chromium)
    made.driver.get("about:blank")
    made.look_as(DESKTOP)
    made.complaints()
    yield made
    complaints = made.complaints()
    try:
        made.driver.delete_all_cookies()
        made.driver.get("about:blank")
    except WebDriverException as error:
        complaints.append(str(error))
    assert complaints == []


MakeWorld = Callable[..., World]


def make_world(aside: Aside, daemon_of: Callable[[dict[str, str]], DaemonProcess], settings: dict[str, str]) -> World:
    """Start a daemon between stand-ins of its own."""

    async def standins() -> tuple[DataPlane, CourierApi]:
        return await DataPlane(write_keys=[_WRITE_KEY]).__aenter__(), await CourierApi(api_keys=[_API_KEY]).__aenter__()

    plane, courier = aside.run(standins())
    own = {
        "RUDDERSTACK_WRITE_KEY": _WRITE_KEY,
        "RUDDERSTACK_DATA_PLANE_URL": plane.url,
        "COURIER_WEBHOOK_SECRET": _SECRET,
        "FORWARDER_INBOUND_KEYS": _INBOUND_KEY,
        "COURIER_API_KEY": _API_KEY,
        "COURIER_API_URL": courier.url,
    }
    made = World(aside=aside, plane=plane, courier=courier, daemon=daemon_of(own | settings))
    try:
        made.start()
    except BaseException:
        shut(made)
        raise
    return made


def shut(world: World) -> None:
    """End the daemon and its vendors."""
    world.kill()
    world.aside.run(world.plane.refuse())
    world.aside.run(world.courier.refuse())


def end_world(world: World) -> None:
    """End them; the daemon's logs must be clean."""
    shut(world)
    assert world.daemon.marks_in_logs(("Traceback", "operator.failed", *_SECRETS)) == []


@pytest.fixture(scope="session")
def shared_world(
    aside: Aside, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, replicas: int
) -> Iterator[World]:
    """One daemon for all tests that do not mind what others left in it."""
    folder = tmp_path_factory.mktemp("shared")
    database = request.getfixturevalue("postgres_server").create_database("shared") if replicas > 1 else None
    made = make_world(aside, lambda settings: one_or_more(folder, settings, database=database, count=replicas), {})
    yield made
    end_world(made)


@pytest.fixture
def world(shared_world: World, page: Page) -> World:
    """The shared daemon, where the page leads."""
    page.base = shared_world.url
    return shared_world


@pytest.fixture
def own_world(
    aside: Aside, page: Page, tmp_path: Path, daemon_in: Callable[[Path, dict[str, str]], DaemonProcess]
) -> Iterator[MakeWorld]:
    """Make a daemon of the test's own, with these settings, where the page leads."""
    made: list[World] = []

    def make(**settings: str) -> World:
        made.append(make_world(aside, partial(daemon_in, tmp_path), settings))
        page.base = made[0].url
        return made[0]

    yield make
    page.driver.get("about:blank")
    for one in made:
        end_world(one)
