"""Requests made and signed before the clock starts, and `wrk` (a load generator in C) that sends them.

`wrk` keeps each connection busy and times every answer; it shares its core with the sink, so its own processor time is
given beside what it measured.
"""

import hashlib
import hmac
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

SECRET = "benchmark-secret"  # invented, for both sides of one run
EVENTS_KEY = "benchmark-events-key"
INBOUND_KEY = "benchmark-inbound-key"
NDJSON_LINES = 100
_SCRIPT = Path(__file__).with_name("load.lua")


class NoLoadGenerator(Exception):
    """`wrk` is not installed (Debian and Ubuntu: apt install wrk)."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the senders saw; `refused` were answered 400 or above, `broken` not at all."""

    answered: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    started_s: float  # when the first request left, on the machine's monotonic clock
    cpu_s: float  # of the load generator itself, while it sent


def webhook(number: int) -> bytes:
    """Return the body of one webhook in Courier's shape, about 700 bytes, of a message of its own."""
    at_ms = 1_750_000_000_000 + number
    template = "SFTYJKSF0241SVH2TWY97TTFFTQG"
    provider = {
        "provider": "sendgrid",
        "status": "DELIVERED",
        "channel": {"key": "email", "name": "Email", "template": template},
        "sent": at_ms + 1_974,
        "delivered": at_ms + 34_991,
        "reference": {"x-message-id": f"msg-{number:012d}", "pool": "transactional"},
    }
    data = {
        "id": f"1-{number:08x}-15f7d6ba51bf229857c037a7",
        "status": "DELIVERED",
        "enqueued": at_ms,
        "sent": at_ms + 1_974,
        "delivered": at_ms + 34_991,
        "event": template,
        "notification": template,
        "recipient": f"user-{number % 5_000}",
        "recipientId": f"user-{number % 5_000}",
        "providers": [provider],
    }
    return orjson.dumps({"type": "message:updated", "data": data})


def identify(number: int) -> bytes:
    """Return one identify call of a user of its own."""
    event = {"type": "identify", "userId": f"user-{number}", "messageId": f"m-{number}", "traits": {"n": number}}
    return orjson.dumps(event)


def webhooks(numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield one signed webhook a request."""
    for number in numbers:
        body = webhook(number)
        at_ms = str(time.time_ns() // 1_000_000)
        signature = hmac.digest(SECRET.encode(), at_ms.encode() + b"." + body, hashlib.sha256).hex()
        yield _request("/webhooks/courier", body, f"courier-signature: t={at_ms},signature={signature}\r\n")


def ndjson(numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield a hundred events of the internal bus a request."""
    for first in range(0, len(numbers), NDJSON_LINES):
        body = b"\n".join(webhook(number) for number in numbers[first : first + NDJSON_LINES])
        yield _request("/events", body, f"Authorization: Bearer {EVENTS_KEY}\r\n")


def sdk_batches(numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield a hundred calls of an SDK a request."""
    for first in range(0, len(numbers), NDJSON_LINES):
        events = b",".join(identify(number) for number in numbers[first : first + NDJSON_LINES])
        yield _request("/v1/batch", b'{"batch":[' + events + b"]}", f"Authorization: Bearer {INBOUND_KEY}\r\n")


def send(requests: Iterator[bytes], *, port: int, connections: int, core: int | None) -> Answers:
    """Send each request once over so many connections and return what came of it."""
    if shutil.which("wrk") is None:
        raise NoLoadGenerator
    with tempfile.NamedTemporaryFile(prefix="bench-requests-") as file:
        for request in requests:
            file.write(b"%d\n%b" % (len(request), request))
        file.flush()
        pin = ["taskset", "--cpu-list", str(core)] if core is not None else []
        wrk = ["wrk", "-t1", f"-c{connections}", "-d600s", "--timeout", "60s", "-s", str(_SCRIPT)]
        done = subprocess.run(
            [*pin, *wrk, f"http://127.0.0.1:{port}", "--", file.name], stdout=subprocess.PIPE, check=True, timeout=700
        )
    return Answers(**json.loads(done.stdout.splitlines()[-1]))


def _request(path: str, body: bytes, headers: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
