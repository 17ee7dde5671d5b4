"""What people do on the page, in a real browser: see, follow, link, replay, edit, discard, pause."""

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from stand_ins.courier_state import invalid

pytestmark = pytest.mark.journey

Page = Any  # the fixtures' types live in the conftest, which nothing can import
World = Any
_INVOKED = "POST /automations/{template}/invoke"


def answer_dialog(page: Page, *, yes: bool) -> str:
    """Answer the question that is asked and return it."""
    question = page.find("#confirm-text").text
    page.click("#confirm-yes" if yes else '#confirm button[value="no"]')
    return str(question)


def is_live(page: Page) -> None:
    """Wait until the page says that it follows."""
    page.find("#connection", "Live")


def test_an_event_arrives_by_itself_and_shows_everything(page: Page, world: World) -> None:
    """The open list tells of it without a reload; its page shows what arrived, what was sent and each attempt."""
    world.webhook("SENT", message="message-6")
    page.open("/events")
    is_live(page)
    page.script("window.isTheSamePage = true")
    first = page.find("[data-rows] tr").get_dom_attribute("data-sequence")

    sequence = world.webhook("SENT", message="message-7", user="user-7")

    row = f'tr[data-sequence="{sequence}"]'
    page.find("[data-new-rows]", "1 new")
    assert page.find("[data-rows] tr").get_dom_attribute("data-sequence") == first, "no row moves under a hand"
    page.click("[data-new-rows]")
    assert page.focus.text == "Message Sent"
    assert page.all("[data-new-rows]:not([hidden])") == []
    page.find(row, "Message Sent")
    page.find(row, "delivered")
    assert page.script("return window.isTheSamePage === true")
    page.click(f"{row} a", "Message Sent")
    assert page.find("h1").text == "Message Sent"
    assert json.loads(page.find("#payload").text)["data"]["recipient"] == "user-7"
    sent = page.find('section[aria-labelledby="sent"]').text
    assert '"userId": "user-7"' in sent
    assert '"event": "Message Sent"' in sent
    attempts = page.find('section[aria-labelledby="attempts"]').text
    assert "200" in attempts
    assert "POST /v1/batch" in attempts


def test_a_message_is_followed_on_one_time_line(page: Page, world: World) -> None:
    """From any event of a message one click leads to all of its events, in order, each with its distance in time."""
    statuses = ("ENQUEUED", "SENT", "DELIVERED", "OPENED", "CLICKED")
    sequences = [world.webhook(status, message="message-8", user="user-8") for status in statuses]
    world.webhook("SENT", message="message-9", user="user-8")
    world.wait_for_state(sequences[-1], "delivered")

    page.open(f"/events/{sequences[2]}")
    page.click("a", "Whole timeline")

    steps = [one.text for one in page.all("ol.timeline > li")]
    assert len(steps) == len(statuses)
    for step, status in zip(steps[1:], statuses[1:], strict=True):
        assert step.startswith(f"Message {status.capitalize()}")
    assert "first" in steps[0]
    assert all("+ " in step for step in steps[1:])


def test_an_unmapped_event_is_linked_and_its_replay_succeeds(page: Page, world: World) -> None:
    """The plus leads to a form, the link is shown, and what came before it is replayed and reaches Courier."""
    sequence = world.call("Checkout Finished", user="customer-42")
    world.wait_for_state(sequence, "unmapped")
    page.open("/destination-events")

    page.click('a.plus[aria-label="Link track/Checkout Finished"]')
    page.find('input[name="target"]').send_keys("checkout-thanks" + Keys.ENTER)

    page.find("li.linked", "checkout-thanks")
    page.click("button", "Replay 1 unmapped")
    assert "Checkout Finished" in answer_dialog(page, yes=True)
    page.find("main", "1 of 1 events replayed")
    world.wait_for_state(sequence, "delivered")
    assert [one.params for one in world.courier.state.effects_of("customer-42") if one.operation == _INVOKED] == [
        {"template": "checkout-thanks"}
    ]
    page.open(f"/events/{sequence}")
    assert "done" in page.find('section[aria-labelledby="plan"]').text


def test_dead_letters_are_replayed_once_the_cause_is_gone(page: Page, world: World) -> None:
    """A group is shown with its reason and a sample; its replay asks first, and everything is delivered then."""
    world.courier.trouble = lambda _, path: invalid("the step is wrong") if "/automations/" in path else None
    page.open("/destination-events/link")
    page.find('input[name="event"]').send_keys("Order Completed")
    page.find('input[name="target"]').send_keys("order-thanks" + Keys.ENTER)
    page.find("li.linked, td, li", "order-thanks")
    sequences = [world.call("Order Completed", user=f"customer-{n}") for n in range(3)]
    for sequence in sequences:
        world.wait_for_state(sequence, "dead")
    world.courier.trouble = None

    page.open("/dead-letters")
    page.click("details summary", "Sample")
    page.find("article pre.code", "Order Completed")
    page.click("article button", "Replay 3 events")
    assert answer_dialog(page, yes=False)
    assert page.path == "/dead-letters"
    page.click("article button", "Replay 3 events")
    assert "fail again" in answer_dialog(page, yes=True)

    page.find(".notice.good", "3 delivered")
    for sequence in sequences:
        world.wait_for_state(sequence, "delivered")
    page.open("/audit")
    page.find("td", "replay")


def test_a_dead_letter_is_edited_and_replayed(page: Page, world: World) -> None:
    """What cannot be mapped is opened, put right in a form and goes out as an event of its own."""
    sequence = world.raw_webhook(b'{"type": "message:updated", "data": "broken"}')
    world.wait_for_state(sequence, "dead")
    page.open(f"/events/{sequence}")
    page.click("a.button", "Edit and replay")

    field = page.find("textarea")
    field.clear()
    field.send_keys("no JSON")
    page.click("button.primary", "Preview what would be sent")
    page.find('[role="alert"]')
    right = {"type": "message:updated", "data": {"id": "put-right", "status": "SENT", "recipient": "user-3"}}
    page.script("arguments[0].value = arguments[1]", page.find("textarea"), json.dumps(right))
    page.click("button.primary", "Preview what would be sent")
    page.find("ins", "put-right")
    page.click("button.primary", "Store the copy")

    page.find("h1", "Message Sent")
    copy = int(page.path.split("?")[0].rsplit("/", 1)[1])
    assert copy > sequence
    world.wait_for_state(copy, "delivered")
    page.open(f"/events/{sequence}")
    page.find(".state-dead", "discarded")


def test_discarding_asks_first(page: Page, world: World) -> None:
    """A no leaves the event as it was; a yes puts it aside."""
    sequence = world.raw_webhook(b'{"type": "message:updated", "data": "beyond repair"}')
    world.wait_for_state(sequence, "dead")
    page.open(f"/events/{sequence}")

    page.click("button.danger", "Discard")
    assert "Discard" in answer_dialog(page, yes=False)
    assert "discarded" not in page.find(".state-dead").text
    page.click("button.danger", "Discard")
    answer_dialog(page, yes=True)

    page.find(".state-dead", "discarded")


def test_a_route_is_paused_and_resumed(page: Page, world: World) -> None:
    """Pausing asks first; then nothing leaves, the page says why, and resuming sends what waited."""
    page.open("/")
    is_live(page)
    page.click("section button", "Pause")
    page.find("p", "Nothing is sent")
    page.find('[name="reason"]').send_keys("the data plane moves")
    page.click("main button", "Pause")
    page.find(".state-paused", "paused")
    page.find(".route-state", "the data plane moves")

    requests = world.plane.requests
    sequence = world.webhook("SENT")
    page.find(".number", "1\npending")
    assert world.plane.requests == requests
    page.click("section button", "Resume")

    world.wait_for_state(sequence, "delivered")
    page.find(".number", "0\npending")


def test_the_page_reconnects_after_a_restart(page: Page, world: World) -> None:
    """It says that the connection is lost, finds the new daemon by itself, and shows what arrives there."""
    world.webhook("SENT")  # new rows wait above those that are shown: an empty list has none
    page.open("/events")
    is_live(page)
    page.script("window.isTheSamePage = true")

    world.kill()
    page.find("#connection", "reconnecting")
    world.start()
    is_live(page)
    sequence = world.webhook("DELIVERED", message="after-the-restart")

    page.click("[data-new-rows]")
    page.find(f'tr[data-sequence="{sequence}"]', "Message Delivered")
    assert page.script("return window.isTheSamePage === true")
