"""The live stream: what is told, to how many, and when it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from forwarder.errors import SpoolClosed
from forwarder.model import RouteName, State
from forwarder.operator.pages.stream import CLIENTS_MAX, message
from forwarder.operator.pages.topic import Topic
from forwarder.operator.sessions import COOKIE, LIFETIME_S
from forwarder.ports import EventQuery
from stand_ins.spool_acts import give_back, leased, settle

Look = Callable[..., Awaitable[Any]]
INBOUND = RouteName.RUDDERSTACK_TO_COURIER


@asynccontextmanager
async def _listening(world: Any, query: str, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with world.http.get(f"/api/stream?{query}", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield answer


async def _next(answer: aiohttp.ClientResponse, name: str) -> tuple[Any, str]:
    """Return the data and the id of the next message of that name."""
    found, identity = "", ""
    async with asyncio.timeout(5):
        while True:
            line = (await answer.content.readline()).decode().rstrip("\n")
            match line.partition(": ")[::2]:
                case ("event", text):
                    found = text
                case ("id", text):
                    identity = text
                case ("data", text) if found == name:
                    return json.loads(text), identity
                case ("", ""):
                    assert not answer.content.at_eof()
                    identity = ""
                case _:
                    continue


async def test_a_new_event_is_told_as_a_row(world: Any) -> None:
    """What arrives is told within a tick, drawn as the list draws it, with the sequence to go on from."""
    async with _listening(world, "watch=events&after=0") as answer:
        sequence = await world.arrive(event="<script>")
        news, identity = await _next(answer, "events")
    (row,) = news["rows"]
    assert (row["sequence"], identity, news["skipped"]) == (sequence, str(sequence), 0)
    assert "&lt;script&gt;" in row["html"]
    assert f'data-sequence="{sequence}"' in row["html"]


async def test_what_becomes_of_a_shown_event_is_told(world: Any) -> None:
    """A row that was shown as pending is told again when it is settled."""
    async with _listening(world, "watch=events&after=0") as answer:
        sequence = await world.arrive()
        assert "pending" in (await _next(answer, "events"))[0]["rows"][0]["html"]
        lease = (await leased(world.spool, RouteName.COURIER_TO_RUDDERSTACK, fresh=9, retry=0, size=99))[0]
        await settle(world.spool, [lease.sequence], State.DELIVERED)
        while not (rows := (await _next(answer, "events"))[0]["changed"]) or "delivered" not in rows[0]["html"]:
            pass
    assert rows[0]["sequence"] == sequence


async def test_filters_hold_in_the_tail(world: Any) -> None:
    """A followed list takes only what its filters name."""
    async with _listening(world, "watch=events&after=0&route=rudderstack_to_courier&user=anna") as answer:
        await world.arrive(user="anna")
        await world.arrive(route=INBOUND, user="bert")
        wanted = await world.arrive(route=INBOUND, user="anna")
        news, _ = await _next(answer, "events")
    assert [row["sequence"] for row in news["rows"]] == [wanted]


async def test_the_overview_gets_its_parts(world: Any) -> None:
    """Whoever watches the overview gets its parts each tick; others get only the time."""
    await world.arrive()
    async with _listening(world, "watch=overview") as answer:
        told, _ = await _next(answer, "status")
    assert told["now_ms"] == world.clock.now_ms
    assert "accepted <b>1</b>" in told["parts"]["books-courier_to_rudderstack"]
    assert {"daemon", "state-rudderstack_to_courier", "chart-courier_to_rudderstack"} <= set(told["parts"])
    async with _listening(world, "") as answer:
        assert (await _next(answer, "status"))[0]["parts"] == {}


async def test_buttons_are_not_drawn_anew_while_nothing_changes(world: Any) -> None:
    """The part with the buttons is the same text from tick to tick, however old the state gets."""
    async with _listening(world, "watch=overview") as answer:
        before, _ = await _next(answer, "status")
        world.clock.now_ms += 7_000
        while (after := (await _next(answer, "status"))[0])["now_ms"] == before["now_ms"]:
            pass
    assert after["parts"]["since-courier_to_rudderstack"] != before["parts"]["since-courier_to_rudderstack"]
    assert after["parts"]["acts-courier_to_rudderstack"] == before["parts"]["acts-courier_to_rudderstack"]


async def test_a_client_that_comes_back_misses_nothing(world: Any) -> None:
    """With `Last-Event-ID` the browser gets what came meanwhile, also while others follow the same list."""
    first = await world.arrive()
    second = await world.arrive()
    headers = {"Last-Event-ID": str(first)}
    async with _listening(world, "watch=events&after=0", **headers) as answer:
        assert [row["sequence"] for row in (await _next(answer, "events"))[0]["rows"]] == [second]
        async with _listening(world, "watch=events&after=0", **headers) as another:
            assert [row["sequence"] for row in (await _next(another, "events"))[0]["rows"]] == [second]


async def test_a_flood_is_shown_in_part_and_counted(world: Any) -> None:
    """Of very many events twenty are shown, the newest; the others are counted exactly."""
    sequences = [await world.arrive() for _ in range(70)]
    news = await Topic(world.spool, EventQuery()).join(after=sequences[0] - 1)
    assert [row.sequence for row in news.fresh] == sequences[-20:]
    assert (news.skipped, news.newest) == (50, sequences[-1])
    topic = Topic(world.spool, EventQuery(user_id="u1"))
    await topic.join(after=None)
    for _ in range(25):
        await world.arrive()
    filtered = await topic.look()
    assert (len(filtered.fresh), filtered.skipped, filtered.is_more) == (20, 0, True)


async def test_a_list_is_followed_from_now_unless_told(world: Any) -> None:
    """Without a sequence, or with one of another data folder, nothing old is told as new."""
    await world.arrive()
    topic = Topic(world.spool, EventQuery())
    assert (await topic.look()).is_empty
    sequence = await world.arrive()
    assert [row.sequence for row in (await topic.look()).fresh] == [sequence]
    assert (await Topic(world.spool, EventQuery()).join(after=10**9)).fresh == ()
    assert (await Topic(world.spool, EventQuery()).join(after=None)).is_empty


async def test_what_changed_before_the_stream_began_is_told(world: Any) -> None:
    """A row drawn as pending and settled before the page joined is told at once; one settled later is, too."""
    first, second = await world.arrive(), await world.arrive()
    leases = await leased(world.spool, RouteName.COURIER_TO_RUDDERSTACK, fresh=9, retry=0, size=10**6)
    assert [lease.sequence for lease in leases] == [first, second]
    await settle(world.spool, [first], State.DELIVERED)
    topic = Topic(world.spool, EventQuery())
    joined = await topic.join(after=second)
    assert {row.sequence: row.state for row in joined.changed} == {first: State.DELIVERED, second: State.PENDING}
    await settle(world.spool, [second], State.DELIVERED)
    assert [(row.sequence, row.state) for row in (await topic.look()).changed] == [(second, State.DELIVERED)]


async def test_a_row_that_leaves_its_filter_is_told(world: Any) -> None:
    """In a list of what is pending, a row that was delivered is told as such."""
    topic = Topic(world.spool, EventQuery(state=State.PENDING))
    await topic.join(after=0)
    sequence = await world.arrive()
    assert [row.sequence for row in (await topic.look()).fresh] == [sequence]
    await leased(world.spool, RouteName.COURIER_TO_RUDDERSTACK, fresh=9, retry=0, size=10**6)
    await settle(world.spool, [sequence], State.DELIVERED)
    assert [row.state for row in (await topic.look()).changed] == [State.DELIVERED]


async def test_rows_that_left_the_window_are_looked_at_again(world: Any) -> None:
    """An event that is settled long after newer ones pushed it down is still told, whatever else waits."""
    topic = Topic(world.spool, EventQuery())
    await topic.join(after=None)
    waiting = [await world.arrive(user="w") for _ in range(15)]
    assert len((await topic.look()).fresh) == 15
    for _ in range(45):
        await world.arrive(route=INBOUND, state=State.DELIVERED)
    await topic.look()
    leases = await leased(world.spool, RouteName.COURIER_TO_RUDDERSTACK, fresh=99, retry=0, size=10**6)
    assert [lease.sequence for lease in leases] == waiting
    await give_back(world.spool, waiting[:1], world.clock.now_ms + 5_000)
    await settle(world.spool, waiting[1:], State.DELIVERED)
    changed = {row.sequence: row.state for _ in range(3) for row in (await topic.look()).changed}
    assert changed == dict.fromkeys(waiting[1:], State.DELIVERED) | {waiting[0]: State.PENDING}


async def test_a_row_that_was_purged_is_not_looked_for_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A followed row that history lost is let go."""
    topic = Topic(world.spool, EventQuery())
    await topic.join(after=None)
    gone, kept = await world.arrive(), await world.arrive()
    await topic.look()
    read = world.spool.events

    async def without(query: EventQuery) -> Any:
        page = await read(query)
        return replace(page, rows=tuple(row for row in page.rows if row.sequence != gone))

    monkeypatch.setattr(world.spool, "events", without)
    await topic.look()
    await topic.look()
    assert set(topic._shown) == {kept}  # noqa: SLF001  that memory is let go is the promise


async def test_a_follower_forgets_what_nobody_shows_any_more(world: Any) -> None:
    """Memory stays flat: of unsettled rows only as many are followed as a page shows."""
    topic = Topic(world.spool, EventQuery())
    await topic.join(after=None)
    for _ in range(13):
        for _ in range(20):
            await world.arrive()
        await topic.look()
    assert len(topic._shown) == 200  # noqa: SLF001  the bound itself is the promise


async def test_too_many_lookers_are_turned_away(world: Any) -> None:
    """The number of streams is bounded; one more is 503, and a place that was left is free again."""
    answers = [await world.http.get("/api/stream?watch=overview") for _ in range(CLIENTS_MAX)]
    async with world.http.get("/api/stream?watch=overview") as refused:
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    for answer in answers:
        answer.close()
    async with asyncio.timeout(5):
        while True:
            async with world.http.get("/api/stream?watch=overview") as answer:
                if answer.status == 200:
                    break


async def test_a_client_that_does_not_read_slows_nobody(look: Look) -> None:
    """One page that stopped reading loses messages; another is told everything, in time."""
    world = await look(tick_s=0.001)
    async with _listening(world, "watch=overview") as stuck, _listening(world, "watch=events&after=0") as answer:
        for _ in range(20):
            await _next(answer, "status")
        sequence = await world.arrive()
        assert (await _next(answer, "events"))[0]["rows"][0]["sequence"] == sequence
        assert not stuck.closed


async def test_rows_that_were_lost_are_counted(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page that did not keep up has lost is told as a number as soon as it reads again."""
    is_reading = asyncio.Event()
    write = aiohttp.web.StreamResponse.write

    async def stuck(response: aiohttp.web.StreamResponse, data: bytes) -> None:
        await write(response, data)
        if b"event: " in data:
            await is_reading.wait()

    monkeypatch.setattr(aiohttp.web.StreamResponse, "write", stuck)
    async with _listening(world, "watch=events&after=0") as answer:
        await _next(answer, "status")
        sequences = []
        for _ in range(12):
            sequences.append(await world.arrive())
            await asyncio.sleep(0.07)  # longer than the poller's tick: each is news of its own
        is_reading.set()
        shown: set[int] = set()
        skipped = 0
        while len(shown) + skipped < len(sequences):
            news, _ = await _next(answer, "events")
            shown |= {row["sequence"] for row in news["rows"]}
            skipped += news["skipped"]
    assert skipped > 0
    assert len(shown) + skipped == len(sequences)


async def test_a_stop_is_told_and_ends_the_stream(world: Any) -> None:
    """On drain every page hears goodbye, its stream ends at once, and no new one begins."""
    async with _listening(world, "watch=overview") as answer:
        await _next(answer, "status")
        await world.stream.drain()
        await _next(answer, "bye")
        async with asyncio.timeout(2):
            assert await answer.content.read() == b"\n"
    async with world.http.get("/api/stream") as refused:
        assert refused.status == 503


async def test_the_poller_survives_whatever_it_meets(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shut spool and a bug of ours cost a tick, are told, and stop neither daemon nor stream."""
    failures: list[Exception] = [SpoolClosed("shut"), ZeroDivisionError("bug")]
    facts = world.spool.facts

    async def failing() -> Any:
        if failures:
            raise failures.pop(0)
        return await facts()

    monkeypatch.setattr(world.spool, "facts", failing)
    async with _listening(world, "watch=overview") as answer:
        await _next(answer, "status")
    assert [line["event"] for line in world.log] == ["operator.failed"]


async def test_an_impossible_filter_is_refused(world: Any) -> None:
    """A stream that cannot be is 400, not an empty one."""
    async with world.http.get("/api/stream?watch=events&state=x") as answer:
        assert answer.status == 400


def test_a_message_is_framed() -> None:
    """One message is one frame, whatever line breaks its text has."""
    framed = message("events", {"a": "x\n\ny\r"}, sequence=7)
    assert framed == b'id: 7\nevent: events\ndata: {"a":"x\\n\\ny\\r"}\n\n'


@pytest.mark.parametrize("is_by_time", [False, True], ids=["logged out", "its time is over"])
async def test_a_stream_ends_with_its_login(look: Look, *, is_by_time: bool) -> None:
    """Once the session that opened a stream is over, nothing more is told but that."""
    world = await look(token="a-token-long-enough")
    cookies = {COOKIE: world.sessions.open()}
    cookie = f"{COOKIE}={cookies[COOKIE]}"
    async with _listening(world, "watch=events", Cookie=cookie) as answer:
        await _next(answer, "status")
        if is_by_time:
            world.clock.now_ms += (LIFETIME_S + 1) * 1000
        else:
            world.sessions.close(cookies)
        await world.arrive(event="Not for their eyes")
        async with asyncio.timeout(5):
            rest = (await answer.content.read()).decode()
    assert rest.endswith("event: ended\ndata: {}\n\n")
    assert "Not for their eyes" not in rest.partition("event: ended")[2]


async def test_a_program_with_the_token_streams_on(look: Look) -> None:
    """A stream that was opened with the token itself needs no session."""
    world = await look(token="a-token-long-enough")
    async with _listening(world, "watch=events", Authorization="Bearer a-token-long-enough") as answer:
        world.clock.now_ms += (LIFETIME_S + 1) * 1000
        await _next(answer, "status")
        await _next(answer, "status")


async def test_asking_for_the_head_of_a_stream_takes_no_place(world: Any) -> None:
    """A stream has no end and so no HEAD."""
    async with world.http.head("/api/stream") as answer:
        assert answer.status == 405


async def test_a_client_that_never_reads_is_cut_off(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes nothing for too long loses the connection, and with it the place among those who look."""
    write = aiohttp.web.StreamResponse.write

    async def stuck(response: aiohttp.web.StreamResponse, data: bytes) -> None:
        await write(response, data)
        if b"event: " in data:
            await asyncio.Event().wait()

    monkeypatch.setattr(aiohttp.web.StreamResponse, "write", stuck)
    monkeypatch.setattr("forwarder.operator.pages.stream._WRITE_MAX_S", 0.05)
    async with _listening(world, "watch=overview") as answer:
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(5):
                await answer.content.read()
