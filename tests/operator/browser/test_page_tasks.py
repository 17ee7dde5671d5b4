"""The six tasks of docs/seeing-and-acting.md in a real browser: each within its number of clicks; and by keys alone."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from stand_ins.behaviour import WRONG_KEY
from stand_ins.courier_state import Known, invalid

pytestmark = pytest.mark.journey

Page = Any  # the fixtures' types live in the conftest, which nothing can import
World = Any


def test_at_night_what_is_wrong_and_what_to_do(page: Page, own_world: Any) -> None:
    """The title tells of it on any page; one click leads to the cause and its remedy. At most 2."""
    world = own_world()
    world.plane.script.behave(WRONG_KEY)
    world.webhook("SENT")
    page.open("/incidents")
    page.find("td", "goes on")
    assert page.driver.title.startswith("(held)")
    page.click("nav a", "Overview")
    page.find(".summary", "held: 401")
    page.find(".notice.bad", "RUDDERSTACK_WRITE_KEY")
    assert page.clicks <= 2


def test_where_a_message_went(page: Page, world: World) -> None:
    """Its id leads to its timeline: how it fares at Courier, and what arrived in RudderStack. At most 2."""
    for status in ("ENQUEUED", "SENT", "DELIVERED"):
        last = world.webhook(status, message="1-68c5-task-two", user="user-2")
    world.wait_for_state(last, "delivered")
    page.open("/")
    page.click("nav a", "Events")
    page.find('input[name="text"]').send_keys("1-68c5-task-two" + Keys.ENTER)
    page.find(".steps .is-reached", "Delivered")
    page.find("dl", "2 of 3 events")
    assert page.clicks <= 2


def test_what_failed_is_replayed_once_mended(page: Page, own_world: Any, tmp_path: Any) -> None:
    """From the figure to the group, to the question, to what came of it. At most 5; and by keys alone."""
    links = tmp_path / "links.toml"
    links.write_text('[[link]]\nevent = "Order Completed"\ntarget = "order-thanks"\n')
    world = own_world(FORWARDER_LINKS=str(links))
    world.courier.trouble = lambda _, path: invalid("the step is wrong") if "/automations/" in path else None
    sequences = [world.call("Order Completed", user=f"customer-{n}") for n in range(2)]
    for sequence in sequences:
        world.wait_for_state(sequence, "dead")
    world.courier.trouble = lambda _, path: invalid("still wrong") if "/automations/" in path else None

    page.open("/")
    page.find(".todo", "dead-lettered")
    page.tab_to("dead-lettered")
    page.press(Keys.ENTER)
    page.find("h1", "Dead letters")
    page.tab_to("Replay 2 events")
    page.press(Keys.ENTER)
    page.find("#confirm-text")
    while "Replay" not in page.focus.text:
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    page.find(".notice.bad", "2 dead again")
    assert page.clicks == 0

    world.courier.trouble = None
    page.open("/")
    page.click(".todo a", "dead-lettered")
    page.click("article button", "Replay 2 events")
    page.click("#confirm-yes")
    page.find(".notice.good", "2 delivered")
    assert page.clicks <= 5


def test_an_unmapped_event_gets_its_link(page: Page, own_world: Any) -> None:
    """From the figure to the event, to the form, picked from Courier's list. At most 3; and by keys alone."""
    world = own_world()
    world.courier.state.known = Known(automations=set(), journeys={"checkout"}, templates=set(), lists=set())
    for name in ("Checkout Finished", "Checkout Begun"):
        world.wait_for_state(world.call(name), "unmapped")
    page.open("/")
    page.click(".todo a", "unmapped")
    page.click('a.button[href$="event=Checkout+Finished"]', "Link it")
    page.find('input[name="target"]').send_keys("checkout")
    assert page.find('[name="to"][value="journey"]').is_selected(), "what is picked says of which kind it is"
    page.click("main button", "Link")
    page.find("li.linked", "checkout")
    page.find(".notice.good", "1 link")
    assert page.clicks <= 3

    page.open("/dead-letters")
    page.tab_to("Link it")
    page.press(Keys.ENTER)
    page.find("h1", "Checkout Begun")
    page.press(*"checkout", Keys.ENTER)
    page.find("li.linked", "checkout")
    assert page.clicks <= 3


def test_the_first_event_is_seen(page: Page, own_world: Any) -> None:
    """A new daemon says what to paste where; the event that comes is counted, listed and shown. At most 4."""
    world = own_world(FORWARDER_PUBLIC_URL="https://events.example.com")
    page.open("/")
    page.find("h2", "No event has arrived yet")
    assert (
        page.find("button[data-copy]").get_dom_attribute("data-copy") == "https://events.example.com/webhooks/courier"
    )
    page.click("button[data-copy]")
    world.wait_for_state(world.webhook("SENT", user="user-1"), "delivered")
    page.find(".equation", "delivered 1")
    page.click(".equation a", "delivered")
    page.click("[data-rows] a", "Message Sent")
    page.find("#payload", "user-1")
    assert page.clicks <= 4


def test_why_requests_were_rejected(page: Page, own_world: Any) -> None:
    """The figure leads to endpoint, reason and remedy. At most 2."""
    world = own_world()
    for _ in range(2):
        world.turned_away("/inbound/rudderstack", {"Authorization": "Bearer wrong"})
    page.open("/")
    page.click(".todo a", "rejected in the last hour")
    page.find('section[aria-labelledby="rejected"] td', "key unknown")
    page.find('section[aria-labelledby="rejected"]', "FORWARDER_INBOUND_KEYS")
    assert page.clicks <= 2
