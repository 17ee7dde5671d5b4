"""When a request goes packed, and when plain."""

import gzip
import json

from forwarder.delivery.flights import batch_of
from forwarder.model import Delivered, Delivery, HttpRequest, HttpResponse, TryLater
from forwarder.rudderstack.sink import Packing, RudderstackSink, WriteKey

UNREADABLE = b"failed to read body from request\n"


def _fail(packing: Packing, times: int, *, was_packed: bool = True) -> None:
    for _ in range(times):
        packing.answered(7, 500, UNREADABLE, was_packed=was_packed, now_s=0.0)


def test_one_unreadable_answer_proves_nothing() -> None:
    """A connection that broke once does not change how a batch is sent; the second time it goes plain."""
    packing = Packing()
    _fail(packing, 1)
    assert packing.is_packed(7, now_s=0.0)
    _fail(packing, 1)
    assert not packing.is_packed(7, now_s=0.0)
    assert packing.is_packed(8, now_s=0.0)


def test_plain_that_gets_through_is_kept_for_an_hour() -> None:
    """Where only plain requests can be read, all go plain; after an hour packing is tried again."""
    packing = Packing()
    _fail(packing, 2)
    packing.answered(7, 200, b"ok", was_packed=False, now_s=10.0)
    assert not packing.is_packed(8, now_s=11.0)
    assert packing.is_packed(8, now_s=3_610.0)


def test_plain_that_fails_too_is_packed_again() -> None:
    """What cannot be read plain either is no matter of packing."""
    packing = Packing()
    _fail(packing, 2)
    _fail(packing, 1, was_packed=False)
    assert packing.is_packed(7, now_s=0.0)


def test_other_answers_change_nothing() -> None:
    """Another 500, and a success of a packed batch, leave requests packed."""
    packing = Packing()
    packing.answered(7, 500, b"oops", was_packed=True, now_s=0.0)
    _fail(packing, 1)
    packing.answered(7, 200, b"ok", was_packed=True, now_s=0.0)
    _fail(packing, 1)
    assert packing.is_packed(7, now_s=0.0)


def test_memory_is_bounded() -> None:
    """Many different batches that cannot be read do not make memory grow."""
    packing = Packing()
    for first in range(5_000):
        packing.answered(first, 500, UNREADABLE, was_packed=True, now_s=0.0)
    assert packing.is_packed(4_999, now_s=0.0)


class Still:
    """A clock that stands."""

    def wall_ms(self) -> int:
        """Return a moment."""
        return 1_800_000_000_000

    def monotonic_s(self) -> float:
        """Return a time."""
        return 50.0


class Mangling:
    """`ports.Transport`: something on the way that breaks packed bodies."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Read plain requests only."""
        self.requests.append(request)
        is_packed = "Content-Encoding" in request.headers
        status, body = (500, UNREADABLE) if is_packed else (200, b"ok")
        return HttpResponse(status=status, headers={}, body=body, duration_s=0.0)


async def test_a_mangling_proxy_does_not_stop_delivery() -> None:
    """A batch gets through on its third try, plain and complete; the next one at once."""
    wire = Mangling()
    sink = RudderstackSink(transport=wire, url="https://dp.example.com", write_key=WriteKey("k"), clock=Still())
    batch = batch_of([Delivery(sequence=1, operation="track", body=b'{"event":"a"}')])
    verdicts = [(await sink.send(batch)).verdict for _ in range(3)]
    assert [type(verdict) for verdict in verdicts] == [TryLater, TryLater, Delivered]
    assert json.loads(wire.requests[2].body)["batch"][0]["event"] == "a"
    assert gzip.decompress(wire.requests[0].body) == wire.requests[2].body
    other = batch_of([Delivery(sequence=2, operation="track", body=b'{"event":"b"}')])
    assert (await sink.send(other)).verdict == Delivered()
    assert len(wire.requests) == 4
