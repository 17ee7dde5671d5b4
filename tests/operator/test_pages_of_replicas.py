"""Two replicas' pages and APIs are one: what is begun at one is gone on with, told and forgotten at the other."""

from typing import Any

import pytest

from forwarder.model import State
from forwarder.operator.acts import Acts
from forwarder.operator.forgetting import digest
from stand_ins.waiting import wait_until

ADA = "ada@example.com"


@pytest.fixture
async def pair(start: Any, postgres_url: str) -> Any:
    """Two replicas, which requests meet in turn."""
    return await start(pair_on=postgres_url)


async def test_steps_that_meet_two_replicas_are_one_act(pair: Any) -> None:
    """One line counts all steps and tells what came of them; who waited in vain for the next step says nothing."""
    for _ in range(5):
        await pair.arrive(state=State.DEAD, reason="no id")
    after: Any = 0
    while after is not None:
        after = (await pair.api("/api/replay", {"state": "dead", "limit": 2, "act": "a", "after": after}))["next_after"]

    async def is_told() -> bool:
        await pair.deliver()
        return bool((await pair.acts_told())[0][3])

    await wait_until(is_told)
    for side in pair.own.values():
        await side.acts.close()
    assert await pair.acts_told() == [("replay", "state=dead", 5, "5 delivered")]


async def test_an_act_that_stops_between_replicas_is_told_once(pair: Any) -> None:
    """Whoever met its last step says that it was interrupted."""
    for _ in range(5):
        await pair.arrive(state=State.DEAD, reason="no id")
    after: Any = 0
    for _ in range(2):
        after = (await pair.api("/api/discard", {"state": "dead", "limit": 2, "act": "a", "after": after}))[
            "next_after"
        ]
    for side in pair.own.values():
        side_acts: Acts = side.acts
        await side_acts.close()
    assert await pair.acts_told() == [("discard", "state=dead", 4, "interrupted")]


async def test_a_person_erased_at_one_is_forgotten_by_both(pair: Any) -> None:
    """Whichever replica is asked shows nobody any more, also in what it had found before; the receipt holds."""
    for _ in range(3):
        await pair.arrive(user=ADA, state=State.DEAD, reason="x")
    search = "/events?text=ada&everywhere=1"
    jobs = [await pair.post("/events/discard", {"state": "dead", "user": ADA, "confirmed": "1"}) for _ in range(2)]
    for page in jobs:
        await pair.finish(page)
    for _ in range(2):
        await pair.get(search)
    said = await pair.api("/api/forget", {"user_id": ADA})
    for path in (search, search, *(page.location for page in jobs), "/audit", "/audit"):
        assert ADA not in (await pair.get(path)).html, path
    assert said["receipt"] == digest(ADA, said["receipt"].partition(":")[0])
