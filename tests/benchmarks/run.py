"""One table: what the daemon takes and delivers, beside a bare handler and the SDK, in the same rounds on this machine.

Every round starts each server afresh, pinned to one core, with the sender and the data plane on another; the ratio is
taken within the round, and the table shows medians with the lowest and highest. Absent: longer runs, backlogs, memory.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

_HERE = Path(__file__).parent
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
_STREAMS = ("/api/stream?watch=overview", "/api/stream?watch=events&after=0")
_INHERITED = {
    name: value for name, value in os.environ.items() if not name.startswith(("FORWARDER_", "COURIER_", "RUDDERSTACK_"))
}


def free_port() -> int:
    """Return a port that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(command: list[str], *, port: int, path: str, cwd: str, env: dict[str, str]) -> Iterator[None]:
    """Run a server on a core of its own until the block ends; it is up when `path` answers at all."""
    process = subprocess.Popen(  # noqa: S603 - our own programs
        command, env={**_INHERITED, "PYTHON_DOTENV_DISABLED": "1", **env}, cwd=cwd, stdout=subprocess.DEVNULL
    )
    if len(_CORES) > 1:
        os.sched_setaffinity(process.pid, {_CORES[-1]})
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def load(**options: str | int) -> dict[str, float]:
    """Run the sender on the other core and return its figures."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(_HERE / "load.py"), *arguments],
        preexec_fn=(lambda: os.sched_setaffinity(0, {_CORES[0]})) if len(_CORES) > 1 else None,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@contextmanager
def pages_open(port: int, streams: Sequence[str]) -> Iterator[None]:
    """Follow these streams of the operator's page until the block ends, on the sender's core."""
    answers = [urllib.request.urlopen(f"http://127.0.0.1:{port}{stream}", timeout=10) for stream in streams]

    def follow(answer: HTTPResponse) -> None:
        if len(_CORES) > 1:
            os.sched_setaffinity(0, {_CORES[0]})
        with suppress(OSError, ValueError, AttributeError):  # closed under the reader
            while answer.readline():
                pass

    for answer in answers:
        threading.Thread(target=follow, args=(answer,), daemon=True).start()
    yield


def of_daemon(*, events: int, path: str, delivers: bool, streams: Sequence[str] = ()) -> dict[str, float]:
    """Measure the daemon with a spool of its own, on this checkout's disk; with no data plane it only keeps."""
    port, sink_port, operator_port = free_port(), free_port(), free_port()
    Path("build").mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=Path("build").resolve())
    env = {
        "RUDDERSTACK_WRITE_KEY": "benchmark",
        "RUDDERSTACK_DATA_PLANE_URL": f"http://127.0.0.1:{sink_port}",
        "COURIER_WEBHOOK_SECRET": "benchmark-secret",
        "FORWARDER_EVENTS_KEY": "benchmark-events-key",
        "FORWARDER_EVENTS": "all",
        "FORWARDER_LISTEN": f"127.0.0.1:{port}",
        "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{operator_port}",
        "FORWARDER_DATA_DIR": folder,
        "FORWARDER_LOG_LEVEL": "error",
    }
    try:
        command = [sys.executable, "-P", "-m", "forwarder", "run"]
        with (
            server(command, port=port, path="/readyz", cwd=folder, env=env),
            pages_open(operator_port, streams),
        ):
            return load(port=port, path=path, events=events, sink_port=sink_port if delivers else 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def of_handler(*, events: int, uses_sdk: bool) -> dict[str, float]:
    """Measure the bare handler, or the one that calls the SDK."""
    port, sink_port = free_port(), free_port()
    command = [sys.executable, str(_HERE / "bare.py"), f"--port={port}"]
    if uses_sdk:
        command.append(f"--sdk=http://127.0.0.1:{sink_port}")
    with server(command, port=port, path="/", cwd=str(_HERE), env={}):
        return load(port=port, events=events, sink_port=sink_port if uses_sdk else 0)


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


def spread(values: list[float], form: str) -> str:
    """Return median, lowest and highest as text."""
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:>9} ({low} to {high})"


def table(rounds: list[dict[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the result."""
    yield f"{'':34}{'events/s':>10} (range){'':12}{'of the bare handler':>22}{'':8}{'p50 / p99 ms':>14}"
    for name in rounds[0]:
        key = "delivered_per_s" if rounds[0][name]["delivered"] else "sent_per_s"
        rates = [one[name][key] for one in rounds]
        ratios = [one[name][key] / one["bare handler"]["sent_per_s"] for one in rounds]
        p50, p99 = (statistics.median(one[name][percentile] for one in rounds) for percentile in ("p50_ms", "p99_ms"))
        yield f"{name:34}{spread(rates, ',.0f'):32}{spread(ratios, '.2f'):26}{p50:8.1f} / {p99:.1f}"
    lost = sum(one["webhook to delivered"]["sent"] - one["webhook to delivered"]["delivered"] for one in rounds)
    again = sum(one["webhook to delivered"]["duplicates"] for one in rounds)
    kept = [
        one["the same with the page open"]["delivered_per_s"] / one["webhook to delivered"]["delivered_per_s"]
        for one in rounds
    ]
    yield f"with overview and live tail open, of the throughput without: {spread(kept, '.3f').strip()}"
    refused = sum(figures["refused"] for one in rounds for figures in one.values())
    yield f"webhook to delivered: lost {lost:.0f}, twice on the wire {again:.0f}"
    yield f"requests answered otherwise than 200, all rows: {refused:.0f}"


def mapping() -> Iterator[str]:
    """Yield what one event's mapping costs, ours and the SDK's."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(_HERE / "mapping.py")],
        env={**_INHERITED, "PYTHON_DOTENV_DISABLED": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    for name, values in json.loads(done.stdout).items():
        yield f"{f'mapping one event, {name}':44}{spread(values, '.1f')} µs of CPU"


def main() -> None:
    """Measure in rounds and print the table."""
    parser = argparse.ArgumentParser(description="Measure the daemon beside a bare handler and the SDK.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=20_000)
    options = parser.parse_args()
    say = sys.stdout.write
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}; ")
    say(f"fsync of 4 KiB {fsync_ms():.2f} ms; {options.rounds} rounds of {options.events} events, 64 connections\n")
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
        events = options.events
        rounds.append(
            {
                "bare handler": of_handler(events=events, uses_sdk=False),
                "handler calling rudder-sdk-python": of_handler(events=events, uses_sdk=True),
                "webhook, kept (nothing delivers)": of_daemon(events=events, path="/webhooks/courier", delivers=False),
                "NDJSON of 100, kept": of_daemon(events=events, path="/events", delivers=False),
                "webhook to delivered": of_daemon(events=events, path="/webhooks/courier", delivers=True),
                "the same with the page open": of_daemon(
                    events=events, path="/webhooks/courier", delivers=True, streams=_STREAMS
                ),
            }
        )
    say("\n".join([*table(rounds), *mapping()]) + "\n")


if __name__ == "__main__":
    main()
