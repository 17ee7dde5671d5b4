"""Erasing a person by API and page: counted and asked before, a receipt that names nobody, nothing left that does."""

import asyncio
import json
import re
from typing import Any

import pytest

from forwarder.model import State
from forwarder.operator import forgetting, searching
from forwarder.operator.forgetting import digest
from forwarder.operator.parts import LABEL_CHARACTERS_MAX
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import leased, settle

ADA = "ada@example.com"


async def _filled(desk: Any) -> None:
    """Have Ada's events in every state, one of them discarded, and one of somebody else."""
    for state in (State.PENDING, State.DELIVERED, State.FILTERED, State.UNMAPPED, State.DEAD, State.DEAD):
        await desk.arrive(user=ADA, message="m-ada", state=state, reason=f"about {ADA}")
    await desk.arrive(user="bob", state=State.DEAD, reason="no id")
    await desk.spool.discard([6])


async def _whole(desk: Any) -> str:
    """Return everything that is kept, as text; of replicas, all that can be read of it."""
    if not isinstance(desk.spool, MemorySpool):
        return repr([await desk.spool.event(n) for n in await desk.newest()] + [await desk.spool.audit(limit=1_000)])
    records = desk.spool._records  # noqa: SLF001 - it is about what is kept, not about what is shown
    return repr([(one.envelope.labels, one.envelope.payload, one.reason, one.progress) for one in
                 records.by_sequence.values()] + records.audit)  # fmt: skip


async def test_a_person_is_erased_in_every_state(start: Any) -> None:
    """One act, one line: how many, how many waited, and a receipt that only somebody with the id can check."""
    desk = await start()
    await _filled(desk)
    await desk.api("/api/discard", {"state": "dead", "user_id": ADA})
    said = await desk.api("/api/forget", {"user_id": ADA})
    assert (said["erased"], said["pending"], said["leased"], said["next_after"]) == (6, 1, 0, None)
    assert said["states"] == {"pending": 1, "delivered": 1, "filtered": 1, "unmapped": 1, "dead": 2}
    assert said["is_off_disk"] is True
    assert said["receipt"] == digest(ADA, said["receipt"].partition(":")[0])
    *_, line = await desk.acts_told()
    detail = f"person {said['receipt']}"
    assert line == ("forget", detail, 6, "1 of them waited and are discarded; what was erased is off the disk")
    assert ADA not in await _whole(desk)
    assert "bob" in await _whole(desk)
    assert ADA not in repr(desk.log)
    totals = (await desk.api("/api/status"))["routes"][0]["totals"]
    assert (totals["is_balanced"], totals["accepted"], totals["pending"], totals["dead"]) == (True, 7, 0, 4)
    assert await desk.states() == {
        1: "dead*", 2: "delivered", 3: "filtered", 4: "unmapped*", 5: "dead*", 6: "dead*", 7: "dead",
    }  # fmt: skip
    again = await desk.api("/api/forget", {"user_id": ADA})
    assert (again["erased"], again["receipt"] != said["receipt"]) == (0, True)


@pytest.mark.parametrize("found_by", [{"user": ADA}, {"text": ADA}, {"user": ADA, "period": "1h"}])
async def test_what_was_done_to_them_on_the_page_names_them_no_more(start: Any, found_by: dict[str, str]) -> None:
    """Acts from the list of events and from the dead letters stay written down, as the API's do, without the id."""
    desk = await start()
    await _filled(desk)
    form = {"state": "dead", "confirmed": "1"} | found_by
    await desk.finish(await desk.post("/events/discard", form))
    (group,) = (one for one in (await desk.get("/dead-letters")).forms("/dead-letters/replay") if one)
    await desk.finish(await desk.post("/dead-letters/discard", group | {"confirmed": "1"}))
    await desk.api("/api/discard", {"state": "dead", "reason": f"about {ADA}"})
    name = "text" if "text" in found_by else "user_id"
    assert f"{name}={ADA}" in (await desk.acts_told())[0][1]
    assert ADA not in repr(desk.log)
    await desk.api("/api/forget", {"user_id": ADA})
    assert ADA not in (await desk.get("/audit")).html
    assert f"{name}=(erased)" in (await desk.acts_told())[0][1]


@pytest.mark.one_daemon("a search is one process's; test_pages_of_replicas.py has two")
async def test_the_pages_forget_at_once(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that found events of theirs finds none, though it was made just now; no progress of an act names them.

    One that is under way while they are erased begins anew; so does an act's progress, which goes on without a name.
    """
    desk = await start()
    for _ in range(3):
        await desk.arrive(json.dumps({"needle": ADA}).encode(), user=ADA, state=State.DEAD, reason="x")
    await desk.arrive(b'{"needle":1}', user="bob")
    progress = await desk.post("/events/discard", {"state": "dead", "user": ADA, "confirmed": "1"})
    assert ADA in (await desk.finish(progress)).words
    search = "/events?text=needle&everywhere=1"
    assert (await desk.get(search)).words.count(ADA) >= 3
    await desk.api("/api/forget", {"user_id": ADA, "dry_run": True})
    assert ADA in (await desk.get(search)).words, "a count changes nothing"

    gate, events = asyncio.Event(), desk.spool.events

    async def held_up(query: Any) -> Any:
        found = await events(query)
        if query.text == "eedle" and query.limit:
            await gate.wait()
        return found

    desk.replace(events=held_up)
    monkeypatch.setattr(searching, "_FIRST_S", 0.01)
    await desk.get("/events?text=eedle&everywhere=1")
    replaying = await desk.post("/events/replay", {"state": "dead", "text": "eedle", "confirmed": "1", "user": ADA})
    assert ADA in (await desk.get(replaying.location)).words
    await desk.api("/api/forget", {"user_id": ADA})
    gate.set()
    for path in (search, "/events?text=eedle&everywhere=1", replaying.location):
        assert ADA not in (await desk.get(path)).html, path
    await desk.finish(replaying)
    assert (await desk.get(progress.location)).status == 404
    monkeypatch.setattr(searching, "_FIRST_S", 60)
    assert "bob" in (await desk.get(search)).words
    assert "bob" in (await desk.get("/events?text=eedle&everywhere=1")).words


async def test_nobody_is_erased_by_the_beginning_of_an_id(start: Any) -> None:
    """An id of which only a beginning is kept is refused by API and page, with the reason; a shorter one is exact."""
    desk = await start()
    longest = "a" * (LABEL_CHARACTERS_MAX - 1)
    await desk.arrive(user=longest)
    await desk.arrive(user=f"{longest}a")
    for user in (f"{longest}a", f"{longest}ab", f"{longest}ac"):
        said = await desk.api("/api/forget", {"user_id": user}, status=400)
        assert "the first 256 characters" in repr(said)
        for fields in ({"user": user}, {"user": user, "confirmed": "1"}):
            page = await desk.post("/forget", fields)
            assert (page.status, "the first 256 characters" in page.words) == (400, True)
    assert (await desk.states(), await desk.audits()) == ({1: "pending", 2: "pending"}, [])
    assert (await desk.api("/api/forget", {"user_id": longest}))["erased"] == 1
    assert await desk.states() == {1: "dead*", 2: "pending"}


async def test_counting_erases_nothing(start: Any) -> None:
    """A dry run says what there is by state, and writes nothing down."""
    desk = await start()
    await _filled(desk)
    said = await desk.api("/api/forget", {"user_id": ADA, "dry_run": True})
    assert (said["states"]["dead"], said["erased"], said["is_off_disk"]) == (2, 0, None)
    for other in (ADA.upper(), ADA[:-1], f" {ADA}"):
        assert (await desk.api("/api/forget", {"user_id": other, "dry_run": True}))["states"] == {}, "exactly, or not"
    assert (await desk.acts_told(), (await _whole(desk)).count(ADA) > 6) == ([], True)


async def test_many_events_are_erased_in_steps_and_told_once(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request works for a while and says where to go on; all of them are one line of the audit log."""
    desk = await start()
    monkeypatch.setattr(forgetting, "ACTION_EVENTS_MAX", 2)
    for _ in range(5):
        await desk.arrive(user=ADA, state=State.DELIVERED)
    body: dict[str, Any] = {"user_id": ADA, "act": "a1"}
    after: Any = 0
    steps = 0
    monkeypatch.setattr(desk.clock, "monotonic_s", iter(range(0, 10**6, 7)).__next__)  # each look takes seven seconds
    while after is not None:
        said = await desk.api("/api/forget", body | {"after": after})
        after, steps = said["next_after"], steps + 1
    assert steps > 1
    assert [(act, count) for act, _, count, _ in await desk.acts_told()] == [("forget", 5)]


async def test_what_is_being_delivered_is_waited_for(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event on its way is erased once it has arrived; one that stays on its way is told, and left."""
    desk = await start()
    await desk.arrive(user=ADA)
    (lease,) = await leased(desk.spool, forgetting_route(desk))
    monkeypatch.setattr(forgetting, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(forgetting, "_LEASED_LOOKS", 2)
    said = await desk.api("/api/forget", {"user_id": ADA})
    assert (said["erased"], said["leased"]) == (0, 1)
    assert "1 left: on the way" in (await desk.acts_told())[-1][3]
    monkeypatch.setattr(forgetting, "_LEASED_LOOKS", 10**6)
    erasing = asyncio.create_task(desk.api("/api/forget", {"user_id": ADA}))
    await desk.api("/api/status")
    await settle(desk.spool, [lease.sequence], State.DELIVERED)
    said = await asyncio.wait_for(erasing, 60)
    assert (said["erased"], said["pending"], said["leased"]) == (1, 0, 0)


def forgetting_route(desk: Any) -> Any:
    """Return the outbound route's name."""
    return next(iter(desk.routes))


async def test_the_page_counts_asks_and_says_what_was_done(start: Any) -> None:
    """Whom, then how many and how many still wait, then what was done; the id is text, never markup."""
    desk = await start()
    hostile = f"<b>{ADA}"
    await desk.arrive(user=hostile)
    await desk.arrive(user=hostile, state=State.DEAD, reason="x")
    assert "exactly, case included" in (await desk.get("/forget")).words
    asked = await desk.post("/forget", {"user": hostile})
    assert "1 event waits" in asked.words
    assert (await desk.states(), await desk.audits()) == ({1: "pending", 2: "dead"}, [])
    (fields,) = asked.forms("/forget")
    assert fields == {"user": hostile, "confirmed": "1"}
    done = await desk.post("/forget", fields)
    assert "2 events erased. 1 of them waited and are discarded." in done.words
    receipt = re.search(r"[0-9a-f]{8}:[0-9a-f]{32}", done.words)
    assert receipt is not None
    assert receipt[0] in (await desk.get("/audit")).words
    assert ADA not in (await desk.get("/audit")).words
    assert "erased" in (await desk.get("/events/2")).words


async def test_who_may_only_look_erases_nobody(start: Any) -> None:
    """Neither page nor API erase for the role view, which may count by the API; another site's form is refused."""
    desk = await start(named=["graham:view:token-of-graham-0002"])
    await desk.arrive(user=ADA)
    bearer = {"Authorization": "Bearer token-of-graham-0002"}
    assert (await desk.get("/forget", **bearer)).status == 403
    assert (await desk.post("/forget", {"user": ADA, "confirmed": "1"}, **bearer)).status == 403
    await desk.api("/api/forget", {"user_id": ADA}, status=403, **bearer)
    assert (await desk.api("/api/forget", {"user_id": ADA, "dry_run": True}, **bearer))["states"] == {"pending": 1}
    assert (await desk.post("/forget", {"user": ADA, "confirmed": "1"}, Origin="https://evil.example")).status == 403
    assert ADA in await _whole(desk)
