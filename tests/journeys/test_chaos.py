"""The short form of `make chaos`: kills at random moments, faulty vendors, power cuts; and controls that lose."""

import random

import pytest

from proof import power_cuts
from proof.run import between_vendors
from proof.verdict import wrong

pytestmark = [pytest.mark.journey, pytest.mark.slow]

KILLS = 8
CUTS = 60


async def test_no_promise_is_broken_by_kills_and_faulty_vendors() -> None:
    """Every acknowledged event ends once where it belongs, in its user's order; every copy has a reason."""
    seed = random.randrange(10**6)  # noqa: S311 - shown when it fails
    async with between_vendors(seed=seed) as (run, _, http):
        await run.live(http, KILLS)
    assert wrong(run.story) == [], f"seed {seed}"
    assert run.story.outbound.acknowledged > 0
    assert run.story.order.compared > 0


async def test_a_lost_event_would_be_seen() -> None:
    """Control: one event that arrives without being seen is told as lost, and nothing else is."""
    async with between_vendors(seed=1) as (run, _, http):
        run.overlook = 5
        await run.live(http, 0)
    (lost,) = [one for one in wrong(run.story) if "lost" in one]
    assert "outbound" in lost


async def test_no_power_cut_loses_what_was_acknowledged() -> None:
    """At any write, with what was not synced lost, kept or torn, what was acknowledged and settled stays."""
    seed = random.randrange(10**6)  # noqa: S311 - shown when it fails
    found = await power_cuts.run(cuts=CUTS, seed=seed)
    assert (found.lost, found.unsettled, found.wrong) == ([], [], []), f"seed {seed}"
    assert found.acknowledged > CUTS


async def test_a_disk_that_lies_loses_events() -> None:
    """Control: where a sync is a lie the same check finds losses."""
    assert (await power_cuts.run(cuts=10, seed=1, is_lying=True)).lost
