"""The links through the operator's API: seen, changed, written down."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from forwarder.errors import RulesInvalid
from forwarder.model import RouteName
from forwarder.ports import EventTypeRow

Start = Callable[..., Awaitable[Any]]
Words = Mapping[str, str]


class ListedLinks:
    """A keeper of links that takes its time, and refuses the event "bad"."""

    def __init__(self) -> None:
        self.links: list[Words] = []
        self.busy = 0

    def rows(self) -> Sequence[Mapping[str, object]]:
        """Return them all, none pinned."""
        return [{**link, "pinned": False} for link in self.links]

    async def change(self, *, add: Sequence[Words] = (), remove: Sequence[Words] = ()) -> tuple[int, int]:
        """Change them, if nobody else is at it."""
        self.busy += 1
        assert self.busy == 1
        before = list(self.links)
        await asyncio.sleep(0)
        if any(link["event"] == "bad" for link in add):
            self.busy -= 1
            raise RulesInvalid("event: is bad")
        self.links = [link for link in before if link not in remove] + list(add)
        self.busy -= 1
        return len(add), len(remove)


async def _change(operated: Any, body: object) -> tuple[int, Any]:
    async with operated.http.post("/api/links", json=body) as answer:
        return answer.status, await answer.json()


async def test_links_are_listed_and_changed(operate: Start) -> None:
    """What is added is listed, what is removed is gone, and both are in the audit log."""
    operated = await operate(links=ListedLinks())
    link = {"event": "Order Completed", "target": "t"}
    assert await _change(operated, {"add": [link]}) == (200, {"added": 1, "removed": 0})
    async with operated.http.get("/api/links") as answer:
        assert await answer.json() == {"links": [{**link, "pinned": False}]}
    assert await _change(operated, {"remove": [link], "add": []}) == (200, {"added": 0, "removed": 1})
    assert await _change(operated, {"add": []}) == (200, {"added": 0, "removed": 0})
    assert [(row.action, row.detail) for row in operated.spool.audits] == [
        ("links", "1 added, 0 removed: +track Order Completed to automation t"),
        ("links", "0 added, 1 removed: -track Order Completed to automation t"),
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "send an object"),
        ({}, "send an object"),
        ({"added": []}, "send an object"),
        ({"add": {}}, "must be a list"),
        ({"add": [{}] * 1_001}, "must be a list of at most 1000"),
        ({"remove": ["x"]}, "objects whose values are texts"),
        ({"remove": [{"event": 3}]}, "objects whose values are texts"),
        ({"add": [{"event": "bad", "target": "t"}]}, "event: is bad"),
    ],
)
async def test_a_wrong_change_says_what_to_write(body: object, words: str, operate: Start) -> None:
    """A change that cannot be is 400 with the reason, and changes nothing."""
    links = ListedLinks()
    operated = await operate(links=links)
    status, answer = await _change(operated, body)
    assert status == 400
    assert words in answer["error"]
    assert links.links == []


async def test_changes_take_turns(operate: Start) -> None:
    """Changes that arrive together are made one after the other, and none is lost."""
    operated = await operate(links=ListedLinks())
    bodies = [{"add": [{"event": str(n), "target": "t"}]} for n in range(10)]
    assert {status for status, _ in await asyncio.gather(*(_change(operated, body) for body in bodies))} == {200}
    async with operated.http.get("/api/links") as answer:
        assert len((await answer.json())["links"]) == 10


async def test_a_long_change_is_written_down_in_one_line(operate: Start) -> None:
    """The audit log names some of many links, and how many there were."""
    operated = await operate(links=ListedLinks())
    await _change(operated, {"add": [{"event": str(n), "target": "t"} for n in range(100)]})
    (row,) = operated.spool.audits
    assert row.detail.startswith("100 added")
    assert row.detail.endswith(", …")
    assert row.detail.count("+") == 20


async def test_without_links_there_is_nothing_to_change(operate: Start) -> None:
    """A listener that was given no links lists none and says so when one is added."""
    operated = await operate()
    async with operated.http.get("/api/links") as answer:
        assert await answer.json() == {"links": []}
    status, answer = await _change(operated, {"add": [{"event": "e", "target": "t"}]})
    assert (status, "no links" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("route", "type_", "event", "targets"),
    [
        (RouteName.RUDDERSTACK_TO_COURIER, "track", "Order Completed", ["a"]),
        (RouteName.RUDDERSTACK_TO_COURIER, "track", "order completed", []),
        (RouteName.RUDDERSTACK_TO_COURIER, "track", "x" * 256, ["long"]),
        (RouteName.RUDDERSTACK_TO_COURIER, "IDENTIFY", "IDENTIFY", ["welcome", "vip"]),
        (RouteName.COURIER_TO_RUDDERSTACK, "track", "Order Completed", []),
    ],
)
async def test_a_seen_event_type_shows_its_links(
    route: RouteName, type_: str, event: str, targets: list[str], operate: Start
) -> None:
    """An event type is listed with what it is linked to, as on Courier's integration page."""
    links = ListedLinks()
    links.links = [
        {"type": "track", "event": "Order Completed", "target": "a"},
        {"type": "track", "event": "x" * 300, "target": "long"},
        {"type": "identify", "event": "identify", "target": "welcome"},
        {"type": "identify", "event": "high_value", "target": "vip"},
    ]
    operated = await operate(links=links)
    operated.spool.seen = EventTypeRow(route=route, type=type_, event=event, count=1, first_at_ms=0, last_at_ms=1)
    async with operated.http.get("/api/event-types") as answer:
        (row,) = (await answer.json())["event_types"]
    assert [link["target"] for link in row["links"]] == targets
