"""The real daemon under a steady load for an hour, its destinations failing now and then: does anything grow?

Resident memory, descriptors, threads, and the files and bytes of the data folder are sampled; the slope of the last
three quarters says whether they grow. The history is small, so that eviction works all the time.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proof.run import FAULT_S, Story, between_vendors
from proof.table import table
from proof.verdict import summary, wrong

PAUSE_S = 0.4  # of each of the senders: some 150 events a second
SETTINGS = {"FORWARDER_SPOOL_BYTES_MAX": "67108864"}
# What may look like growth over an hour without being a leak: fragments, caches that fill once.
GROWTH_MAX = {"resident MB": 12.0, "descriptors": 8.0, "threads": 2.0, "files": 8.0, "megabytes on disk": 12.0}
JUDGED_FROM_S = 1_500.0  # in a shorter run the warm-up, until the history is full, is all there is
_CUT = 4  # the first quarter is the warm-up


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one moment."""

    at_s: float
    values: dict[str, float]


def sample(pid: int, folder: Path) -> Sample:
    """Return what the daemon holds now (Linux)."""
    process = Path(f"/proc/{pid}")
    status = process.joinpath("status").read_text()

    def field(name: str) -> int:
        return int(status.partition(f"{name}:")[2].split()[0])

    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return Sample(
        at_s=time.monotonic(),
        values={
            "resident MB": field("VmRSS") / 1_024,
            "descriptors": len(list(process.joinpath("fd").iterdir())),
            "threads": field("Threads"),
            "files": len(sizes),
            "megabytes on disk": sum(sizes) / 1e6,
        },
    )


def per_hour(samples: Sequence[Sample], name: str) -> float:
    """Return how much a value grows in an hour, by the line through the last three quarters of its samples."""
    late = samples[len(samples) // _CUT :]
    line = statistics.linear_regression([one.at_s for one in late], [one.values[name] for one in late])
    return line.slope * 3_600


async def run(*, minutes: float, seed: int) -> tuple[Story, list[Sample]]:
    """Run the daemon for so long; return what was seen."""
    samples: list[Sample] = []
    async with between_vendors(seed=seed, pause_s=PAUSE_S, settings=SETTINGS) as (one, daemon, http):

        def take() -> None:
            if daemon.process is not None:
                samples.append(sample(daemon.process.pid, daemon.folder / "data"))

        await one.endure(http, max(8, round(minutes * 60 / (2 * FAULT_S))), take)
    return one.story, samples


def main() -> None:
    """Run and print; exit 1 when something grows or a promise was not kept."""
    parser = argparse.ArgumentParser(description="Run the daemon under load for long and see what grows.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - printed, no secret
    options = parser.parse_args()
    started_s = time.monotonic()
    story, samples = asyncio.run(run(minutes=options.minutes, seed=options.seed))
    took_s = time.monotonic() - started_s
    rows: dict[str, tuple[object, ...]] = {}
    growing: list[str] = []
    for name, most in GROWTH_MAX.items():
        values, slope = [one.values[name] for one in samples], per_hour(samples, name)
        if slope > most and took_s > JUDGED_FROM_S:
            growing.append(f"{name} grows by {slope:.1f} an hour")
        figures = (values[0], statistics.median(values), max(values), values[-1], slope)
        rows[name] = tuple(f"{figure:.1f}" for figure in figures)
    columns = ("first", "median", "most", "last", "an hour")
    sys.stdout.write(f"{summary(story, seed=options.seed, took_s=took_s)}\n\n{table(columns, rows)}\n")
    if took_s <= JUDGED_FROM_S:
        sys.stdout.write("Too short to judge the slopes: --minutes 30 or more.\n")
    if found := [*wrong(story), *growing]:
        parser.exit(1, "\n".join(["", "NOT KEPT:", *found[:40], ""]))


if __name__ == "__main__":
    main()
