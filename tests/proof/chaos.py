"""The real daemon on both routes between two faulty vendors, killed at random moments, again and again.

Every event is posted until it is acknowledged. At the end each must be where it belongs, exactly once; users' calls
must have taken effect in their order; every copy on the wire must have a reason; the totals of every scrape must
balance. The printed seed repeats the run's choices (not its timing).
"""

import argparse
import asyncio
import math
import random
import sys
import time

from proof import power_cuts, replicas
from proof.run import Story, between_vendors
from proof.verdict import summary, wrong

CONTROL_CUTS = 10


async def run(*, kills: int, minutes: float, seed: int) -> Story:
    """Run the daemon between its vendors and kill it so often, or for so long; return what was seen."""
    async with between_vendors(seed=seed) as (one, _, http):
        await one.live(http, kills, until_s=time.monotonic() + 60 * minutes)
    return one.story


def cut_power(*, cuts: int, seed: int) -> tuple[str, list[str]]:
    """Cut the power under the spool so often, and a few times on a disk that lies; return account and faults."""
    found = asyncio.run(power_cuts.run(cuts=cuts, seed=seed))
    control = asyncio.run(power_cuts.run(cuts=CONTROL_CUTS, seed=seed, is_lying=True))
    text = (
        f"{found.cuts:,} power cuts under the spool, at any write: "
        f"{found.acknowledged:,} times an acknowledged event met one, {len(found.lost)} lost; "
        f"settlements undone {len(found.unsettled)}, totals wrong {len(found.wrong)}\n"
        f"control, {control.cuts} cuts on a disk that lies about its syncs: {len(control.lost)} lost"
    )
    is_blind = [] if control.lost else ["the control lost nothing: the check proves nothing"]
    return text, [*found.lost, *found.unsettled, *found.wrong, *is_blind]


def main() -> None:
    """Run and print; exit 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description="Kill the daemon at random moments between faulty vendors.")
    parser.add_argument("--cycles", type=int, default=100, help="how many kills, or other faults")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no kill after so long")
    parser.add_argument("--power-cuts", type=int, default=500, help="how many power cuts under the spool")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - printed, no secret
    parser.add_argument(
        "--spool",
        choices=("sqlite", "postgres"),
        default="sqlite",
        help="postgres: several replicas, and its own faults",
    )
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    found: list[str] = []
    if options.cycles:
        started_s = time.monotonic()
        if options.spool == "postgres":
            story = asyncio.run(replicas.run(rounds=options.cycles, minutes=options.minutes, seed=options.seed))
        else:
            story = asyncio.run(run(kills=options.cycles, minutes=options.minutes, seed=options.seed))
        sys.stdout.write(f"{summary(story, seed=options.seed, took_s=time.monotonic() - started_s)}\n")
        found += wrong(story)
    if options.power_cuts and options.spool == "sqlite":
        text, faults = cut_power(cuts=options.power_cuts, seed=options.seed)
        sys.stdout.write(f"\n{text}\n")
        found += faults
    if found:
        parser.exit(1, "\n".join(["", "NOT KEPT:", *found[:40], ""]))


if __name__ == "__main__":
    main()
