"""The data plane's answers, the frame of a request, and one exchange."""

import base64
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forwarder.delivery.flights import batch_of
from forwarder.errors import NoAnswer, TakenOver
from forwarder.model import Delivered, Delivery, Effect, Held, HttpRequest, HttpResponse, Refused, TryLater
from forwarder.retry_after import retry_after_s
from forwarder.rudderstack.answers import judge, judge_no_answer
from forwarder.rudderstack.sink import REQUEST_BYTES_MAX, RudderstackSink, WriteKey, frame, framing_bytes

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "gateway_responses.json").read_text("utf-8")
)
CLASSES = {"ok": Delivered, "retry": TryLater, "split": Refused, "poison_isolate": Refused, "pause": Held}
NOW_MS = int(datetime(2026, 1, 1, 0, 5, tzinfo=UTC).timestamp() * 1000)


class Clock:
    """A clock that moves by a quarter of a second at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def wall_ms(self) -> int:
        """Return a fixed moment."""
        return NOW_MS

    def monotonic_s(self) -> float:
        """Return a growing time."""
        self.now_s += 0.25
        return self.now_s


class Wire:
    """`ports.Transport`: gives one answer, keeps the request."""

    def __init__(self, answer: HttpResponse | NoAnswer) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        self.requests.append(request)
        if isinstance(self.answer, NoAnswer):
            raise self.answer
        return self.answer


def _sink(answer: HttpResponse | NoAnswer) -> tuple[RudderstackSink, Wire]:
    wire = Wire(answer)
    sink = RudderstackSink(transport=wire, url="https://dp.example.com/", write_key=WriteKey("the-key"), clock=Clock())
    return sink, wire


def _batch(*bodies: bytes) -> Any:
    return batch_of([Delivery(sequence=n, operation="track", body=body) for n, body in enumerate(bodies, 1)])


def _response(status: int, headers: dict[str, str], body: bytes) -> HttpResponse:
    return HttpResponse(status=status, headers=headers, body=body, duration_s=0.1)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_every_answer_means_what_it_should(case: dict[str, Any]) -> None:
    """Each known answer leads to its class of verdict, and its words stay out of the reason."""
    answer: HttpResponse | NoAnswer
    if case["status"] is None:
        answer = NoAnswer(case["name"], request_left=case["name"] in {"read_timeout", "connection_reset"})
    else:
        headers = {name.lower(): value for name, value in case["headers"].items()}
        answer = _response(case["status"], headers, case["body"].encode())
    sink, _ = _sink(answer)
    result = await sink.send(_batch(b'{"a":1}'))
    assert isinstance(result.verdict, CLASSES[case["class"]])
    assert result.attempt.status == case["status"]
    if not isinstance(result.verdict, Delivered):
        assert result.attempt.reason == result.verdict.reason
        assert len(result.verdict.reason) < 80
        if case["source"] == "proxy" and case["body"]:
            assert case["body"].strip() not in result.verdict.reason


def test_every_status_has_a_verdict() -> None:
    """No status is without a meaning, and only a 2xx can mean delivered."""
    for status in (*range(100, 600), 600, 999):
        verdict = judge(status, {}, b"", now_ms=NOW_MS)
        assert not isinstance(verdict, Delivered) or 200 < status < 300


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("30", 30.0),
        (" 7 ", 7.0),
        ("0", None),
        ("86400000", 300.0),
        ("9" * 5_000, 300.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0663", None),
        ("Thu, 01 Jan 2026 00:06:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 00:06:00", 60.0),
        ("Thu, 01 Jan 2026 00:10:01 GMT", 300.0),
        ("Thu, 01 Jan 2026 00:04:00 GMT", None),
        ("Thu, 01 Jan 99999 00:04:00 GMT", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    """Seconds and dates are read, capped at five minutes; the rest is ignored."""
    assert retry_after_s(value, now_ms=NOW_MS) == wait_s


@pytest.mark.parametrize(("status", "effect"), [(429, Effect.NONE), (500, Effect.ANSWERED), (408, Effect.ANSWERED)])
def test_effect(status: int, effect: Effect) -> None:
    """A 429 did nothing; what a received 5xx did is not known."""
    verdict = judge(status, {"retry-after": "2"}, b"", now_ms=NOW_MS)
    assert isinstance(verdict, TryLater)
    assert (verdict.effect, verdict.after_s, verdict.scope) == (effect, 2.0, "route")


@pytest.mark.parametrize(("left", "effect"), [(True, Effect.UNKNOWN), (False, Effect.NONE)])
async def test_no_answer(left: bool, effect: Effect) -> None:  # noqa: FBT001 - a table's column
    """Without an answer the effect is unknown, unless the request certainly stayed here."""
    sink, _ = _sink(NoAnswer("time-out", request_left=left))
    answer = await sink.send(_batch(b'{"a":1}'))
    assert answer.verdict == TryLater(reason="time-out", after_s=None, scope="route", effect=effect)
    assert (answer.attempt.status, answer.attempt.answer, answer.attempt.duration_ms) == (None, b"", 250)


def test_an_answer_that_cannot_be_read_is_a_hold() -> None:
    """It would come again and again: copies are not sent without end, one event probes. So with a proxy's refusal."""
    for left, effect in ((True, Effect.UNKNOWN), (False, Effect.NONE)):
        verdict = judge_no_answer(NoAnswer("unreadable", request_left=left, is_lasting=True))
        assert verdict == Held(reason="unreadable", scope="route", effect=effect)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"Source is disabled\n", "404: the source is disabled"), (b"<html>", "404: the address is not a data plane's")],
)
def test_a_disabled_source_is_not_the_addresss_fault(body: bytes, reason: str) -> None:
    """A 404 in the gateway's words and one of something else lead to different remedies."""
    assert judge(404, {}, body, now_ms=0) == Held(reason=reason, scope="route")


async def test_request() -> None:
    """The request is the SDKs' own: path, Basic key, gzip, `batch` and `sentAt`."""
    sink, wire = _sink(_response(200, {}, b"ok"))
    answer = await sink.send(_batch(b'{"event":"a"}', b'{"event":"b"}'))
    (request,) = wire.requests
    assert (request.method, request.url, request.timeout_s) == ("POST", "https://dp.example.com/v1/batch", 30.0)
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"the-key:"
    assert request.headers["Content-Encoding"] == "gzip"
    sent_at = "2026-01-01T00:05:00.000Z"
    assert json.loads(gzip.decompress(request.body)) == {
        "batch": [{"event": "a", "sentAt": sent_at}, {"event": "b", "sentAt": sent_at}],
        "sentAt": sent_at,
    }
    assert answer.attempt.operation == "POST /v1/batch"
    assert answer.attempt.outcome == "delivered"


async def test_same_batch_same_bytes() -> None:
    """Packing leaves no time of its own in the bytes."""
    sink, wire = _sink(_response(200, {}, b"ok"))
    await sink.send(_batch(b'{"event":"a"}'))
    await sink.send(_batch(b'{"event":"a"}'))
    assert wire.requests[0].body == wire.requests[1].body


async def test_answer_is_kept_in_part() -> None:
    """At most 2,048 bytes of an answer are kept."""
    sink, _ = _sink(_response(400, {}, b"x" * 5_000))
    answer = await sink.send(_batch(b'{"a":1}'))
    assert answer.attempt.answer == b"x" * 2_048
    assert answer.attempt.outcome == "refused"


@pytest.mark.parametrize("count", [1, 2, 100])
def test_framing_is_exact(count: int) -> None:
    """What a frame adds to the bodies is known to the byte."""
    batch = _batch(*[b'{"a":1}'] * count)
    assert len(frame(batch, sent_at_ms=NOW_MS)) == batch.size_bytes + framing_bytes(count)
    assert framing_bytes(1) < 100 < REQUEST_BYTES_MAX


async def test_a_key_that_is_replaced_is_sent_from_then_on() -> None:
    """Rotation needs no new sink."""
    wire, key = Wire(_response(200, {}, b"ok")), WriteKey("old")
    sink = RudderstackSink(transport=wire, url="https://dp.example.com/", write_key=key, clock=Clock())
    await sink.send(_batch(b'{"a":1}'))
    key.replace("new")
    await sink.send(_batch(b'{"a":1}'))
    assert [base64.b64decode(one.headers["Authorization"].removeprefix("Basic ")) for one in wire.requests] == [
        b"old:",
        b"new:",
    ]


def test_key_is_hidden() -> None:
    """The write key does not show in a repr."""
    assert "the-key" not in repr(WriteKey("the-key"))


def test_what_another_replica_may_have_is_no_standstill() -> None:
    """The request was not made: its events alone are given back, and the route does not wait."""
    assert judge_no_answer(TakenOver()) == TryLater(
        reason="another replica may have taken this over", after_s=None, scope="replica", effect=Effect.NONE
    )
