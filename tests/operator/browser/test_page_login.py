"""Logging in with the token, being refused, being slowed down, and logging out, in a real browser."""

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.journey

Page = Any  # the fixture's type lives in the conftest, which nothing can import
_TOKEN = "browser-operator-token"


def give(page: Page, token: str) -> None:
    """Type a name and the token, and send them."""
    page.find("#name").clear()
    page.find("#name").send_keys("ada")
    page.find("#token").send_keys(token + Keys.ENTER)


def test_only_the_token_opens_the_page(page: Page, own_world: Any) -> None:
    """Whoever comes is asked first and led on to where he wanted; a wrong token is refused, a logout ends it."""
    sequence = own_world(FORWARDER_OPERATOR_TOKEN=_TOKEN).webhook("SENT")
    page.open(f"/events/{sequence}")
    assert page.path.startswith("/login?next=")
    assert page.focus.get_dom_attribute("id") == "name"

    give(page, "wrong")
    page.find('[role="alert"]', "That is no token of this daemon")
    give(page, _TOKEN)

    page.find("h1", "Message Sent")
    assert page.path == f"/events/{sequence}"
    cookie = page.driver.get_cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.open("/events")
    page.find("#connection", "Live")
    page.open("/audit")
    page.find("td", "login")
    page.click("header button", "Log out")
    page.find("h1", "Log in")
    page.open("/events")
    assert page.path.startswith("/login")
    page.driver.add_cookie({"name": cookie["name"], "value": cookie["value"]})
    page.open("/events")
    assert page.path.startswith("/login"), "a session that was ended stays ended"


def test_only_a_login_that_ended_is_said_to_have_ended(page: Page, own_world: Any) -> None:
    """A page that is followed goes where it is led, such as to the event that its search names; a login is told."""
    sequence = own_world(FORWARDER_OPERATOR_TOKEN=_TOKEN).webhook("SENT")
    page.open("/events")
    give(page, _TOKEN)
    page.find("#connection", "Live")
    page.script(f"history.replaceState(null, '', '/events?text={sequence}')")
    page.find("h1", "Message Sent")
    assert page.path == f"/events/{sequence}"
    page.open("/events")
    page.find("#connection", "Live")
    page.driver.delete_all_cookies()
    page.find("#connection", "Your login ended; reload to log in again")


@pytest.mark.one_daemon("each process counts guesses for itself")
def test_guessing_is_slowed_down(page: Page, own_world: Any) -> None:
    """After ten wrong tokens even the right one has to wait, and the page says how long."""
    own_world(FORWARDER_OPERATOR_TOKEN=_TOKEN)
    page.open("/login")
    for n in range(10):
        give(page, f"guess-{n}")
        page.find('[role="alert"]', "That is no token of this daemon")
        page.open("/login")

    give(page, _TOKEN)

    page.find('[role="alert"]', "wait")
    page.find("h1", "Log in")
