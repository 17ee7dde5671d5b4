"""The real daemon on both routes between two faulty vendors, killed at random moments, again and again.

Every event is posted until it is acknowledged. At the end each must be where it belongs, exactly once; users' calls
must have taken effect in their order; every copy on the wire must have a reason; the totals of every scrape must
balance. The printed seed repeats the run's choices (not its timing).
"""

import argparse
import asyncio
import random
import sys
import time

from proof.run import Story, between_vendors
from proof.verdict import summary, wrong


async def run(*, kills: int, seed: int) -> Story:
    """Run the daemon between its vendors and kill it so often; return what was seen."""
    async with between_vendors(seed=seed) as (one, _, http):
        await one.live(http, kills)
    return one.story


def main() -> None:
    """Run and print; exit 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description="Kill the daemon at random moments between faulty vendors.")
    parser.add_argument("--cycles", type=int, default=100, help="how many kills")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - printed, no secret
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    started_s = time.monotonic()
    story = asyncio.run(run(kills=options.cycles, seed=options.seed))
    sys.stdout.write(f"{summary(story, seed=options.seed, took_s=time.monotonic() - started_s)}\n")
    if found := wrong(story):
        parser.exit(1, "\n".join(["", "NOT KEPT:", *found[:40], ""]))


if __name__ == "__main__":
    main()
