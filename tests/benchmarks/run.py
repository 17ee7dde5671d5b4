"""One table: what the daemon takes and delivers, beside a bare handler and the SDK, in the same rounds on this machine.

Every round starts each server afresh, pinned to one core, with the load generator and the destinations on another. A
ratio is taken within its round; the table shows medians with the lowest and highest. Processor time per event stands
beside each rate, because it hardly depends on what else the machine does. Ends with the targets and what was reached.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load, replicas, rows
from benchmarks.rows import Figures

_HERE = Path(__file__).parent
_BARE, _KEPT, _DELIVERED = "bare handler", "webhook, kept (nothing delivers)", "webhook to delivered"
_BULK = "NDJSON of 100 to delivered"
_SPARE_MIN = 0.3

Round = dict[str, Figures]


def measurements(events: int) -> dict[str, Callable[[], Figures]]:
    """Return what a round measures, in its order."""
    bulk = 4 * events
    return {
        _BARE: partial(rows.bare, events),
        "handler calling rudder-sdk-python": partial(rows.bare, events // 4, with_sdk=True),
        _KEPT: partial(rows.kept, events, load.webhooks, per_request=1),
        _DELIVERED: partial(rows.delivered, events, load.webhooks, per_request=1),
        "NDJSON of 100, kept": partial(rows.kept, bulk, load.ndjson, per_request=load.NDJSON_LINES),
        _BULK: partial(rows.delivered, bulk, load.ndjson, per_request=load.NDJSON_LINES),
    }


def table(rounds: list[Round]) -> Iterator[str]:
    """Yield the lines of what was measured in rounds."""
    columns = (("events/s (range)", 28), ("of the bare handler", 24), ("µs of CPU an event", 24), ("p50 / p99 ms", 16))
    yield " " * 34 + "".join(f"{title:>{width}}" for title, width in columns)
    for name in rounds[0]:
        figures = [one[name] for one in rounds]
        ratios = [one[name].per_s / one[_BARE].per_s for one in rounds]
        p50, p99 = (
            statistics.median(each) for each in zip(*((one.p50_ms, one.p99_ms) for one in figures), strict=True)
        )
        yield (
            f"{name:34}{spread([one.per_s for one in figures], ',.0f'):30}{spread(ratios, '.2f'):24}"
            f"{spread([one.cpu_us for one in figures], '.0f'):24}{p50:6.1f} / {p99:.1f}"
        )
    everything = [figures for one in rounds for figures in one.values()]
    yield (
        f"lost {sum(one.lost for one in everything)}, twice on the wire {sum(one.twice for one in everything)}, "
        f"answered otherwise than 200 or not at all {sum(one.refused for one in everything)}, in all rows and rounds"
    )
    spare = min(one.spare for one in everything)
    yield f"share of the load's core that was spare, at least: {spare:.0%}" + (
        "" if spare >= _SPARE_MIN else f" (below {_SPARE_MIN:.0%}: the load may be the limit)"
    )


def backlogs(sizes: list[int]) -> Iterator[tuple[str, Figures]]:
    """Yield what draining measured, size after size."""
    for size in sizes:
        _progress(f"draining {size:,}")
        yield f"draining {size:,}", rows.drained(size)


def backlog_lines(found: dict[str, Figures]) -> Iterator[str]:
    """Yield the lines of what draining measured."""
    for name, figures in found.items():
        yield (
            f"{name:34}{figures.per_s:>9,.0f} events/s, {figures.cpu_us:.0f} µs CPU an event; "
            f"resident while all of it waits {figures.resident_mb:.0f} MB; lost {figures.lost}, twice {figures.twice}"
        )


def verdicts(rounds: list[Round], drained: list[Figures], calls: Figures) -> Iterator[str]:
    """Yield each target with what was reached."""

    def ratio(name: str) -> float:
        return statistics.median(one[name].per_s / one[_BARE].per_s for one in rounds)

    def slower(name: str) -> float:
        return statistics.median(one[name].p99_ms / one[_BARE].p99_ms for one in rounds)

    def by_cpu(name: str) -> str:
        found = statistics.median(one[_BARE].cpu_us / one[name].cpu_us for one in rounds)
        return f"  (by processor time {found:.2f}, the better measure on a busy machine)"

    yield target("webhook kept, of the bare handler", ratio(_KEPT), at_least=0.9) + by_cpu(_KEPT)
    yield target("webhook to delivered, of the bare handler", ratio(_DELIVERED), at_least=0.75) + by_cpu(_DELIVERED)
    yield target("NDJSON of 100 delivered, of the bare handler", ratio(_BULK), at_least=2.5) + by_cpu(_BULK)
    yield target("p99 of webhook to delivered, times the bare handler's", slower(_DELIVERED), at_most=3.0)
    possible = rows.IN_FLIGHT / rows.COURIER_MS * 1e3
    yield target(
        f"inbound, of the {possible:.0f}/s that {rows.IN_FLIGHT} in flight allow", calls.per_s / possible, at_least=0.8
    )
    if len(drained) > 1:
        rates = [one.per_s for one in drained]
        yield target("slowest drain, of the fastest", min(rates) / max(rates), at_least=0.9)
    if drained:
        yield target("resident MB with the largest backlog waiting", drained[-1].resident_mb, at_most=120)


def target(name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """Return one target's line."""
    if at_least is not None:
        wanted, is_met = f"≥ {at_least:g}", value >= at_least
    else:
        wanted, is_met = f"≤ {at_most:g}", at_most is not None and value <= at_most
    return f"  {name:58}{value:>8.2f}   target {wanted:8}{'met' if is_met else 'MISSED'}"


def spread(values: list[float], form: str) -> str:
    """Return median, lowest and highest as text."""
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:>9} ({low} to {high})"


def fsync_ms(times: int = 50) -> float:
    """Return this disk's median time to sync one small write."""
    Path("build").mkdir(exist_ok=True)
    spent: list[float] = []
    with tempfile.TemporaryFile(dir="build", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            started_s = time.perf_counter()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - started_s)
    return statistics.median(spent) * 1_000


def alone(script: str) -> dict[str, Any]:
    """Run one of our scripts that prints a JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}"],
        env=os.environ | {"PYTHON_DOTENV_DISABLED": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    """Measure in rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure the daemon beside a bare handler and the SDK.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=20_000, help="webhooks of each measurement of a round")
    parser.add_argument(
        "--backlogs", default="1000,100000,1000000", help="sizes to drain, comma-separated; empty: none"
    )
    parser.add_argument("--spool", choices=("sqlite", "postgres"), default="sqlite", help="postgres: 1, 2, 4 replicas")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.exit(1, "The load generator `wrk` is missing (Debian and Ubuntu: apt install wrk).\n")
    say = sys.stdout.write
    say(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, ")
    say(f"Python {platform.python_version()}; fsync of 4 KiB {fsync_ms():.2f} ms; ")
    say(f"{options.rounds} rounds of {options.events:,} events, {rows.CONNECTIONS} connections\n")
    sizes = [int(size) for size in options.backlogs.split(",") if size]
    if options.spool == "postgres":
        replicas.run(events=options.events, rounds=options.rounds, backlogs=sizes, say=say)
        return
    spine = alone("spine")
    say(f"package: {spine['package_lines']:,} lines in {spine['package_files']} files; ")
    say(f"one webhook's way: {spine['files']} files, {spine['functions']} functions, {spine['calls']} Python calls\n\n")
    rounds: list[Round] = []
    for number in range(options.rounds):
        done: Round = {}
        for name, measure in measurements(options.events).items():
            _progress(f"round {number + 1} of {options.rounds}: {name}")
            done[name] = measure()
        rounds.append(done)
    say("\n".join(table(rounds)) + "\n")
    _progress("inbound, a lone event, mapping")
    calls = rows.inbound(10 * rows.IN_FLIGHT * 20)
    say(f"{'inbound, Courier takes 50 ms':34}{calls.per_s:>9,.0f} events/s, {calls.cpu_us:.0f} µs CPU an event\n")
    say(f"{'a lone event, to the data plane':34}{rows.lone_event_ms():>9.1f} ms\n")
    for name, values in alone("mapping").items():
        say(f"{f'mapping one event, {name}':44}{spread(values, '.1f')} µs of CPU\n")
    drained = dict(backlogs(sizes))
    say("\n".join([*backlog_lines(drained), "", *verdicts(rounds, list(drained.values()), calls)]) + "\n")


if __name__ == "__main__":
    main()
