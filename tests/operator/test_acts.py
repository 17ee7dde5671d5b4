"""What people did is written down: one line for each act, whatever number of steps, with its count and its outcome."""

import asyncio
from typing import Any

import pytest

from forwarder.model import State
from forwarder.operator import acts

USER = "ada@example.com"


async def _until(desk: Any, outcome: str) -> None:
    async with asyncio.timeout(60):
        while (await desk.acts_told())[-1][3] != outcome:
            await desk.get("/audit")


def _logged(desk: Any) -> list[dict[str, object]]:
    return [line for line in desk.log if line["event"] == "operator.acted"]


async def _replay(desk: Any, name: str, after: int = 0, **headers: str) -> Any:
    """Ask for a step of an act as the command does; return where to go on."""
    body = {"state": "dead", "limit": 2, "act": name, "after": after}
    return (await desk.api("/api/replay", body, **headers))["next_after"]


async def test_an_act_of_many_steps_is_one_line(start: Any) -> None:
    """Steps of a program under one name are one act: its line counts all, and says at the end what came of them."""
    desk = await start()
    for _ in range(5):
        await desk.arrive(state=State.DEAD, reason="no id")
    after: Any = 0
    while after is not None:
        after = await _replay(desk, "a1", after)
        assert len(await desk.acts_told()) == 1
        assert _logged(desk) == []
    assert await desk.acts_told() == [("replay", "state=dead", 5, "")]
    await desk.deliver()
    await _until(desk, "5 delivered")
    assert [(one["selection"], one["count"], one["outcome"]) for one in _logged(desk)] == [
        ("state=dead", 5, "5 delivered")
    ]


async def test_a_job_is_one_line_with_its_outcome(start: Any) -> None:
    """What the page does in the background is one act of whoever asked for it, and ends with what came of it."""
    desk = await start(named=["alice:operate:token-of-alice-0001"])
    await desk.post("/login", {"token": "token-of-alice-0001"})
    await desk.put_many(1_200, State.DEAD, "no id")
    (group,) = (await desk.get("/dead-letters")).forms("/dead-letters/discard")
    page = await desk.post("/dead-letters/discard", group | {"confirmed": "1"})
    await desk.finish(page)
    (_, told) = await desk.acts_told()
    assert told[2:] == (1_200, "done")
    assert _logged(desk)[-1]["who"] == "alice (token, 127.0.0.1)"


async def test_an_act_that_is_not_gone_on_with_was_interrupted(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An act whose next step does not come, or whose daemon stops, is told as interrupted, with what was done."""
    desk = await start()
    for _ in range(6):
        await desk.arrive(state=State.DEAD, reason="no id")
    monkeypatch.setattr(acts, "STEP_WITHIN_S", 0.01)
    await _replay(desk, "a1")
    await _until(desk, "interrupted")
    assert (await desk.acts_told())[0][2] == 2
    monkeypatch.setattr(acts, "STEP_WITHIN_S", 3_600)
    await _replay(desk, "a2")
    await desk.acts.close()
    assert [told[2:] for told in await desk.acts_told()] == [(2, "interrupted"), (2, "interrupted")]
    assert len(_logged(desk)) == 2


async def test_a_stop_ends_what_is_followed(start: Any) -> None:
    """A daemon that stops before the outcome is known writes down what is known."""
    desk = await start()
    await desk.arrive(state=State.DEAD, reason="no id")
    await desk.api("/api/replay", {"state": "dead"})
    await asyncio.sleep(0)
    await desk.acts.close()
    ((_, _, count, outcome),) = await desk.acts_told()
    assert count == 1
    assert outcome in ("1 pending", "not known")
    await desk.acts.close()
    assert len(_logged(desk)) == 1


async def test_nobody_adds_to_the_line_of_another(start: Any) -> None:
    """The name of an act is its owner's: the same name from somebody else is another line."""
    desk = await start(named=["alice:operate:token-of-alice-0001", "bob:operate:token-of-bob-0002"])
    for _ in range(6):
        await desk.arrive(state=State.DEAD, reason="no id")
    for token in ("token-of-alice-0001", "token-of-bob-0002"):
        await _replay(desk, "same", Authorization=f"Bearer {token}")
    assert [row.who.partition(" ")[0] for row in await desk.spool.audit(limit=9)] == ["bob", "alice"]
    assert [told[2] for told in await desk.acts_told()] == [2, 2]


async def test_the_log_names_nobody_out_of_a_payload(start: Any) -> None:
    """The audit log, behind the login, has the selection whole; the log only which fields it was made by."""
    desk = await start()
    await desk.arrive(state=State.DEAD, reason=f"refused: {USER}", user=USER, message="secret-message")
    selection = {"state": "dead", "user_id": USER, "reason": f"refused: {USER}", "message_id": "secret-message"}
    await desk.api("/api/discard", selection)
    assert f"user_id={USER}" in (await desk.acts_told())[0][1]
    (line,) = _logged(desk)
    assert line["selection"] == "state=dead user_id=… message_id=… reason=…"
    await desk.put({"n": 1}, State.DEAD, f"refused: {USER}")
    (group,) = (await desk.get("/dead-letters")).forms("/dead-letters/discard")
    await desk.finish(await desk.post("/dead-letters/discard", group | {"confirmed": "1"}))
    await desk.api("/api/links", {"add": [{"event": "secret-message", "target": "t"}]})
    assert len(_logged(desk)) == 3
    assert USER not in repr(desk.log)
    assert "secret-message" not in repr(desk.log)


async def test_a_step_that_did_nothing_is_no_act(start: Any) -> None:
    """Counting, or asking for what is not there, leaves no line."""
    desk = await start()
    await desk.arrive(state=State.DEAD, reason="no id")
    await desk.api("/api/replay", {"state": "dead", "dry_run": True, "act": "a1"})
    await desk.api("/api/replay", {"state": "unmapped", "act": "a2"})
    assert (await desk.acts_told(), _logged(desk)) == ([], [])
