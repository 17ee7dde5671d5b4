"""The operator's API over HTTP."""

import asyncio
import json
from typing import Any

import pytest

from forwarder import __version__
from forwarder.archive_port import EventQuery
from forwarder.delivery.route_status import ScopeStop
from forwarder.errors import SpoolClosed
from forwarder.model import Attempt, RouteName, State
from forwarder.operator.operation import read
from forwarder.operator.parameters import Listing

NOW_MS = 1_800_000_000_000

OUTBOUND, INBOUND = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER


async def test_status_tells_routes_totals_and_spool(start: Any) -> None:
    """Status shows the state of both routes, running or not, with totals that balance."""
    world = await start(running=[OUTBOUND])
    await world.arrive(state=State.DEAD, reason="no id")
    await world.arrive()
    world.clock.now_ms += 60_000
    route = world.routes[OUTBOUND]
    route.hold("answered 401")
    route.families = (ScopeStop(scope="lists", state="held", reason="403", since_ms=0, next_try_ms=0),)
    status = await world.api("/api/status")
    assert (status["version"], status["uptime_s"]) == (__version__, 60)
    assert (status["spool"]["is_accepting"], status["spool"]["refusal"]) == (True, "")
    outbound, inbound = status["routes"]
    assert (outbound["state"], outbound["totals"]["dead"], outbound["totals"]["is_balanced"]) == ("held", 1, True)
    assert [stop["scope"] for stop in outbound["stops"]] == ["route", "lists"]
    assert outbound["oldest_age_s"] == 60
    assert (inbound["state"], inbound["oldest_age_s"], inbound["since"]) == ("off", None, None)


async def test_events_are_flat_and_listed_newest_first(world: Any) -> None:
    """A listing has one flat object per event, and says how to go on."""
    first = await world.arrive(user="anna", state=State.DEAD, reason="no id")
    await world.arrive()
    second = await world.arrive(user="anna")
    found = await world.api("/api/events?user_id=anna&limit=1")
    assert [event["sequence"] for event in found["events"]] == [second]
    assert first < found["next_before"] <= second  # nothing of hers is between
    assert (found["next_after"], found["is_cut"], found["scanned"]) == (None, False, 1)
    found = await world.api(f"/api/events?user_id=anna&before={second}")
    (event,) = found["events"]
    assert (event["sequence"], event["state"], event["reason"], event["is_discarded"]) == (
        first,
        "dead",
        "no id",
        False,
    )
    assert event["received_at"] == "2027-01-15T08:00:00.000Z"
    found = await world.api("/api/events?after=0&limit=2")
    assert ([event["sequence"] for event in found["events"]], found["next_after"]) == ([1, 2], 2)


def test_every_filter_reaches_the_archive() -> None:
    """What a query string says is what the archive is asked for."""
    given = {
        "state": "dead",
        "route": "courier_to_rudderstack",
        "event": "E",
        "user_id": "u",
        "message_id": "m",
        "reason": "r",
        "text": "t",
        "from": "2026-01-01T00:00:00 00:00",
        "to": "1800000000000",
        "before": "99",
        "after": "",
        "limit": "3",
    }
    assert read(given, Listing).page_query() == EventQuery(
        state=State.DEAD,
        route=OUTBOUND,
        event="E",
        user_id="u",
        message_id="m",
        reason="r",
        text="t",
        received_from_ms=1_767_225_600_000,
        received_to_ms=1_800_000_000_000,
        before_sequence=99,
        limit=3,
    )


@pytest.mark.parametrize(
    ("payload", "told"),
    [(b'{"id":"m1"}', ('{"id":"m1"}', "utf-8")), (b"\xff", ("/w==", "base64"))],
    ids=["text", "no text"],
)
async def test_one_event_is_shown_whole(world: Any, payload: bytes, told: tuple[str, str]) -> None:
    """An event has its payload and every attempt, bytes that are no text included."""
    attempt = Attempt(
        at_ms=0, duration_ms=3, operation="POST /v1/batch", status=400, outcome="refused", reason="x", answer=b"\xff"
    )
    sequence = await world.arrive(payload, state=State.DEAD, reason="x", attempt=attempt)
    shown = await world.api(f"/api/events/{sequence}")
    assert (shown["payload"], shown["payload_encoding"], shown["event_key"]) == (*told, "01".zfill(32))
    assert [(one["status"], one["answer"]) for one in shown["attempt_log"]] == [(400, "\ufffd")]


@pytest.mark.parametrize("path", ["event-types", "reasons?state=unmapped", "audit", "settings", "links"])
async def test_every_listing_answers(world: Any, path: str) -> None:
    """Each listing is a JSON object with one list."""
    await world.arrive(route=INBOUND, state=State.UNMAPPED, reason="nothing is linked")
    shown = await world.api(f"/api/{path}")
    assert sum(isinstance(value, list) for value in shown.values()) == 1


# --- acting ---


async def test_replay_by_sequence_is_written_down(world: Any) -> None:
    """A replay says how many moved, and the audit log says who did it."""
    sequence = await world.arrive(state=State.DEAD, reason="no id")
    said = await world.api("/api/replay", {"sequences": [sequence, 99]}, **{"X-Forwarder-Operator": "ann" + "x" * 99})
    assert said == {"replayed": 1, "next_after": None, "sequences": [sequence, 99]}
    assert await world.states() == {sequence: "pending"}
    (line,) = (await world.api("/api/audit"))["audit"]
    assert (line["action"], line["detail"]) == ("replay", "1, 99")
    assert line["who"].startswith("ann")
    assert "127.0.0.1" in line["who"]


async def test_a_replay_may_ask_for_everything(world: Any) -> None:
    """`everything` reaches the spool and the audit log; without it what was done stays done."""
    asked = []
    requeue = world.spool.requeue

    async def noted(sequences: Any, *, everything: bool = False) -> int:
        asked.append(everything)
        return int(await requeue(sequences, everything=everything))

    world.replace(requeue=noted)
    for _ in range(3):
        await world.arrive(state=State.DEAD, reason="no id")
    for body in ({"sequences": [1]}, {"sequences": [2], "everything": True}, {"state": "dead", "everything": True}):
        assert (await world.api("/api/replay", body))["replayed"] == 1
    assert asked == [False, True, True]
    assert [detail for _, detail in await world.audits()] == [
        "1",
        "2, with what was done before",
        "state=dead, with what was done before",
    ]


async def test_a_group_is_replayed_step_by_step(world: Any) -> None:
    """A selection is done in bounded requests; next_after leads through all of it."""
    for number in range(1, 6):
        await world.arrive(state=State.DEAD, reason="no id" if number != 3 else "other")
    after: int | None = 0
    replayed = 0
    while after is not None:
        done = await world.api("/api/replay", {"state": "dead", "reason": "no id", "after": after, "limit": 2})
        replayed, after = replayed + done["replayed"], done["next_after"]
    assert replayed == 4
    assert await world.states() == {1: "pending", 2: "pending", 3: "dead", 4: "pending", 5: "pending"}
    assert (await world.api("/api/replay", {"sequences": list(range(1, 30))}))["replayed"] == 1
    assert (await world.audits())[-1][1].endswith("20, …")


async def test_a_group_may_be_narrowed_by_every_label(world: Any) -> None:
    """An act takes the filters of a listing: user, event, message and time."""
    wanted = await world.arrive(user="anna", event="E", message="m7", state=State.DEAD, reason="r")
    for other in ({"user": "bob"}, {"event": "F"}, {"message": "m8"}):
        labels = {"user": "anna", "event": "E", "message": "m7"} | other
        await world.arrive(**labels, state=State.DEAD, reason="r")
    narrowed = {"user_id": "anna", "event": "E", "message_id": "m7", "from": "2027-01-15", "to": "2027-01-16"}
    assert (await world.api("/api/replay", narrowed))["replayed"] == 1
    assert [sequence for sequence, state in (await world.states()).items() if state == "pending"] == [wanted]


async def test_a_discarded_event_is_not_replayed_with_its_group(world: Any) -> None:
    """Discarding marks an event; a replay of its group passes it over."""
    await world.arrive(state=State.DEAD, reason="no id")
    assert await world.api("/api/discard", {"state": "dead"}) == {"discarded": 1, "next_after": None}
    assert await world.api("/api/replay", {"state": "dead"}) == {"replayed": 0, "next_after": None, "sequences": []}
    assert (await world.api("/api/events?state=dead"))["matched"] == 1
    assert (await world.api("/api/events?state=dead&discarded=false"))["matched"] == 0


@pytest.mark.parametrize("chosen", [{"state": "dead"}, {"sequences": [1, 2, 3, 99]}], ids=["a group", "by number"])
async def test_a_dry_run_counts_and_changes_nothing(world: Any, chosen: dict[str, Any]) -> None:
    """With `dry_run` an act says how many it would be for."""
    await world.arrive(state=State.DEAD, reason="r")
    await world.arrive(state=State.DEAD, reason="r")
    await world.arrive()
    before = await world.states()
    assert (await world.api("/api/replay", chosen | {"dry_run": True}))["replayed"] == 2
    assert (await world.api("/api/discard", chosen | {"dry_run": True}))["discarded"] == 2
    assert (await world.states(), await world.audits()) == (before, [])


async def test_what_became_of_events_can_be_asked(world: Any) -> None:
    """The outcome counts where some events are now, and names those that are pending."""
    await world.arrive(state=State.DELIVERED)
    pending = await world.arrive()
    said = await world.api("/api/outcome", {"sequences": [1, pending, 99]})
    assert said == {"states": {"delivered": 1, "pending": 1}, "pending": [pending]}


async def test_routes_are_paused_and_resumed(world: Any) -> None:
    """Pausing and resuming moves the route and is written down."""
    for act, state in (("pause", "paused"), ("resume", "running")):
        said = await world.api(f"/api/routes/courier_to_rudderstack/{act}", {})
        assert (said["route"], said["state"], bool(said["pause"])) == ("courier_to_rudderstack", state, act == "pause")
    assert await world.audits() == [("pause", OUTBOUND.value), ("resume", OUTBOUND.value)]


@pytest.mark.parametrize(
    ("given", "until"),
    [
        ({}, None),
        ({"for_s": 90}, "2027-01-15T08:01:30.000Z"),
        ({"until": "2027-01-15T10:00:00+01:00"}, "2027-01-15T09:00:00.000Z"),
        ({"until": str(NOW_MS + 1_000)}, "2027-01-15T08:00:01.000Z"),
    ],
)
async def test_a_pause_has_a_reason_and_an_end(world: Any, given: dict[str, Any], until: str | None) -> None:
    """Who paused, why and until when is in the answer, in the status and in the audit log."""
    body = given | {"reason": "the data plane moves"}
    said = await world.api("/api/routes/courier_to_rudderstack/pause", body)
    pause = {"who": "api (127.0.0.1)", "reason": "the data plane moves", "since": "2027-01-15T08:00:00.000Z"}
    assert said["pause"] == pause | {"until": until}
    (route, _) = (await world.api("/api/status"))["routes"]
    assert (route["state"], route["reason"], route["pause"]) == ("paused", pause["reason"], said["pause"])
    ((_, detail),) = await world.audits()
    assert detail.endswith(": the data plane moves")
    assert (" until 2027-01-15 " in detail) is (until is not None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"until": str(NOW_MS)}, "until is over already"),
        ({"until": "2026-12-31"}, "until is over already"),
        ({"until": "soon"}, "until is no time"),
        ({"until": "2027-02-01", "for_s": 1}, "either until or for_s"),
        ({"for_s": 0}, "for_s"),
        ({"for_s": 1e12}, "for_s"),
        ({"reason": "x" * 501}, "reason"),
    ],
)
async def test_an_impossible_pause_pauses_nothing(world: Any, given: dict[str, Any], said: str) -> None:
    """An end that is no time to come is an error that says so."""
    answer = await world.api("/api/routes/courier_to_rudderstack/pause", given, status=400)
    assert said in answer["error"]
    assert world.routes[OUTBOUND].state == "running"
    assert await world.audits() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/api/events?state=gone", None, 400, "state: invalid enum value 'gone'; use one of pending"),
        ("GET", "/api/events?colour=red", None, 400, "unknown field 'colour': use route, state"),
        ("GET", "/api/events?limit=-1", None, 400, "limit: expected `int` >= 0"),
        ("GET", "/api/events?limit=501", None, 400, "limit: expected `int` <= 500"),
        ("GET", "/api/events?before=" + "9" * 5000, None, 400, "before"),
        ("GET", "/api/events?after=9223372036854775807", None, 400, "after"),
        ("GET", "/api/events?from=yesterday", None, 400, "from is no time"),
        ("GET", "/api/events?from=99999999999999999999", None, 400, "from is no time"),
        ("GET", "/api/events?text=" + "x" * 1001, None, 400, "length <= 1000"),
        ("GET", "/api/events/99", None, 404, "no event 99"),
        ("GET", "/api/events/x", None, 400, "sequence"),
        ("GET", "/api/nothing", None, 404, "Not Found"),
        ("GET", "/api/replay", None, 405, "Method Not Allowed"),
        ("POST", "/api/routes/inbound/pause", b"", 404, "no such route is running; these are: courier_to_rudderstack"),
        ("POST", "/api/replay", b"{", 400, "no JSON"),
        ("POST", "/api/replay", b"[" * 100_000, 400, "object"),
        ("POST", "/api/replay", b"[]", 400, "Expected `object`"),
        ("POST", "/api/replay", b'{"sequences":[]}', 400, "length >= 1"),
        ("POST", "/api/replay", b'{"sequences":[true]}', 400, "sequences[0]: expected `int`"),
        ("POST", "/api/replay", b'{"sequences":[-1]}', 400, ">= 0"),
        ("POST", "/api/replay", b'{"sequences":[' + b"1," * 1000 + b"1]}", 400, "length <= 1000"),
        ("POST", "/api/replay", b'{"state":"pending"}', 400, "one of dead, unmapped, filtered"),
        ("POST", "/api/replay", b'{"state":["x"]}', 400, "state"),
        ("POST", "/api/replay", b'{"state":"dead","reason":3}', 400, "reason: expected `str"),
        ("POST", "/api/replay", b'{"all":true}', 400, "unknown field 'all'"),
        ("POST", "/api/replay", b'{"sequences":[1],"state":"dead"}', 400, "either sequences or a state"),
        ("POST", "/api/replay", b'{"sequences":[1],"everything":1}', 400, "everything: expected `bool`"),
        ("POST", "/api/discard", b'{"sequences":[1],"everything":true}', 400, "unknown field 'everything'"),
        ("POST", "/api/discard", b'{"state":"unmapped"}', 400, "one of dead"),
        ("POST", "/api/discard", b"{}", 400, "give sequences"),
        ("POST", "/api/links", b"[]", 400, "Expected `object`"),
        ("POST", "/api/links", b"{}", 400, "send an object"),
        ("POST", "/api/links", b'{"added": []}', 400, "unknown field"),
        ("POST", "/api/links", b'{"add": {}}', 400, "add: expected `array"),
        (
            "POST",
            "/api/links",
            json.dumps({"add": [{"event": "E", "target": "t"}] * 1_001}).encode(),
            400,
            "length <= 1000",
        ),
        ("POST", "/api/links", b'{"remove": ["x"]}', 400, "remove[0]: expected `object`"),
        ("POST", "/api/links", b'{"remove": [{"event": 3, "target": "t"}]}', 400, "remove[0].event: expected `str`"),
        ("POST", "/api/links", b'{"add": [{"event": "", "target": "t"}]}', 400, "event: is empty"),
    ],
)
async def test_what_is_wrong_is_said_in_json(
    start: Any, *, method: str, path: str, body: bytes | None, status: int, said: str
) -> None:
    """Every error is JSON that says what is wrong and where, and nothing is changed."""
    world = await start(running=[OUTBOUND])
    async with world.http.request(method, path, data=body) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, said in error) == (status, True), error
    assert await world.audits() == []


# --- links ---


async def test_links_are_listed_and_changed(world: Any) -> None:
    """What is added is listed, what is removed is gone, and both are in the audit log; pinned ones come first."""
    link = {"event": "Order Completed", "target": "t"}
    assert await world.api("/api/links", {"add": [link]}) == {"added": 1, "removed": 0}
    pinned, stored = (await world.api("/api/links"))["links"]
    assert (pinned["event"], pinned["pinned"]) == ("Pinned Checkout", True)
    assert stored == {**link, "type": "track", "to": "automation", "source": "", "pinned": False, "doubt": ""}
    assert await world.api("/api/links", {"remove": [link], "add": []}) == {"added": 0, "removed": 1}
    assert await world.api("/api/links", {"add": []}) == {"added": 0, "removed": 0}
    assert await world.audits() == [
        ("links", "1 added, 0 removed: +track Order Completed to automation t"),
        ("links", "0 added, 1 removed: -track Order Completed to automation t"),
    ]


async def test_changes_of_links_take_turns(world: Any) -> None:
    """Changes that arrive together are made one after the other, and none is lost."""
    bodies = [{"add": [{"event": f"E{n}", "target": "t"}]} for n in range(10)]
    await asyncio.gather(*(world.api("/api/links", body) for body in bodies))
    assert len((await world.api("/api/links"))["links"]) == 11


async def test_a_long_change_is_written_down_in_one_line(world: Any) -> None:
    """The audit log names some of many links, and how many there were."""
    await world.api("/api/links", {"add": [{"event": f"E{n}", "target": "t"} for n in range(100)]})
    ((_, detail),) = await world.audits()
    assert detail.startswith("100 added")
    assert detail.endswith(", …")
    assert detail.count("+") == 20


@pytest.mark.parametrize(
    ("event", "targets"),
    [
        ({"type": "track", "event": "Order Completed"}, ["a"]),
        ({"type": "track", "event": "order completed"}, []),
        ({"type": "track", "event": "x" * 300}, ["long"]),
        ({"type": "identify"}, ["welcome", "vip"]),
    ],
    ids=["by name", "by exact name", "by a name that is cut", "a call without names"],
)
async def test_a_seen_event_type_shows_its_links(world: Any, event: dict[str, str], targets: list[str]) -> None:
    """An event type is listed with what it is linked to, as on Courier's integration page."""
    links = [
        {"event": "Order Completed", "target": "a"},
        {"event": "x" * 300, "target": "long"},
        {"type": "identify", "event": "identify", "target": "welcome"},
        {"type": "identify", "event": "high_value", "target": "vip", "to": "list"},
    ]
    await world.api("/api/links", {"add": links})
    await world.put({"userId": "u", "messageId": "m", **event}, State.UNMAPPED, "nothing", inbound=True)
    await world.put({"type": "message:updated", "data": {"id": "m"}}, State.DELIVERED)
    rows = (await world.api("/api/event-types"))["event_types"]
    assert [[link["target"] for link in row["links"]] for row in rows if row["route"] == INBOUND] == [targets]
    assert [row["links"] for row in rows if row["route"] == OUTBOUND] == [[]]


# --- metrics, errors, description ---


async def test_metrics_hold_the_totals(world: Any) -> None:
    """A scrape reads the totals from the spool at that moment; with the spool shut it tells the rest."""
    await world.arrive(state=State.DEAD, reason="no id")
    line = 'forwarder_events{route="courier_to_rudderstack",state="dead"} 1.0'
    async with world.http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert line in await answer.text()
    await world.shut()
    async with world.http.get("/metrics") as answer:
        assert answer.status == 200
        assert "forwarder_events{" not in await answer.text()


async def test_a_shut_spool_is_for_later(world: Any) -> None:
    """While the daemon stops, the API answers 503 with Retry-After, and a page says so."""
    await world.shut()
    async with world.http.get("/api/status") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (await world.get("/events")).status == 503


async def test_a_bug_is_answered_and_told_without_its_text(world: Any) -> None:
    """An unexpected error is a 500 without details, and one line in the log with its type."""

    async def broken(*_: object) -> None:
        raise ValueError("payload")

    world.replace(event=broken)
    for path in ("/api/events/1", "/events/1"):
        page = await world.get(path)
        assert (page.status, "payload" in page.html) == (500, False)
    assert {(line["event"], line["reason"]) for line in world.log} == {("operator.failed", "ValueError")}


async def test_the_openapi_document_describes_every_route(world: Any) -> None:
    """What the document lists can be asked, and every reference in it resolves."""
    described = await world.api("/api/openapi.json")
    for path, methods in described["paths"].items():
        for method in methods:
            url = path.replace("{sequence}", "1").replace("{route}", "courier_to_rudderstack")
            async with world.http.request(method.upper(), url, data=b"{}" if method == "post" else None) as answer:
                assert answer.status not in (405, 500), path
                assert answer.status != 404 or "{sequence}" in path
    names = described["components"]["schemas"]
    assert all(name in names for name in _references(described) if name != "Error")
    parameters = {one["name"] for one in described["paths"]["/api/events"]["get"]["parameters"]}
    assert parameters >= {"route", "state", "event", "user_id", "message_id", "reason", "text", "from", "to", "limit"}


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"].rpartition("/")[2]} if "$ref" in node else set()
        return own.union(*map(_references, node.values())) if node else own
    return set().union(*map(_references, node)) if isinstance(node, list) and node else set()


async def test_answers_match_their_schema(world: Any) -> None:
    """What is answered has exactly the fields that the document promises."""
    await world.arrive(state=State.DEAD, reason="no id")
    schemas = (await world.api("/api/openapi.json"))["components"]["schemas"]
    for path, name in (("status", "Status"), ("events", "EventPage"), ("events/1", "EventDetail"), ("audit", "Audit")):
        assert set(await world.api(f"/api/{path}")) == set(schemas[name]["required"]), name


async def test_scrapes_that_overlap_balance(world: Any) -> None:
    """Scrapes that overlap each show totals that balance."""
    await world.arrive()

    async def scrape() -> str:
        async with world.http.get("/metrics") as answer:
            return str(await answer.text())

    texts = await asyncio.gather(*(scrape() for _ in range(5)))
    assert all('state="accepted"} 1.0' in text for text in texts)


async def test_a_page_in_trouble_is_a_page(world: Any) -> None:
    """While the spool cannot be read at all, even the page that says so is one."""

    async def shut() -> None:
        raise SpoolClosed("the spool is shut")

    world.replace(facts=shut)
    page = await world.get("/")
    assert (page.status, "the spool is shut" in page.words) == (503, True)
