"""What is measured: each function starts its servers afresh, runs one load and returns the figures of one row."""

import http.client
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import load
from benchmarks.load import Answers, send
from benchmarks.servers import INBOUND, LOAD_CORE, OUTBOUND, Server, Sink, bare_handler, daemon, sink

CONNECTIONS = 64
IN_FLIGHT = 32  # the default of FORWARDER_CONCURRENCY_MAX
COURIER_MS = 50.0
_FILL_CHUNK = 50_000

Requests = Callable[[Sequence[int]], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of one round. Times in milliseconds are of the answers to the senders."""

    per_s: float  # events: taken, or delivered where something delivers
    cpu_us: float  # of the server, per event
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    refused: int = 0
    lost: int = 0
    twice: int = 0
    spare: float = 1.0  # share of the load's core that nobody of ours used
    resident_mb: float = 0.0


class _Meter:
    """Processor time of a server and its sink from now on."""

    def __init__(self, server: Server, plane: Sink) -> None:
        self._server, self._plane = server, plane
        self._server_s, self._plane_s = server.cpu_s(), plane.cpu_s()

    def figures(self, answers: Answers, *, events: int, seconds: float, lost: int = 0, twice: int = 0) -> Figures:
        """Return the row; `seconds` from the first request to the last that counts."""
        load_s = answers.cpu_s + self._plane.cpu_s() - self._plane_s
        return Figures(
            per_s=events / seconds,
            cpu_us=(self._server.cpu_s() - self._server_s) / events * 1e6,
            p50_ms=answers.p50_ms,
            p99_ms=answers.p99_ms,
            refused=answers.refused + answers.broken,
            lost=lost,
            twice=twice,
            spare=1 - load_s / max(seconds, answers.seconds),
        )


def bare(events: int, *, with_sdk: bool = False) -> Figures:
    """Measure the bare handler, or the one that calls the SDK (which delivers, but is not waited for)."""
    with sink() as plane, bare_handler(plane.url if with_sdk else "") as server:
        meter = _Meter(server, plane)
        answers = _send(server, load.webhooks, range(events))
        return meter.figures(answers, events=answers.answered, seconds=answers.seconds)


def kept(events: int, requests: Requests, *, per_request: int) -> Figures:
    """Measure what the daemon takes while its route is paused."""
    with sink() as plane, daemon(plane.url) as server:
        server.pause(OUTBOUND)
        meter = _Meter(server, plane)
        answers = _send(server, requests, range(events))
        return meter.figures(answers, events=answers.answered * per_request, seconds=answers.seconds)


def delivered(events: int, requests: Requests, *, per_request: int) -> Figures:
    """Measure from the first request to the last arrival at the data plane, and what arrived."""
    with sink() as plane, daemon(plane.url) as server:
        meter = _Meter(server, plane)
        answers = _send(server, requests, range(events))
        plane.wait_for(answers.answered * per_request)
        accepted = server.accepted(OUTBOUND, at_least=answers.answered * per_request)
        arrived = plane.wait_for(accepted)
        return meter.figures(
            answers,
            events=accepted,
            seconds=arrived["last_s"] - answers.started_s,
            lost=accepted - int(arrived["distinct"]),
            twice=int(arrived["events"] - arrived["distinct"]),
        )


def drained(events: int) -> Figures:
    """Measure the delivery of a backlog, and the daemon's memory while all of it waits."""
    with sink() as plane, daemon(plane.url) as server:
        server.pause(OUTBOUND)
        for first in range(0, events, _FILL_CHUNK):
            _send(server, load.ndjson, range(first, min(events, first + _FILL_CHUNK) + load.NDJSON_LINES))
        accepted, resident_mb = server.accepted(OUTBOUND, at_least=events), server.resident_mb()
        server_s, started_s = server.cpu_s(), time.monotonic()
        server.resume(OUTBOUND)
        arrived = plane.wait_for(accepted)
        return Figures(
            per_s=accepted / (arrived["last_s"] - started_s),
            cpu_us=(server.cpu_s() - server_s) / accepted * 1e6,
            lost=accepted - int(arrived["distinct"]),
            twice=int(arrived["events"] - arrived["distinct"]),
            resident_mb=resident_mb,
        )


def inbound(events: int) -> Figures:
    """Measure calls to a Courier that takes 50 ms for each, one call an event, every user another.

    The rate is that of the second half: the first one is the adaptation of the concurrency from 8.
    """
    with sink(delay_ms=COURIER_MS) as courier, daemon(courier.url) as server:
        server_s = server.cpu_s()
        _send(server, load.sdk_batches, range(events + load.NDJSON_LINES))
        accepted = server.accepted(INBOUND, at_least=events)
        courier.wait_for(accepted, of="requests")
        times_s = courier.times_s()
        late = times_s[len(times_s) // 2 :]
        return Figures(
            per_s=(len(late) - 1) / (late[-1] - late[0]),
            cpu_us=(server.cpu_s() - server_s) / accepted * 1e6,
            lost=accepted - len(times_s),
        )


def lone_event_ms(events: int = 21) -> float:
    """Return the median time from the first byte of a webhook to its arrival at the data plane, on an idle daemon."""
    with sink() as plane, daemon(plane.url) as server:
        sent_s: list[float] = []
        for request in load.webhooks(range(events)):
            head, _, body = request.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.connect()
            sent_s.append(time.monotonic())
            connection.request("POST", "/webhooks/courier", body, headers)
            connection.getresponse().read()
            connection.close()
            plane.wait_for(len(sent_s), of="requests")
        return statistics.median(
            (arrived_s - at_s) * 1e3 for at_s, arrived_s in zip(sent_s, plane.times_s(), strict=True)
        )


def _send(server: Server, requests: Requests, numbers: Sequence[int]) -> Answers:
    return send(requests(numbers), port=server.port, connections=CONNECTIONS, core=LOAD_CORE)
