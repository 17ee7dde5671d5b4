"""The list of events at the level of HTTP."""

import csv
import io
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

from forwarder.errors import SpoolClosed
from forwarder.model import RouteName, State
from forwarder.ports import EventQuery

INBOUND = RouteName.RUDDERSTACK_TO_COURIER
HOSTILE = "\"><script>alert(1)</script>\u202e\u0000\u001b[31m\u2028&amp;'"


def _listed(text: str) -> list[int]:
    return [int(number) for number in re.findall(r'<tr data-sequence="(\d+)">', text)]


async def test_an_empty_list_says_what_to_do(world: Any) -> None:
    """Where nothing has come yet the page gives the URLs to paste, and follows what comes."""
    text = await world.page("/events")
    assert "http://127.0.0.1:8080/webhooks/courier" in text
    assert " data-live>" in text
    assert "data-rows" in text


async def test_both_routes_newest_first(world: Any) -> None:
    """The list has the events of both routes, the newest above, each with its state as a word."""
    first = await world.arrive(state=State.DELIVERED)
    second = await world.arrive(route=INBOUND, event="Order Completed", state=State.UNMAPPED, reason="nothing linked")
    text = await world.page("/events")
    assert _listed(text) == [second, first]
    for words in ("delivered", "unmapped", "nothing linked", "Order Completed", "RudderStack → Courier"):
        assert words in text


async def test_every_filter_narrows(world: Any) -> None:
    """Route, state, event, user, message, text and time each leave only what they name, and stay in their field."""
    wanted = await world.arrive(
        b'{"needle":1}', route=INBOUND, event="E", user="anna", message="m-7", state=State.DEAD, reason="broken"
    )
    world.clock.now_ms += 3_600_000
    other = await world.arrive()
    filters = ("route=rudderstack_to_courier", "state=dead", "event=E", "user=anna", "message=m-7", "text=needle")
    for one in (*filters, "reason=broken", "to=2027-01-15T08:30", "&".join(filters)):
        text = await world.page(f"/events?{one}")
        assert _listed(text) == [wanted], one
    text = await world.page("/events?from=2027-01-15T08:30&user=u1")
    assert _listed(text) == [other]
    assert 'value="2027-01-15T08:30:00"' in text
    assert 'value="u1"' in text


async def test_history_is_not_followed(world: Any) -> None:
    """A search of history, and an older page, take no new rows and offer the way back to what is live."""
    await world.arrive()
    for path in ("/events?text=number", "/events?before=100", "/events?to=2030-01-01"):
        text = await world.page(path)
        assert " data-live>" not in text
        assert "Newest, live" in text
    assert " data-live>" in await world.page("/events?state=dead")


async def test_older_pages_go_on_where_the_last_ended(world: Any) -> None:
    """Pages are cut by sequence: none is missed, none is shown twice, and filters travel along."""
    sequences = [await world.arrive(user="same") for _ in range(60)]
    text = await world.page("/events?user=same")
    first = _listed(text)
    (older,) = re.findall(r'href="(/events\?user=same&amp;before=\d+)" rel="next"', text)
    second_text = await world.page(older.replace("&amp;", "&"))
    assert [*first, *_listed(second_text)] == sequences[::-1]
    assert 'rel="next"' not in second_text


async def test_a_cut_search_says_so_and_offers_to_go_on(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the text was looked for in only a part, the page says in how many, and links to the rest."""
    await world.arrive(b'{"needle":1}')
    for _ in range(5):
        await world.arrive()
    found = await world.spool.events(EventQuery(text="needle", scan_max=3))
    assert found.is_cut

    async def cut(query: Any) -> Any:
        del query
        return found

    monkeypatch.setattr(world.spool, "events", cut)
    text = await world.page("/events?text=needle")
    assert "Nothing in the part that was looked at" in text
    assert "The text was looked for in 3 events, back to 2027-01-15 08:00:00.000 UTC; older ones were not read." in text
    assert f"/events?text=needle&amp;before={found.next_before}" in text


async def test_no_match_is_not_taken_for_no_event(world: Any) -> None:
    """A filter that finds nothing says that, and offers all events."""
    await world.arrive()
    text = await world.page("/events?user=nobody")
    assert "No event matches" in text
    assert "Show all events" in text


@pytest.mark.parametrize("query", ["state=wrong", "from=yesterday", "before=-1", "route=x", "text=" + "a" * 1_001])
async def test_an_impossible_filter_is_explained(world: Any, query: str) -> None:
    """What cannot be asked is a page with 400 that says what to write."""
    text = await world.page(f"/events?{query}", status=400)
    assert "That cannot be asked" in text


async def test_a_hostile_event_is_text(world: Any) -> None:
    """Names and ids of HTML, control and direction characters appear as text, made visible, in list and links."""
    await world.arrive(event=HOSTILE, user=HOSTILE, message=HOSTILE, state=State.DEAD, reason=HOSTILE)
    text = await world.page("/events")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", text)
    assert "⟨U+202E⟩⟨U+0000⟩⟨U+001B⟩[31m⟨U+2028⟩&amp;amp;" in text
    assert f"user={quote(HOSTILE, safe='')}" in text
    text = await world.page(f"/events?user={quote(HOSTILE)}")
    assert len(_listed(text)) == 1


async def test_a_shut_spool_is_a_page_too(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the spool cannot be read the page says so with 503."""

    async def shut(query: Any) -> Any:
        del query
        raise SpoolClosed("the spool is shut")

    monkeypatch.setattr(world.spool, "events", shut)
    assert "the spool is shut" in await world.page("/events", status=503)


async def test_what_the_filters_leave_is_exported_whole(world: Any) -> None:
    """As NDJSON with payloads and as CSV without, oldest first, however many; never as a formula."""
    for number in range(60):
        await world.arrive(user="anna" if number % 2 else "bob", event="=1+1", state=State.DEAD, reason="r")
    text = await world.page("/events?user=anna")
    assert "/events/export?user=anna" in text
    page = await world.get("/events/export?user=anna")
    events = [json.loads(line) for line in page.html.splitlines()]
    assert [event["sequence"] for event in events] == list(range(2, 61, 2))
    assert events[0]["payload"] == '{"number": 2}'
    page = await world.get("/events/export?user=anna&format=csv")
    rows = list(csv.DictReader(io.StringIO(page.html)))
    assert "text/csv" in page.headers["Content-Type"]
    assert 'filename="events.csv"' in page.headers["Content-Disposition"]
    assert len(rows) == 30
    assert {row["event"] for row in rows} == {"'=1+1"}
    assert (await world.get("/events/export?state=gone")).status == 400
