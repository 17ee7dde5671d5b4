"""Destination events: seen, linked, unlinked, and what was unmapped replayed."""

import asyncio
import json
import re
from typing import Any

import pytest

from forwarder.archive_port import EventQuery
from forwarder.clock import SystemClock
from forwarder.courier.catalogue import Catalogue
from forwarder.courier.client import CourierClient
from forwarder.model import HttpRequest, HttpResponse, State

HOSTILE = '<script>alert("x")</script>'
PATH = "/destination-events"


async def _arrive(desk: Any, event: str, count: int = 1, *, kind: str = "track", state: State = State.UNMAPPED) -> None:
    for number in range(count):
        call = {"type": kind, "event": event, "userId": f"u{number}", "messageId": f"{kind}{event}{number}"}
        await desk.put(call, state, "nothing is linked", inbound=True)
        desk.clock.now_ms += 1_000


async def test_events_show_as_on_couriers_page(start: Any) -> None:
    """One row per type and name: links, last time, count; mapped ones first, pinned ones read-only."""
    desk = await start()
    await _arrive(desk, "Pinned Checkout", 2)
    await _arrive(desk, "user-checkout", 3)
    await _arrive(desk, "x", kind="identify", state=State.DELIVERED)
    await _arrive(desk, "x", kind="page", state=State.FILTERED)
    page = await desk.get(PATH)
    rows = page.words.partition("Count State")[2]
    assert rows.index("Pinned Checkout") < rows.index("user-checkout"), "mapped ones first, though seen earlier"
    assert "automation checkout-flow pinned" in rows
    assert "mapped" in rows.partition("Pinned Checkout")[2]
    assert page.forms(f"{PATH}/unlink") == []
    assert "identify identify + Link" in rows
    assert "✓ profile" in rows
    assert "Only track, identify and group can be linked." in rows
    assert f'href="{PATH}/link?type=track&amp;event=user-checkout"' in page.html
    assert 'href="https://app.courier.com/automations"' in page.html


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("sort=event&order=asc", ["alpha", "Beta", "gamma"]),
        ("sort=event&order=desc", ["gamma", "Beta", "alpha"]),
        ("sort=time&order=asc", ["gamma", "alpha", "Beta"]),
        ("sort=time&order=desc", ["Beta", "alpha", "gamma"]),
        ("sort=evil&order=x", ["Beta", "alpha", "gamma"]),
    ],
)
async def test_rows_are_sorted_as_asked(start: Any, query: str, order: list[str]) -> None:
    """By event id or by time, up or down; anything else is the usual order."""
    desk = await start()
    for event in ("gamma", "alpha", "Beta"):
        await _arrive(desk, event)
    page = await desk.get(f"{PATH}?{query}")
    words = page.words.partition("Count State")[2]
    assert sorted(order, key=words.index) == order
    if "sort=evil" not in query:
        assert f'aria-sort="{"descending" if "desc" in query else "ascending"}"' in page.html


async def test_nothing_yet_says_what_to_paste(start: Any) -> None:
    """Without any event both tables tell the exact URLs to paste, on the public listener's port."""
    page = await (await start()).get(PATH)
    for url in ("inbound/rudderstack", "inbound/segment", "webhooks/courier"):
        assert f"http://127.0.0.1:8080/{url}" in page.words
    assert "http://127.0.0.1:8080 as its dataPlaneUrl" in page.words.replace("Copy ", "")


async def test_relay_mode_is_told(start: Any) -> None:
    """Where events are relayed, the page says that links are made at Courier."""
    assert "Courier's own endpoint" in (await (await start(mode="relay")).get(PATH)).words


async def test_an_event_is_linked_and_its_past_replayed(start: Any) -> None:
    """The plus links an event; what was unmapped of it, and nothing else, can then be replayed, with progress."""
    desk = await start()
    await _arrive(desk, "user-checkout", 3)
    await _arrive(desk, "other", 2)
    form = await desk.get(f"{PATH}/link?type=track&event=user-checkout")
    assert "Link track/user-checkout" in form.words
    fields = form.forms(f"{PATH}/link")[0]
    page = await desk.post(f"{PATH}/link", fields | {"to": "journey", "target": " welcome ", "source": "segment"})
    assert page.location == f"{PATH}?did=linked&count=1"
    shown = await desk.get(page.location)
    assert "Linked: 1 link(s) added." in shown.words
    assert "journey welcome segment only" in shown.words
    assert "Replay 3 unmapped" in shown.words
    (replay,) = shown.forms(f"{PATH}/replay")
    asked = await desk.post(f"{PATH}/replay", replay)
    assert "Replay what was unmapped?" in asked.words
    ended = await desk.finish(await desk.post(f"{PATH}/replay", replay | {"confirmed": "1"}))
    assert "3 of 3 events replayed" in ended.words
    assert await desk.states() == dict.fromkeys((1, 2, 3), "pending") | dict.fromkeys((4, 5), "unmapped")
    assert [act for act, _ in await desk.audits()] == ["links", "replay"]


async def test_a_stored_link_is_removed_after_asking(start: Any) -> None:
    """Removing a link asks first, then takes out that one and no other."""
    desk = await start()
    await _arrive(desk, HOSTILE)
    link = {"type": "track", "event": HOSTILE, "to": "list", "target": "vip", "source": ""}
    await desk.post(f"{PATH}/link", link)
    await desk.post(f"{PATH}/link", link | {"to": "template"})
    first = (await desk.get(PATH)).forms(f"{PATH}/unlink")[0]
    assert first == link
    asked = await desk.post(f"{PATH}/unlink", first)
    assert "Remove this link?" in asked.words
    page = await desk.post(f"{PATH}/unlink", asked.forms(f"{PATH}/unlink")[0])
    assert page.location == f"{PATH}?did=unlinked&count=1"
    assert [form["to"] for form in (await desk.get(PATH)).forms(f"{PATH}/unlink")] == ["template"]
    again = await desk.post(f"{PATH}/unlink", first | {"confirmed": "1"})
    assert (again.status, "there is no such link" in again.words) == (400, True)


class Lists:
    """A transport over which Courier lists one journey, and nothing else of any kind; `status` answers otherwise."""

    def __init__(self, status: int = 200) -> None:
        self.status = status

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Answer a listing."""
        listed = [{"id": "welcome", "name": "Welcome to <us>"}] if request.url.endswith("/journeys") else []
        body = json.dumps({"templates": listed, "results": [], "items": []}).encode()
        return HttpResponse(status=self.status, headers={}, body=body, duration_s=0)


def _catalogue(status: int = 200) -> Catalogue:
    client = CourierClient(Lists(status), base_url="https://courier", api_key="k", clock=SystemClock())
    return Catalogue(client, SystemClock())


async def test_a_link_is_picked_from_couriers_lists(start: Any) -> None:
    """The form offers what Courier lists; a target that it does not list is linked all the same, and doubted."""
    desk = await start(catalogue=_catalogue())
    await _arrive(desk, "user-checkout")
    form = await desk.get(f"{PATH}/link?type=track&event=user-checkout")
    assert '<option value="welcome" data-kind="journey">Welcome to &lt;us&gt;, journey</option>' in form.html
    link = {"type": "track", "event": "user-checkout", "to": "journey", "target": "welcome", "source": ""}
    assert (await desk.post(f"{PATH}/link", link)).location == f"{PATH}?did=linked&count=1"
    row = (await desk.get(PATH)).words.partition("user-checkout")[2]
    assert row.index("✓ mapped") < row.index("Replay 1 unmapped")

    page = await desk.post(f"{PATH}/link", link | {"to": "automation"})
    assert page.location == f"{PATH}?did=linked_doubtfully&count=1"
    shown = await desk.get(page.location)
    assert "Courier lists this id as a journey" in shown.words
    assert "! check the link" in shown.words
    assert [row["doubt"] for row in (await desk.api("/api/links"))["links"]] == [
        "Courier lists no published automation of this id; an alias is not listed",
        "",
        "Courier lists this id as a journey",
    ]


async def test_links_stand_where_couriers_lists_are_not_known(start: Any) -> None:
    """A key that may not list is told on both pages, and doubts no link."""
    desk = await start(catalogue=_catalogue(403))
    await _arrive(desk, "Pinned Checkout", state=State.DELIVERED)
    page = await desk.get(PATH)
    assert (
        "not all checked against Courier's own lists (automations, journeys, templates, lists: the API key"
        in page.words
    )
    assert "✓ mapped" in page.words
    assert "may not list them): write the id" in (await desk.get(f"{PATH}/link")).words


async def test_what_is_linked_and_ends_dead_is_not_mapped(start: Any) -> None:
    """The row of a linked event tells its dead, and leads to them; once they are discarded it is mapped again."""
    desk = await start()
    await _arrive(desk, "Pinned Checkout", 2, state=State.DEAD)
    page = await desk.get(PATH)
    assert "✕ 2 dead" in page.words
    assert "mapped" not in page.words.partition("Count State")[2].partition("From Courier")[0]
    await desk.api("/api/discard", {"sequences": await desk.newest()})
    assert "✓ mapped" in (await desk.get(PATH)).words


async def test_what_is_unmapped_is_listed_by_event(start: Any) -> None:
    """One row per event name with its count, most first, and the way to its link, or to its replay once it has one."""
    desk = await start()
    await _arrive(desk, "few")
    await _arrive(desk, "many", 3)
    await _arrive(desk, "Pinned Checkout", 2)
    words = (await desk.get("/dead-letters")).words.partition("What to do")[2]
    assert [words.index(told) for told in ("many 3", "Pinned Checkout 2", "few 1")] == sorted(
        words.index(told) for told in ("many 3", "Pinned Checkout 2", "few 1")
    )
    assert words.count("Link it") == 2
    assert words.count("Replay") == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target": ""}, "target: is empty"),
        ({"target": "x" * 300}, "longer than 256"),
        ({"to": "script"}, "to: must be one of"),
        ({"source": "evil"}, "source: must be one of"),
        ({"type": "identify"}, "have no event names"),
        ({"event": ""}, "event: is empty"),
    ],
)
async def test_a_link_that_cannot_be_is_told_in_the_form(start: Any, change: dict[str, str], told: str) -> None:
    """What is wrong stands in the form, which keeps what was written; nothing is linked or written down."""
    desk = await start()
    link = {"type": "track", "event": HOSTILE, "to": "automation", "target": "kept-target", "source": ""}
    page = await desk.post(f"{PATH}/link", link | change)
    assert page.status == 400
    assert told in page.words
    assert "target" in change or 'value="kept-target"' in page.html
    assert await desk.audits() == []


async def test_pinned_links_stay(start: Any) -> None:
    """A pinned link cannot be removed here, whatever is posted; links whose event never came are shown too."""
    desk = await start()
    assert "Other links" in (await desk.get(PATH)).words
    words = {"type": "track", "event": "Pinned Checkout", "to": "automation", "target": "checkout-flow", "source": ""}
    page = await desk.post(f"{PATH}/unlink", words | {"confirmed": "1"})
    assert (page.status, "pinned" in page.words) == (400, True)


@pytest.mark.parametrize("act", ["link", "unlink", "replay"])
async def test_another_origin_links_nothing(start: Any, act: str) -> None:
    """A form that another site posts is refused before anything is looked at."""
    desk = await start()
    link = {"type": "track", "event": "E", "to": "automation", "target": "t", "source": "", "confirmed": "1"}
    assert (await desk.post(f"{PATH}/{act}", link, Origin="https://evil.example")).status == 403
    assert await desk.audits() == []


async def test_hostile_names_are_text(start: Any) -> None:
    """A name of markup or hidden characters is shown as text; one that is cut cannot be linked by its stump."""
    desk = await start()
    await _arrive(desk, HOSTILE)
    await _arrive(desk, "evil\u202ename\x00")
    await _arrive(desk, "n" * 300)
    await desk.put({"type": "track", "userId": "u"}, State.UNMAPPED, "no name", inbound=True)
    page = await desk.get(PATH)
    assert HOSTILE in page.words
    assert re.search("evil⟨U\\+202E⟩name(⟨U\\+0000⟩|\ufffd)", page.words)  # Postgres keeps no NUL
    assert "Its name is cut here" in page.words


async def test_courier_events_have_a_table_of_their_own(start: Any) -> None:
    """What came from Courier is listed by name, without links."""
    desk = await start()
    await desk.put({"type": "message:updated", "data": {"id": "m", "status": "SENT"}}, State.DELIVERED, "")
    page = await desk.get(PATH)
    assert "Message Sent message:updated" in page.words.partition("From Courier")[2]


async def test_counting_does_not_keep_anybody_waiting(start: Any) -> None:
    """When the counts take too long the rest is offered without a count."""
    desk = await start()
    await _arrive(desk, "Pinned Checkout")
    await _arrive(desk, "user-checkout")
    link = {"type": "track", "event": "user-checkout", "to": "journey", "target": "t", "source": ""}
    await desk.post(f"{PATH}/link", link)
    events = desk.spool.events

    async def slow(query: EventQuery) -> object:
        desk.clock.now_ms += 1_000
        return await events(query)

    desk.replace(events=slow)
    page = await desk.get(PATH)
    assert "Replay 1 unmapped" in page.words.partition("user-checkout")[2].partition("Pinned")[0]
    assert "Replay unmapped" in page.words.partition("Pinned Checkout")[2]


@pytest.mark.one_daemon("the limit is one process's")
async def test_many_unmapped_events_are_counted_up_to_a_limit(start: Any) -> None:
    """Beyond a limit the button says that there are more; long acts are few, and end with the daemon."""
    desk = await start()
    await desk.put_many(1_001, State.UNMAPPED, "nothing", event="Pinned Checkout")
    assert "Replay 1,000+ unmapped" in (await desk.get(PATH)).words
    requeue = desk.spool.requeue

    async def never(_: object, **__: object) -> int:
        await asyncio.Event().wait()
        return 0

    desk.replace(requeue=never)
    act = {"type": "track", "event": "Pinned Checkout", "confirmed": "1"}
    pages = [await desk.post(f"{PATH}/replay", act) for _ in range(5)]
    assert [page.status for page in pages] == [303, 303, 303, 303, 400]
    assert "long acts are under way" in pages[-1].words
    assert "0 of 1,000 or more events replayed" in (await desk.get(pages[0].location)).words
    for path in (PATH, "/dead-letters"):
        assert (await desk.get(path)).words.count("Under way: Replaying 1,000 or more unmapped events") == 4, path
    await desk.jobs.close()
    assert "Under way" not in (await desk.get(PATH)).words
    assert "Stopped: the daemon stopped" in (await desk.get(pages[0].location)).words
    desk.replace(requeue=requeue)
    ended = await desk.finish(await desk.post(f"{PATH}/replay", act))
    assert "1,001 events replayed" in ended.words
    assert json.dumps(repr(desk.jobs)) == '"Jobs(0 running, 5 known)"'
