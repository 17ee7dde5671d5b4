"""The operator's API over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from forwarder.model import State
from forwarder.operator.openapi import document

Start = Callable[..., Awaitable[Any]]


async def _get(operated: Any, path: str) -> Any:
    async with operated.http.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_status_tells_routes_books_and_spool(operate: Start) -> None:
    """Status shows the state of both routes, running or not, with books that balance."""
    operated = await operate()
    operated.spool.add(1)
    status = await _get(operated, "/api/status")
    assert (status["version"], status["uptime_s"], status["spool"]["sqlite_version"]) == ("1.2.3", 60, "3.51.3")
    outbound, inbound = status["routes"]
    assert (outbound["state"], outbound["books"]["dead"], outbound["books"]["is_balanced"]) == ("held", 1, True)
    assert [stop["scope"] for stop in outbound["stops"]] == ["route", "lists"]
    assert outbound["oldest_age_s"] == 5
    assert (inbound["state"], inbound["books"], inbound["oldest_age_s"]) == ("off", None, None)


async def test_events_are_flat_and_filtered(operate: Start) -> None:
    """A listing has one flat object per event, and every filter reaches the archive."""
    operated = await operate()
    operated.spool.add(7)
    operated.spool.add(8, State.DELIVERED)
    found = await _get(
        operated,
        "/api/events?state=dead&route=courier_to_rudderstack&event=E&user_id=u&message_id=m&text=t"
        "&from=2026-01-01T00:00:00%2B00:00&to=1800000000000&before=99&limit=3",
    )
    assert [event["sequence"] for event in found["events"]] == [7]
    assert found["events"][0]["received_at"] == "2027-01-15T07:59:59.000Z"
    query = operated.spool.queries[-1]
    assert (query.event, query.user_id, query.message_id, query.text) == ("E", "u", "m", "t")
    assert (query.received_from_ms, query.received_to_ms) == (1_767_225_600_000, 1_800_000_000_000)
    assert (query.before_sequence, query.limit) == (99, 3)


async def test_one_event_is_shown_whole(operate: Start) -> None:
    """An event's page has its payload and every attempt, bytes that are no text included."""
    operated = await operate()
    operated.spool.add(7)
    shown = await _get(operated, "/api/events/7")
    assert (shown["payload"], shown["payload_encoding"], shown["event_key"]) == ('{"id":"m1"}', "utf-8", "01")
    assert shown["attempt_log"][0]["answer"] == "\ufffd"
    operated.spool.payload = b"\xff"
    assert (await _get(operated, "/api/events/7"))["payload_encoding"] == "base64"
    operated.spool.payload = None
    assert (await _get(operated, "/api/events/7"))["payload"] is None


@pytest.mark.parametrize("path", ["/api/event-types", "/api/reasons?state=unmapped", "/api/audit", "/api/settings"])
async def test_every_listing_answers(operate: Start, path: str) -> None:
    """Each listing is a JSON object with one list."""
    operated = await operate()
    shown = await _get(operated, path)
    assert sum(isinstance(value, list) for value in shown.values()) == 1


async def test_replay_by_sequence_is_written_down(operate: Start) -> None:
    """A replay says how many moved, and the audit log says who did it."""
    operated = await operate()
    operated.spool.add(1)
    headers = {"X-Forwarder-Operator": "ann" + "x" * 99}
    async with operated.http.post("/api/replay", json={"sequences": [1, 2]}, headers=headers) as answer:
        assert await answer.json() == {"replayed": 1, "next_after": None}
    assert operated.spool.rows[1].state is State.PENDING
    (line,) = (await _get(operated, "/api/audit"))["audit"]
    assert (line["action"], line["detail"]) == ("replay", "1 events: 1, 2")
    assert line["who"].startswith("ann")
    assert "127.0.0.1" in line["who"]


async def test_a_replay_may_ask_for_everything(operate: Start) -> None:
    """`everything` reaches the spool and the audit log; without it what was done stays done."""
    operated = await operate()
    for sequence in (1, 2, 3):
        operated.spool.add(sequence)
    for body in ({"sequences": [1]}, {"sequences": [2], "everything": True}, {"state": "dead", "everything": True}):
        async with operated.http.post("/api/replay", json=body) as answer:
            assert (await answer.json())["replayed"] == 1
    assert operated.spool.everything == [False, True, True]
    details = [line.detail for line in operated.spool.audits]
    assert details == [
        "1 events: 1",
        "1 events, with what was done before: 2",
        "1 events, with what was done before: state=dead",
    ]


async def test_a_group_is_replayed_page_by_page(operate: Start) -> None:
    """A selection by state and reason is done in bounded requests; next_after leads through all of it."""
    operated = await operate()
    for sequence in range(1, 6):
        operated.spool.add(sequence, reason="no id" if sequence != 3 else "other")
    after: int | None = 0
    replayed = 0
    while after is not None:
        body = {"state": "dead", "reason": "no id", "after": after, "limit": 2}
        async with operated.http.post("/api/replay", json=body) as answer:
            done = await answer.json()
        replayed += done["replayed"]
        after = done["next_after"]
    assert replayed == 4
    assert operated.spool.rows[3].state is State.DEAD
    many = list(range(1, 30))
    async with operated.http.post("/api/replay", json={"sequences": many}) as answer:
        assert (await answer.json())["replayed"] == 1
    assert operated.spool.audits[-1].detail.endswith("20, …")


async def test_a_discarded_event_is_not_replayed_with_its_group(operate: Start) -> None:
    """Discarding marks an event; a replay of its group passes it over."""
    operated = await operate()
    operated.spool.add(1)
    async with operated.http.post("/api/discard", json={"state": "dead"}) as answer:
        assert await answer.json() == {"discarded": 1, "next_after": None}
    async with operated.http.post("/api/replay", json={"state": "dead"}) as answer:
        assert await answer.json() == {"replayed": 0, "next_after": None}


async def test_routes_are_paused_and_resumed(operate: Start) -> None:
    """Pausing and resuming moves the route and is written down."""
    operated = await operate()
    for act, state in (("pause", "paused"), ("resume", "running")):
        async with operated.http.post(f"/api/routes/courier_to_rudderstack/{act}") as answer:
            assert await answer.json() == {"route": "courier_to_rudderstack", "state": state}
    assert [line.action for line in operated.spool.audits] == ["pause", "resume"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/api/events?state=gone", None, 400, "state is unknown: use one of pending"),
        ("GET", "/api/events?colour=red", None, 400, "unknown parameter 'colour'"),
        ("GET", "/api/events?limit=0", None, 400, "use 1 or more"),
        ("GET", "/api/events?limit=501", None, 400, "0 to 500"),
        ("GET", "/api/events?before=" + "9" * 5000, None, 400, "before"),
        ("GET", "/api/events?after=9223372036854775807", None, 400, "after"),
        ("GET", "/api/events?from=yesterday", None, 400, "from is no time"),
        ("GET", "/api/events?text=" + "x" * 1001, None, 400, "longer than"),
        ("GET", "/api/events/99", None, 404, "no event 99"),
        ("GET", "/api/events/x", None, 400, "sequence"),
        ("GET", "/api/nothing", None, 404, "Not Found"),
        ("GET", "/api/replay", None, 405, "Method Not Allowed"),
        ("POST", "/api/routes/inbound/pause", b"", 404, "no such route is running; these are: courier_to_rudderstack"),
        ("POST", "/api/replay", b"{", 400, "no JSON"),
        ("POST", "/api/replay", b"[" * 100_000, 400, "no JSON"),
        ("POST", "/api/replay", b"[]", 400, "no JSON object"),
        ("POST", "/api/replay", b'{"sequences":[]}', 400, "at least one"),
        ("POST", "/api/replay", b'{"sequences":[true]}', 400, "whole number"),
        ("POST", "/api/replay", b'{"sequences":[-1]}', 400, "whole number"),
        ("POST", "/api/replay", b'{"sequences":[' + b"1," * 1000 + b"1]}", 400, "several requests"),
        ("POST", "/api/replay", b'{"state":"pending"}', 400, "one of dead, unmapped, filtered"),
        ("POST", "/api/replay", b'{"state":["x"]}', 400, "state is unknown"),
        ("POST", "/api/replay", b'{"state":"dead","reason":3}', 400, "reason is no text"),
        ("POST", "/api/replay", b'{"all":true}', 400, "unknown field 'all'"),
        ("POST", "/api/replay", b'{"sequences":[1],"everything":1}', 400, "neither true nor false"),
        ("POST", "/api/discard", b'{"sequences":[1],"everything":true}', 400, "unknown field 'everything'"),
        ("POST", "/api/discard", b'{"state":"unmapped"}', 400, "one of dead"),
        ("POST", "/api/discard", b"{}", 400, "give sequences"),
    ],
)
async def test_what_is_wrong_is_said_in_json(
    operate: Start, *, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    """Every error is JSON that says what is wrong and what to write."""
    operated = await operate()
    async with operated.http.request(method, path, data=body) as answer:
        assert answer.status == status
        assert said in (await answer.json())["error"]


async def test_metrics_hold_the_books(operate: Start) -> None:
    """A scrape reads the books from the spool at that moment; with the spool shut it tells the rest."""
    operated = await operate()
    operated.spool.add(1)
    line = 'forwarder_events{route="courier_to_rudderstack",state="dead"} 1.0'
    async with operated.http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert line in await answer.text()
    operated.spool.is_closed = True
    async with operated.http.get("/metrics") as answer:
        assert answer.status == 200
        assert "forwarder_events{" not in await answer.text()


async def test_a_shut_spool_is_for_later(operate: Start) -> None:
    """While the daemon stops, the API answers 503 with Retry-After."""
    operated = await operate()
    operated.spool.is_closed = True
    async with operated.http.get("/api/status") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_a_bug_is_answered_and_told_without_its_text(operate: Start) -> None:
    """An unexpected error is a 500 without details, and one line in the log with its type."""
    operated = await operate()
    operated.spool.failure = ValueError("payload")
    async with operated.http.get("/api/status") as answer:
        assert answer.status == 500
        assert "payload" not in await answer.text()
    (line,) = operated.log
    assert (line["event"], line["reason"]) == ("operator.failed", "ValueError")


async def test_the_openapi_document_describes_every_route(operate: Start) -> None:
    """The document lists exactly the routes that exist, and every reference in it resolves."""
    operated = await operate()
    described = await _get(operated, "/api/openapi.json")
    assert described == document("1.2.3")
    paths = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    for method, path in paths:
        url = path.replace("{sequence}", "1").replace("{route}", "courier_to_rudderstack")
        async with operated.http.request(method, url, data=b"{}" if method == "POST" else None) as answer:
            assert answer.status not in (405, 500), path
            assert answer.status != 404 or "{sequence}" in path
    assert len(paths) == 15
    names = described["components"]["schemas"]
    assert all(name in names for name in _references(described) if name != "Error")


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"].rpartition("/")[2]} if "$ref" in node else set()
        return own.union(*map(_references, node.values())) if node else own
    return set().union(*map(_references, node)) if isinstance(node, list) and node else set()


async def test_listings_match_their_schema(operate: Start) -> None:
    """What is answered has exactly the fields that the document promises."""
    operated = await operate()
    operated.spool.add(1)
    schemas = document("1")["components"]["schemas"]
    status = await _get(operated, "/api/status")
    assert set(status) == set(schemas["Status"]["required"])
    assert set(status["routes"][0]) == set(schemas["Status"]["properties"]["routes"]["items"]["required"])
    assert set((await _get(operated, "/api/events"))["events"][0]) == set(schemas["Event"]["required"])
    assert set(await _get(operated, "/api/events/1")) == set(schemas["EventDetail"]["required"])


async def test_many_requests_at_once_see_one_moment(operate: Start) -> None:
    """Scrapes that overlap each show books that balance."""
    operated = await operate()
    operated.spool.add(1)

    async def scrape() -> str:
        async with operated.http.get("/metrics") as answer:
            return str(await answer.text())

    texts = await asyncio.gather(*(scrape() for _ in range(5)))
    assert all('state="accepted"} 1.0' in text for text in texts)
