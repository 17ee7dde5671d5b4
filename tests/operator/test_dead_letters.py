"""Dead letters: seen by reason, replayed, discarded, exported."""

import asyncio
import io
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from forwarder.archive_port import EventQuery
from forwarder.errors import NoSuchEvent, SpoolClosed
from forwarder.model import State
from forwarder.operator.pages.dead_letters import reason_mark

HOSTILE = '<script>alert("x")</script> \u202e\x1b[31m \' "\r\n & </textarea>'
OUT = "courier_to_rudderstack"
IN = "rudderstack_to_courier"


def _group(reason: str, *, route: str = OUT, confirmed: bool = True) -> dict[str, str]:
    fields = {"route": route, "group": reason_mark(reason)}
    return fields | ({"confirmed": "1"} if confirmed else {})


async def test_groups_show_their_reason_count_and_a_sample(start: Any) -> None:
    """Each group tells why, how many, where and when, with one event of it to look at."""
    desk = await start()
    for number in range(3):
        await desk.put({"type": "message:updated", "data": {"id": f"m{number}"}}, State.DEAD, "no recipient")
    await desk.put({"type": "track", "event": "E", "userId": "u"}, State.UNMAPPED, "nothing is linked", inbound=True)
    page = await desk.get("/dead-letters")
    assert "no recipient 3 events · Courier → RudderStack" in page.words
    assert "Sample: event 3" in page.words
    assert '{"type": "message:updated", "data": {"id": "m2"}}' in page.words
    assert "POST /v1/batch 400" in page.words
    assert "E 1 now Link it : E" in page.words
    assert 'href="/destination-events/link?type=track&amp;event=E"' in page.html
    assert page.forms("/dead-letters/replay")[0] == _group("no recipient", confirmed=False)
    assert len(page.forms("/dead-letters/discard")) == 1, "unmapped events are not discarded"


async def test_nothing_dead_says_so(start: Any) -> None:
    """Without dead letters the page says that all is well."""
    page = await (await start()).get("/dead-letters")
    assert "No dead letters" in page.words
    assert "Nothing is unmapped" in page.words


async def test_many_groups_show_without_reading_every_payload(start: Any) -> None:
    """Beyond the twentieth group the sample is a link; a sample that has gone meanwhile is no error."""
    desk = await start()
    for number in range(22):
        await desk.put({"n": number}, State.DEAD, f"reason {number:02}")

    async def gone(sequence: int) -> None:
        raise NoSuchEvent(f"no event {sequence}")

    assert (await desk.get("/dead-letters")).html.count("<details") == 20
    desk.replace(event=gone)
    assert (await desk.get("/dead-letters")).status == 200


async def test_a_group_is_replayed(start: Any) -> None:
    """Replaying asks first, then makes every event of the group pending, and no other; it is written down."""
    desk = await start()
    first = await desk.put({"n": 1}, State.DEAD, "a")
    other = await desk.put({"n": 2}, State.DEAD, "b")
    asked = await desk.post("/dead-letters/replay", _group("a", confirmed=False))
    assert asked.status == 200
    assert "Replay this group?" in asked.words
    assert (await desk.states())[first] == "dead", "asking changes nothing"
    page = await desk.post("/dead-letters/replay", asked.forms("/dead-letters/replay")[0])
    await desk.finish(page)
    assert await desk.states() == {first: "pending", other: "dead"}
    assert await desk.acts_told() == [("replay", f"route={OUT} state=dead reason=a", 1, "1 pending")]


@pytest.mark.parametrize(
    ("state", "told", "mark"),
    [
        (State.DELIVERED, "3 delivered", "good"),
        (State.DEAD, "3 dead again", "bad"),
        (State.PENDING, "3 pending", "bad"),
    ],
)
async def test_what_came_of_a_replay_is_told(start: Any, state: State, told: str, mark: str) -> None:
    """A replay is good only if its events arrived; where they died again, that is what it says, with a link."""
    desk = await start()
    for number in range(3):
        await desk.put({"n": number}, State.DEAD, "a")
    page = await desk.post("/dead-letters/replay", _group("a"))
    async with asyncio.timeout(60):
        while desk.jobs.of(page.location.removeprefix("/jobs/")).acted_at_ms is None:
            await desk.get("/audit")
    if state is not State.PENDING:
        await desk.deliver(state=state, reason="a" if state is State.DEAD else "")
    ended = await desk.finish(page)
    assert "3 of 3 events replayed" in ended.words
    assert f"What came of them: {told}" in ended.words
    assert f'class="notice {mark}"' in ended.html
    assert f'href="/events?state={state.value}"' in ended.html


async def test_a_large_group_is_a_job_with_progress(start: Any) -> None:
    """More than a thousand events are replayed in steps, with a page that lives and tells how far it is."""
    desk = await start()
    await desk.put_many(2_500, State.DEAD, "nothing")
    may_go, requeue = asyncio.Event(), desk.spool.requeue

    async def waiting(sequences: Sequence[int], *, everything: bool = False) -> int:
        await may_go.wait()
        return int(await requeue(sequences, everything=everything))

    desk.replace(requeue=waiting)
    page = await desk.post("/dead-letters/replay", _group("nothing", route=IN))
    shown = await desk.get(page.location)
    assert " data-live>" in shown.html
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in shown.html
    assert "0 of 2,500 events replayed" in shown.words
    may_go.set()
    ended = await desk.finish(page)
    assert "2,500 of 2,500 events replayed" in ended.words
    assert " data-live>" not in ended.html
    assert set((await desk.states()).values()) == {"pending"}
    assert [count for _, _, count, _ in await desk.acts_told()] == [2_500]


async def test_an_act_that_was_interrupted_says_how_many_remain(start: Any) -> None:
    """What stops half way says what was done and what was not, and is not shown as a success."""
    desk = await start()
    await desk.put_many(2_500, State.DEAD, "nothing")
    requeue = desk.spool.requeue

    async def breaking(sequences: Sequence[int], *, everything: bool = False) -> int:
        if sequences[0] > 1_000:
            raise SpoolClosed("the spool is closed")
        return int(await requeue(sequences, everything=everything))

    desk.replace(requeue=breaking)
    ended = await desk.finish(await desk.post("/dead-letters/replay", _group("nothing", route=IN)))
    assert "1,000 of 2,500 events replayed" in ended.words
    assert "Stopped: the spool is closed. 1,500 events remain as they were" in ended.words
    assert 'class="notice bad"' in ended.html


async def test_a_group_is_discarded(start: Any) -> None:
    """Discarding asks first; then the events stay dead, marked, and the group is gone."""
    desk = await start()
    sequence = await desk.put({"n": 1}, State.DEAD, "a")
    asked = await desk.post("/dead-letters/discard", _group("a", confirmed=False))
    assert "Discard this group?" in asked.words
    assert 'class="danger"' in asked.html
    ended = await desk.finish(await desk.post("/dead-letters/discard", _group("a")))
    assert "1 of 1 events discarded" in ended.words
    assert "What came of" not in ended.words
    assert await desk.states() == {sequence: "dead*"}
    assert "No dead letters" in (await desk.get("/dead-letters")).words
    again = await desk.post("/dead-letters/discard", _group("a"))
    assert again.status == 400
    assert "empty by now" in again.words


async def test_one_event_is_discarded(start: Any) -> None:
    """A single dead event can be discarded from its own page, after asking."""
    desk = await start()
    sequence = await desk.put({"n": 1}, State.DEAD, "a")
    path = f"/dead-letters/{sequence}/discard"
    assert (await desk.post(path)).status == 200
    page = await desk.post(path, {"confirmed": "1"})
    assert page.location == f"/events/{sequence}?did=discarded&count=1"
    assert await desk.states() == {sequence: "dead*"}
    assert await desk.acts_told() == [("discard", str(sequence), 1, "done")]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("replay", {}),
        ("replay", {"state": "pending", "route": OUT, "group": "x"}),
        ("replay", {"state": "dead", "route": "nowhere", "group": "x"}),
        ("replay", {"state": "dead", "group": "x"}),
        ("replay", {"state": "dead", "route": OUT}),
        ("discard", {"state": "dead", "route": OUT, "group": "\x00<b>"}),
        ("x/discard", {"confirmed": "1"}),
        ("x/edit", {"payload": "{}"}),
    ],
)
async def test_forms_of_somebody_else_are_told_what_is_wrong(start: Any, path: str, fields: dict[str, str]) -> None:
    """A form that names nothing changes nothing and gets a page that says so."""
    page = await (await start()).post(f"/dead-letters/{path}", fields)
    assert page.status == 400
    assert "That cannot be asked" in page.words


async def test_unmapped_events_are_not_discarded(start: Any) -> None:
    """Only dead events can be discarded: unmapped ones wait for a link."""
    desk = await start()
    await desk.put({"type": "track", "event": "E", "userId": "u"}, State.UNMAPPED, "u", inbound=True)
    page = await desk.post("/dead-letters/discard", _group("u", route=IN))
    assert page.status == 400
    assert "this group is empty" in page.words


@pytest.mark.parametrize("act", ["replay", "discard", "1/discard", "1/edit"])
async def test_another_origin_changes_nothing(start: Any, act: str) -> None:
    """A form that another site posts is refused before anything is looked at."""
    desk = await start()
    await desk.put({"n": 1}, State.DEAD, "a")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        page = await desk.post(f"/dead-letters/{act}", _group("a") | {"payload": "{}"}, **headers)
        assert page.status == 403
    assert await desk.states() == {1: "dead"}


async def test_hostile_reasons_and_payloads_are_text(start: Any) -> None:
    """Whatever a payload or a vendor's words hold is shown as text, and the group's buttons still find it."""
    desk = await start()
    await desk.put({"type": HOSTILE, "data": {"id": HOSTILE, "recipient": HOSTILE}}, State.DEAD, HOSTILE)
    page = await desk.get("/dead-letters")
    assert '<script>alert("x")</script>' in page.words
    assert "\u202e" not in page.html
    assert "\x1b" not in page.html
    done = await desk.post("/dead-letters/replay", page.forms("/dead-letters/replay")[0] | {"confirmed": "1"})
    await desk.finish(done)


async def test_a_payload_that_is_huge_or_no_text_breaks_no_page(start: Any) -> None:
    """Four megabytes, or bytes that are no UTF-8, show as an excerpt."""
    desk = await start()
    await desk.put({"data": "😀<" * 800_000}, State.DEAD, "huge")
    await desk.put(b"\xff\xfe\x00<b>", State.DEAD, "bytes")
    page = await desk.get("/dead-letters")
    assert page.status == 200
    assert len(page.html) < 30_000
    assert "�" in page.words


async def test_export_streams_every_event_as_a_line(start: Any) -> None:
    """The export holds each dead event once, oldest first, with payload and attempts, as a file to keep."""
    desk = await start()
    for number in range(1_203):
        await desk.put({"n": number, "text": "line\nbreak"}, State.DEAD, "a")
    await desk.put({"n": "other"}, State.DEAD, "b")
    async with desk.http.get("/dead-letters/export") as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="dead.ndjson"'
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, 1_205))
    assert json.loads(lines[0]["payload"]) == {"n": 0, "text": "line\nbreak"}
    assert lines[0]["attempt_log"][0]["status"] == 400
    link = f"/dead-letters/export?route={OUT}&group={reason_mark('b')}"
    async with desk.http.get(link) as answer:
        assert [json.loads(line)["sequence"] for line in (await answer.text()).splitlines()] == [1_204]


async def test_an_empty_or_wrong_export_is_told(start: Any) -> None:
    """An export of nothing is empty; one of an unknown state says what to ask."""
    desk = await start()
    async with desk.http.get("/dead-letters/export") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_an_export_that_breaks_off_does_not_look_whole(start: Any) -> None:
    """Should the spool close meanwhile, the transfer is cut; what was purged meanwhile is left out."""
    desk = await start()
    for number in range(3):
        await desk.put({"n": number}, State.DEAD, "a")
    read = desk.spool.event

    async def closing(sequence: int) -> Any:
        if sequence == 3:
            raise SpoolClosed("the spool is closed")
        if sequence == 2:
            raise NoSuchEvent("gone")
        return await read(sequence)

    desk.replace(event=closing)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with desk.http.get("/dead-letters/export") as answer:
            await answer.read()
    await desk.shut()
    assert (await desk.get("/dead-letters/export")).status == 503
    assert not [line for line in desk.log if line["event"] == "operator.failed"]


async def test_a_reader_who_leaves_is_no_error(start: Any) -> None:
    """Whoever breaks an export off leaves nothing in the log."""
    desk = await start()
    for number in range(3):
        await desk.put({"n": number, "text": "x" * 2_000_000}, State.DEAD, "a")
    left = asyncio.Event()
    read = desk.spool.event

    async def waiting(sequence: int) -> Any:
        if sequence > 1:
            await left.wait()
        return await read(sequence)

    desk.replace(event=waiting)
    answer = await desk.http.get("/dead-letters/export")
    await answer.content.read(10)
    answer.close()
    left.set()
    assert (await desk.get("/dead-letters/export?group=gone")).status == 400
    assert (await desk.spool.events(EventQuery())).rows
    assert not [line for line in desk.log if line["event"] == "operator.failed"]


async def test_a_form_that_is_too_large_is_told_as_a_page(start: Any) -> None:
    """What no form of ours would hold is refused in the same dress as every other error."""
    desk = await start()
    form = io.BytesIO(b"state=" + b"x" * 9_000_000)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with desk.http.post("/dead-letters/replay", data=form, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (413, "text/html")
        assert "<h1" in await answer.text()
