"""Payloads are text whatever they hold, and everything can be reached with a keyboard alone."""

import json
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.journey

Page = Any  # the fixtures' types live in the conftest, which nothing can import
World = Any
_SCRIPT = "<script>window.isTaken = true; alert(1)</script>"
_HOSTILE = (
    '"><img src=x onerror="window.isTaken=true"> \' " & &lt; ]]> --> {{ 7 * 7 }} {% raw %} \u0000 \u0007 '
    "\u001b[31m \u202e gnihtemos \u2028 \ud800 </pre></textarea><svg onload=alert(1)>"
)
_MEGABYTES = 4_000_000
_TAB_STOPS_MAX = 40


def test_hostile_text_is_shown_and_never_run(page: Page, world: World) -> None:
    """An event named like a script, and markup, quotes and control characters in every field, are read as text."""
    sequence = world.call(_SCRIPT, user=_HOSTILE, messageId=f"id {_SCRIPT}", properties={_HOSTILE: _HOSTILE})
    world.wait_for_state(sequence, "unmapped")

    for path in ("/events", f"/events/{sequence}", "/destination-events", "/dead-letters"):
        page.open(path)
        page.find("main", "<script>")
        assert page.script("return window.isTaken") is None
        assert page.all("main script, main img, main svg[onload]") == []
        assert page.script("return document.querySelectorAll('script').length") == 1
        assert page.overflow() == 0, path
    page.open(f"/events/{sequence}")
    payload = page.find("#payload").text
    assert "<svg onload=alert(1)>" in payload
    assert "{{ 7 * 7 }}" in payload
    page.click('section[aria-labelledby="facts"] a[href^="/messages/"]')
    page.find("h1", "timeline")
    assert page.find(".copyable code").text == f"id {_SCRIPT}"


def test_four_megabytes_break_no_page(page: Page, world: World) -> None:
    """A payload of that size arrives, is listed and shown by its beginning, with the whole of it to download."""
    sequence = world.webhook("SENT", message="large", user="large", more="<b>" + "x" * _MEGABYTES)

    page.open("/events?user=large")
    page.click(f'tr[data-sequence="{sequence}"] a', "Message Sent")
    page.find("main", "Only the beginning is shown")
    page.find("a[download]", "Download all 3.8")
    assert page.overflow() == 0
    assert len(page.find("#payload").text) < _MEGABYTES / 4


def test_keys_lead_everywhere(page: Page, world: World) -> None:
    """A g and a letter change the page, / leads to the filter, j, k and Enter walk the rows, ? tells, Escape closes."""
    first, second = world.webhook("SENT", message="keys-1"), world.webhook("SENT", message="keys-2")
    page.open("/")
    page.press("?")
    keys = page.find("#help").text
    page.press(Keys.ESCAPE)
    assert page.all("dialog[open]") == []
    links = page.all(".top nav a[data-key]")
    ways = [(one.get_dom_attribute("data-key"), one.get_dom_attribute("href"), one.text) for one in links]
    for key, path, name in ways:
        assert name in keys
        page.press("g", key)
        page.find(f'.top nav a[href="{path}"][aria-current="page"]')
    page.press("g", "e")
    page.find('.top nav a[href="/events"][aria-current="page"]')
    page.find(f'tr[data-sequence="{second}"]')
    page.press("j", "j", "k", "j")
    page.press(Keys.ENTER)
    page.find("h1", "Message Sent")
    assert page.path == f"/events/{first}"
    page.open("/events")
    page.press("/")
    assert page.focus.get_dom_attribute("name") == "text"
    page.press("g", "o", Keys.ESCAPE)
    assert page.path == "/events"
    assert page.focus.tag_name == "body"


def test_a_long_list_is_one_stop_of_tab(page: Page, world: World) -> None:
    """Rows have one height each and arrows lead through them and along them; Tab passes by."""
    for n in range(8):
        world.webhook("SENT", message=f"arrows-{n}")
    page.open("/events")
    page.find("[data-rows] a")
    assert (
        page.script(
            "return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]"
            ".filter((one) => one.offsetParent && one.tabIndex >= 0).length"
        )
        < _TAB_STOPS_MAX
    )
    heights = page.script("return [...document.querySelectorAll('[data-rows] tr')].map((row) => row.offsetHeight)")
    assert set(heights) <= {32, 33}, "the line below a row counts with it"
    page.script("document.querySelector('[data-rows] a').focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.focus.get_dom_attribute("href") == "/messages/arrows-6"
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    page.press(Keys.ENTER)
    page.find('section[aria-labelledby="facts"]', "arrows-6")


def test_focus_goes_in_reading_order_and_is_held_by_a_question(page: Page, world: World) -> None:
    """The first Tab offers to skip to the content; a question takes the focus, keeps it, and Escape means no."""
    sequence = world.webhook("SENT", message="focus")
    world.wait_for_state(sequence, "delivered")
    page.open(f"/events/{sequence}")
    page.press(Keys.TAB)
    assert page.focus.text == "Skip to content"
    page.press(Keys.ENTER)
    page.press(Keys.TAB)
    assert page.script("return document.getElementById('main').contains(document.activeElement)")
    page.script("window.walked = [document.activeElement]")
    for _ in range(6):
        page.press(Keys.TAB)
        # In the order of the text, whatever size a browser's fonts are.
        assert page.script(
            "const last = walked.at(-1), now = document.activeElement; walked.push(now);"
            "return Boolean(last.compareDocumentPosition(now) & Node.DOCUMENT_POSITION_FOLLOWING)"
        ), "across and down, as it is read"
    assert page.all("[tabindex]:not([tabindex='0'], [tabindex='-1'])") == [], "nothing has a place of its own"

    button = page.find("button", "Replay")
    page.script("arguments[0].focus()", button)
    page.press(Keys.ENTER)
    page.find("#confirm-text")
    for _ in range(4):
        assert page.script("return document.getElementById('confirm').contains(document.activeElement)") or (
            page.focus.tag_name == "body"  # the browser's own controls, between the last and the first
        )
        page.press(Keys.TAB)
    page.press(Keys.ESCAPE)
    assert page.all("dialog[open]") == []
    assert page.focus == button
    assert page.path.removesuffix("#main") == f"/events/{sequence}"


def test_an_act_without_script_is_asked_about_by_the_server(page: Page, world: World) -> None:
    """Where the script does not run, the same form leads to a page that asks, and that page does it."""
    sequence = world.raw_webhook(json.dumps({"type": "message:updated", "data": "by hand"}).encode())
    world.wait_for_state(sequence, "dead")
    page.open(f"/events/{sequence}")
    page.script("document.querySelectorAll('form').forEach((form) => form.removeAttribute('data-confirm'))")

    page.click("button.danger", "Discard")
    page.find("h1", f"Discard event {sequence}?")
    page.click("main button", "Discard")

    page.find(".state-dead", "discarded")
