"""Hand a batch to the data plane: `POST /v1/batch`, framed from bytes that were encoded before.

One exchange, one answer. Nothing is retried, split or buried here; what the answer means is in `answers`.
"""

from base64 import b64encode
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from isal import igzip

from forwarder.errors import NoAnswer
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivered,
    Filtered,
    Held,
    HttpRequest,
    HttpResponse,
    Refused,
    TryLater,
    Verdict,
)
from forwarder.ports import Clock, Transport
from forwarder.rudderstack.answers import judge, judge_no_answer

# The gateway counts uncompressed bytes: exactly 4,096,000 pass, one more is 413 (Gateway.maxReqSizeInKB).
REQUEST_BYTES_MAX: Final = 4_096_000
# Above the gateway's own 10 s, after which it closes the connection without an answer.
TIMEOUT_S: Final = 30.0

_OPERATION: Final = "POST /v1/batch"
_ANSWER_KEPT_BYTES: Final = 2_048
_STAMP: Final = "2026-01-01T00:00:00.000Z"
_HEAD: Final = b'{"batch":['
_FAST: Final = 1
_UNREADABLE: Final = b"failed to read body from request"
_FAILURES_MAX: Final = 2  # a connection that breaks while the gateway reads is answered so as well
_BATCHES_MAX: Final = 1_000
_PLAIN_FOR_S: Final = 3_600.0


def framing_bytes(deliveries: int) -> int:
    """Return what a request of so many deliveries adds to the sum of their bodies."""
    head, tail, between = _framing(_STAMP)
    brackets_reused = deliveries  # each body's own "}" comes back with its `sentAt`
    return len(head) + len(tail) + len(between) * (deliveries - 1) - brackets_reused


def _framing(stamp: str) -> tuple[bytes, bytes, bytes]:
    # Every body is an object that ends in "}": it is reopened for its own `sentAt`. The gateway reads the
    # event's; the batch's is what the SDKs send beside it.
    close = f',"sentAt":"{stamp}"}}'.encode("ascii")
    return _HEAD, close + b"]" + close, close + b","


def frame(batch: Batch, *, sent_at_ms: int) -> bytes:
    """Return the request's body: `{"batch":[…],"sentAt":…}`, each event with a `sentAt` of its own."""
    moment = datetime.fromtimestamp(sent_at_ms / 1000, tz=UTC)
    head, tail, between = _framing(f"{moment:%Y-%m-%dT%H:%M:%S}.{sent_at_ms % 1000:03d}Z")
    bodies = [delivery.body[:-1] for delivery in batch.deliveries]
    bodies[0] = head + bodies[0]
    bodies[-1] += tail
    return between.join(bodies)  # the one copy of all of it


class WriteKey:
    """A source's write key. It shows itself to nobody but the request's header."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def replace(self, key: str) -> None:
        """Take another key; requests from now on carry it."""
        self._key = key

    def __repr__(self) -> str:
        """Hide the key."""
        return "WriteKey(***)"

    def authorization(self) -> str:
        """Return the header's value: Basic with the key as user and an empty password (RudderStack, HTTP API)."""
        return "Basic " + b64encode(f"{self._key}:".encode()).decode("ascii")


class Packing:
    """Whether the next request is packed: what is known of those that could not be read, by their first event. Pure.

    A gzip stream that something on the way mangles is answered like an outage (`failed to read body from
    request`, 500), for ever. So a batch that was answered so repeatedly is sent plain, before anybody cuts it in
    pieces; where plain gets through, requests stay plain for a while.
    """

    def __init__(self) -> None:
        self._unreadable: dict[int, int] = {}
        self._plain_until_s = 0.0

    def is_packed(self, first: int, *, now_s: float) -> bool:
        """Tell whether the batch that begins with this event goes packed."""
        return now_s >= self._plain_until_s and self._unreadable.get(first, 0) < _FAILURES_MAX

    def answered(self, first: int, status: int, body: bytes, *, was_packed: bool, now_s: float) -> None:
        """Learn from the answer to the batch that begins with this event."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR and body.strip().lower() == _UNREADABLE:
            if len(self._unreadable) >= _BATCHES_MAX:
                self._unreadable.clear()
            # Plain and unreadable as well: the packing is not to blame, and the count begins anew.
            self._unreadable[first] = self._unreadable.get(first, 0) + 1 if was_packed else 0
            return
        if self._unreadable.pop(first, 0) and not was_packed and status < HTTPStatus.MULTIPLE_CHOICES:
            self._plain_until_s = now_s + _PLAIN_FOR_S


class RudderstackSink:
    """`ports.Sink` over the data plane's HTTP API."""

    def __init__(
        self,
        *,
        transport: Transport,
        url: str,
        write_key: WriteKey,
        clock: Clock,
        timeout_s: float = TIMEOUT_S,
        mapping: str = "",
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._url = url.rstrip("/") + "/v1/batch"
        self._timeout_s = timeout_s
        self._write_key = write_key
        self._mapping = mapping  # its mark, kept with each attempt
        self._packing = Packing()

    async def send(self, batch: Batch) -> Answer:
        """Make one request of the batch and say what the answer means; see `ports.Sink`."""
        at_ms = self._clock.wall_ms()
        started_s = self._clock.monotonic_s()
        first = batch.deliveries[0].sequence
        is_packed = self._packing.is_packed(first, now_s=started_s)
        request = self.request(frame(batch, sent_at_ms=at_ms), is_packed=is_packed)
        response: HttpResponse | None = None
        verdict: Verdict
        try:
            response = await self._transport.exchange(request)
        except NoAnswer as error:
            verdict = judge_no_answer(error)
        else:
            verdict = judge(response.status, response.headers, response.body, now_ms=self._clock.wall_ms())
            self._packing.answered(first, response.status, response.body, was_packed=is_packed, now_s=started_s)
        attempt = Attempt(
            at_ms=at_ms,
            duration_ms=round((self._clock.monotonic_s() - started_s) * 1000),
            operation=_OPERATION,
            status=response.status if response else None,
            outcome=_outcome(verdict),
            reason="" if isinstance(verdict, Delivered) else verdict.reason,
            answer=response.body[:_ANSWER_KEPT_BYTES] if response else b"",
            mapping=self._mapping,
        )
        return Answer(verdict=verdict, attempt=attempt)

    def request(self, body: bytes, *, is_packed: bool) -> HttpRequest:
        """Return a request as it is sent."""
        # Asked for each request: the key may have been replaced.
        headers = {"Authorization": self._write_key.authorization(), "Content-Type": "application/json"}
        if is_packed:
            headers["Content-Encoding"] = "gzip"
        return HttpRequest(
            method="POST",
            url=self._url,
            headers=headers,
            body=igzip.compress(body, _FAST, mtime=0) if is_packed else body,
            timeout_s=self._timeout_s,
        )


def _outcome(verdict: Verdict) -> str:
    match verdict:
        case Delivered():
            return "delivered"
        case Filtered():
            return "filtered"
        case TryLater():
            return "try_later"
        case Refused():
            return "refused"
        case Held():
            return "held"
