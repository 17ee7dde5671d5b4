"""Does looking cost? The same load with and without every live page open, in pairs on one daemon with a long history.

`python -m benchmarks.watched [--history 1000000] [--events 40000] [--rounds 7]` prints the rate with pages as a share
of the rate without (median of the pairs; the target is 0.95 or more), and how long each page took as its reader waits
for it, the load's queue before it included (the target is 200 ms or less).
"""

import argparse
import statistics
import sys
import threading
import time
from collections import defaultdict
from typing import Final, Self

from benchmarks import load
from benchmarks.load import send
from benchmarks.rows import CONNECTIONS
from benchmarks.servers import LOAD_CORE, OUTBOUND, Daemon, Sink, ask, daemon, sink

PAGES: Final = (
    "/",
    "/?range=7d",
    "/events",
    "/events?state=dead",
    "/incidents",
    "/destination-events",
    "/dead-letters",
)
_EVERY_S: Final = 1.0  # as the page's script asks
_CHUNK: Final = 50_000
_SHARE_MIN: Final = 0.95
_PAGE_MS_MAX: Final = 200.0


class Watchers:
    """One reader a page, each asking once a second, until left."""

    def __init__(self, server: Daemon) -> None:
        self._url = server.operator_url
        self._left = threading.Event()
        self._readers = [threading.Thread(target=self._read, args=(page,)) for page in PAGES]
        self.took_ms: defaultdict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        """Begin to read."""
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Read no more."""
        self._left.set()
        for reader in self._readers:
            reader.join()

    def _read(self, page: str) -> None:
        while not self._left.is_set():
            asked_s = time.monotonic()
            ask(self._url + page)
            self.took_ms[page].append((time.monotonic() - asked_s) * 1e3)
            self._left.wait(max(0.0, _EVERY_S - (time.monotonic() - asked_s)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    took_ms: defaultdict[str, list[float]] = defaultdict(list)
    shares: list[float] = []
    with sink() as plane, daemon(plane.url) as server:
        sent = 0
        for _ in range(0, given.history, _CHUNK):
            sent += _rate(server, plane, sent, min(_CHUNK, given.history))[0]
        for number in range(given.rounds):
            rates: dict[bool, float] = {}
            for is_watched in (False, True) if number % 2 else (True, False):
                watchers = Watchers(server)
                if is_watched:
                    with watchers:
                        count, rates[is_watched] = _rate(server, plane, sent, given.events)
                else:
                    count, rates[is_watched] = _rate(server, plane, sent, given.events)
                sent += count
                for page, times in watchers.took_ms.items():
                    took_ms[page] += times
            shares.append(rates[True] / rates[False])
            _tell(f"round {number + 1}: {rates[False]:,.0f}/s alone, {rates[True]:,.0f}/s watched")
    share = statistics.median(shares)
    lowest, highest = min(shares), max(shares)
    _tell(f"watched, of alone: {share:.2f} ({lowest:.2f}-{highest:.2f}); {_met(share >= _SHARE_MIN)}")
    for page, times in took_ms.items():
        slow = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
        _tell(f"{page:24} median {statistics.median(times):6.0f} ms, p95 {slow:6.0f} ms {_met(slow <= _PAGE_MS_MAX)}")


def _rate(server: Daemon, plane: Sink, first: int, events: int) -> tuple[int, float]:
    """Send so many more events; return how many were taken, and the rate until the last of them arrived."""
    before = server.accepted(OUTBOUND, at_least=0)
    answers = send(load.ndjson(range(first, first + events)), port=server.port, connections=CONNECTIONS, core=LOAD_CORE)
    accepted = server.accepted(OUTBOUND, at_least=before + events - load.NDJSON_LINES)
    arrived = plane.wait_for(accepted)
    return accepted - before, (accepted - before) / (arrived["last_s"] - answers.started_s)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _met(is_met: bool) -> str:  # noqa: FBT001  a word for a fact
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    main()
