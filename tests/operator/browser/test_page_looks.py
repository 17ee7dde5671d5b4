"""Every page, empty and full, in trouble and not, at desktop and phone width, dark and light: judged and pictured.

axe-core finds no violation, nothing is wider than the screen, and a picture of each is written to `build/screenshots/`
for people to look at.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stand_ins.behaviour import WRONG_KEY
from stand_ins.courier_state import invalid

pytestmark = pytest.mark.journey

Page = Any  # the fixtures' types live in the conftest, which nothing can import
World = Any
_LOOKS = tuple(itertools.product({"desktop": (1440, 900), "phone": (390, 844)}.items(), ("light", "dark")))
_AXE = Path(__file__).parents[2] / "node" / "node_modules" / "axe-core" / "axe.min.js"
_PAGES = {
    "overview": "/",
    "events": "/events",
    "events-narrowed": "/events?state=dead&text=nowhere",
    "destination-events": "/destination-events",
    "link": "/destination-events/link",
    "dead-letters": "/dead-letters",
    "settings": "/settings",
    "audit": "/audit",
    "message-unknown": "/messages/nobody",
    "error": "/nowhere",
}


@pytest.fixture(scope="module")
def axe() -> str:
    """The judge's source."""
    if not _AXE.exists():
        pytest.skip("axe-core is not installed: make node")
    return _AXE.read_text()


@pytest.fixture
def pictures(checkout: Path) -> Path:
    """Where pictures are written."""
    folder = checkout / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def violations(page: Page, axe: str, *rules: str) -> list[str]:
    """Return what axe-core finds on the page as it is now, by all its rules or by these."""
    if not page.script("return 'axe' in window"):
        page.script(axe)
    found = page.driver.execute_async_script(
        "const [rules, tell] = arguments; axe.run(rules.length ? { runOnly: rules } : {}).then((told) => tell("
        "told.violations.map((one) => one.id + ': ' + one.nodes.map("
        "(node) => node.target + ' ' + node.failureSummary).join(' | '))))",
        rules,
    )
    return [str(one) for one in found]


def faults(page: Page, axe: str, name: str, pictures: Path) -> Iterator[str]:
    """Yield what is wrong with the page that is open, in each of its looks; write a picture of each.

    Structure does not change with the colours: it is judged once for each width.
    """
    for (width, size), scheme in _LOOKS:
        page.look_as(size, scheme)
        page.script("window.scrollTo(0, 0)")
        page.picture(pictures / f"{name}-{width}-{scheme}.png")
        if overflow := page.overflow():
            yield f"{name}, {width}: {overflow} px wider than the screen"
        rules = () if (width == "desktop") == (scheme == "light") else ("color-contrast",)
        yield from (f"{name}, {width}, {scheme}: {one}" for one in violations(page, axe, *rules))


def all_faults(page: Page, axe: str, paths: dict[str, str], pictures: Path, *, prefix: str = "") -> list[str]:
    """Open these pages one after the other and return what is wrong with any."""
    found: list[str] = []
    for name, path in paths.items():
        page.look_as((1440, 900))
        page.open(path)
        found += faults(page, axe, prefix + name, pictures)
    return found


def fill(world: World) -> dict[str, str]:
    """Have everything happen that a page can show; return the pages of single things."""
    statuses = [
        world.webhook(status, message="1-68c5-journey", user="user-1") for status in ("ENQUEUED", "SENT", "OPENED")
    ]
    for n in range(12):
        world.webhook(
            "DELIVERED", message=f"1-68c5f00{n}-15f7d6ba51bf229857c037a7", user=f"ada.lovelace+{n}@example.com"
        )
    world.courier.trouble = lambda _, path: invalid("steps[0].template is unknown") if "/refused/" in path else None
    refused = [world.call("Order Refused", user=f"customer-{n}") for n in range(3)]
    linked = world.call("Order Completed", user="customer-1")
    unmapped = world.call(
        "A Product With Quite A Long Name That Somebody Viewed In The Spring Catalogue", user="c" * 200
    )
    world.call("Product Viewed")
    identified = world.call("", type="identify", traits={"email": "ada@example.com", "plan": "pro"})
    hostile = world.call("<script>alert(1)</script>", user="\"'><img src=x>", messageId="x" * 200)
    broken = world.raw_webhook(b'{"type": "message:updated", "data": "broken"}')
    for sequence, state in (
        (refused[-1], "dead"),
        (linked, "delivered"),
        (broken, "dead"),
        (statuses[-1], "delivered"),
    ):
        world.wait_for_state(sequence, state)
    return {
        "event-delivered": f"/events/{statuses[-1]}",
        "event-dead": f"/events/{broken}",
        "event-refused": f"/events/{refused[0]}",
        "event-linked": f"/events/{linked}",
        "event-unmapped": f"/events/{unmapped}",
        "event-identify": f"/events/{identified}",
        "event-hostile": f"/events/{hostile}",
        "journey": "/messages/1-68c5-journey",
        "edit": f"/dead-letters/{broken}/edit",
        "link-this": "/destination-events/link?type=track&event=Product%20Viewed",
        "events-of-user": "/events?user=user-1",
    }


def test_every_page_that_is_full_can_be_read_by_everybody(
    page: Page, own_world: Any, axe: str, pictures: Path, tmp_path: Path
) -> None:
    """Lists, single events, forms, groups and the questions in between."""
    links = tmp_path / "links.toml"
    links.write_text(
        '[[link]]\nevent = "Order Completed"\ntarget = "order-thanks"\n'
        '[[link]]\nevent = "Order Refused"\ntarget = "refused"\n'
    )
    world = own_world(FORWARDER_LINKS=str(links))
    found = all_faults(page, axe, _PAGES | fill(world), pictures, prefix="full-")

    page.open("/dead-letters")
    for one in page.all("details summary"):
        one.click()
    found += faults(page, axe, "full-dead-letters-opened", pictures)
    page.look_as((1440, 900))
    page.click("article button.danger", "Discard")
    page.find("#confirm-text")
    found += faults(page, axe, "question", pictures)
    page.open("/dead-letters")
    page.press("?")
    found += faults(page, axe, "keys", pictures)
    page.look_as((1440, 900))
    page.open("/dead-letters")
    page.script("document.querySelectorAll('form').forEach((form) => form.removeAttribute('data-confirm'))")
    page.click("article button.danger", "Discard")
    page.find("h1", "Discard")
    found += faults(page, axe, "question-without-script", pictures)
    page.look_as((1440, 900))
    page.open("/settings")
    page.click("button", "Check the spool too")
    page.find("h1")
    found += faults(page, axe, "settings-checked", pictures)
    found += all_faults(page, axe, {"overview-later": "/"}, pictures, prefix="full-")  # by now there may be a chart
    assert found == []


def test_every_page_that_is_empty_can_be_read_by_everybody(
    page: Page, own_world: Any, axe: str, pictures: Path
) -> None:
    """What a new installation shows, with what to do next."""
    own_world()
    assert all_faults(page, axe, _PAGES, pictures, prefix="empty-") == []


def test_trouble_can_be_read_by_everybody(page: Page, own_world: Any, axe: str, pictures: Path) -> None:
    """A route that is held and one that is paused, events that wait, and a login that is refused."""
    world = own_world(FORWARDER_OPERATOR_TOKEN="browser-operator-token")
    found = all_faults(page, axe, {"login": "/login"}, pictures)
    page.find("#name").send_keys("nora")
    page.find("#token").send_keys("wrong")
    page.click("main button", "Log in")
    page.find('[role="alert"]')
    found += faults(page, axe, "login-refused", pictures)
    page.find("#name").send_keys("nora")
    page.find("#token").send_keys("browser-operator-token")
    page.click("main button", "Log in")
    page.find("h1.hush, .cards")
    page.look_as((1440, 900))
    page.click('section[aria-labelledby="route-rudderstack_to_courier"] button', "Pause")
    page.click("main button", "Pause")
    page.find(".state-paused")
    world.plane.script.behave(WRONG_KEY)
    waiting = world.webhook("SENT")
    world.call()
    page.find(".state-held")
    pages = {
        "trouble-overview": "/",
        "trouble-events": "/events",
        "trouble-event": f"/events/{waiting}",
        "trouble-audit": "/audit",
    }
    found += all_faults(page, axe, pages, pictures)
    assert found == []


@pytest.mark.usefixtures("world")
def test_the_judge_sees(page: Page, axe: str) -> None:
    """A control: a picture without words, pale text and a page that is too wide are found by the same checks."""
    page.open("/settings")
    assert violations(page, axe) == []
    page.script(
        "const main = document.getElementById('main'); const image = document.createElement('img');"
        "image.src = '/static/icon.svg'; const pale = document.createElement('p'); pale.textContent = 'pale';"
        "pale.style.color = '#ccc'; pale.style.width = '2000px'; main.append(image, pale);"
    )
    found = " ".join(violations(page, axe))
    assert "image-alt" in found
    assert "color-contrast" in found
    assert page.overflow() > 0
