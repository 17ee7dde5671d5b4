"""One delivery, one request, one verdict."""

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.errors import NoAnswer
from forwarder.model import Batch, Delivered, Refused, TryLater

BatchOf = Callable[..., Batch]


async def test_a_post_carries_key_and_idempotency(
    sink: CourierSink, transport: Any, clock: Any, batch_of: BatchOf
) -> None:
    """A POST carries the API key, the idempotency key, and its life of thirty days, and ends after ten seconds."""
    await sink.send(batch_of("POST /profiles/u%2F1", b'{"profile":{}}', key="abc"))
    (request,) = transport.requests
    assert request.url == "https://api.courier.com/profiles/u%2F1"
    assert (request.method, request.body, request.timeout_s) == ("POST", b'{"profile":{}}', 10)
    assert request.headers == {
        "Authorization": "Bearer pk_test_secret",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": "abc",
        "x-idempotency-expiration": str(clock.now_ms + 30 * 86_400_000),
    }


@pytest.mark.parametrize(
    ("operation", "body"),
    [("PUT /lists/l/subscriptions/u", b"{}"), ("DELETE /lists/l/subscriptions/u", b"")],
)
async def test_other_methods_carry_no_idempotency_key(
    operation: str, body: bytes, sink: CourierSink, transport: Any, batch_of: BatchOf
) -> None:
    """Courier takes idempotency keys on POST alone; a request without a body says nothing of its type."""
    await sink.send(batch_of(operation, body, group="lists", key="abc"))
    (request,) = transport.requests
    assert "Idempotency-Key" not in request.headers
    assert ("Content-Type" in request.headers) is bool(body)


async def test_no_key_sends_none(sink: CourierSink, transport: Any, batch_of: BatchOf) -> None:
    """A delivery without an idempotency key is sent without one."""
    await sink.send(batch_of("POST /send", group="send", key=""))
    assert "Idempotency-Key" not in transport.requests[0].headers


async def test_an_attempt_is_told_as_it_was(sink: CourierSink, transport: Any, clock: Any, batch_of: BatchOf) -> None:
    """The attempt holds time, operation, status, outcome, reason and the first two kilobytes of the answer."""
    transport.answer((400, b"x" * 5_000))
    answer = await sink.send(batch_of("POST /profiles/u1"))
    assert isinstance(answer.verdict, Refused)
    attempt = answer.attempt
    assert (attempt.at_ms, attempt.operation, attempt.status) == (clock.now_ms, "POST /profiles/u1", 400)
    assert (attempt.outcome, attempt.reason, len(attempt.answer)) == ("refused", answer.verdict.reason, 2_048)
    transport.answer((200, b"{}"))
    done = await sink.send(batch_of("POST /profiles/u1"))
    assert isinstance(done.verdict, Delivered)
    assert (done.attempt.outcome, done.attempt.reason) == ("delivered", "")


async def test_no_answer_is_an_attempt_too(sink: CourierSink, transport: Any, batch_of: BatchOf) -> None:
    """An exchange without an answer has no status, and is for later."""
    transport.answer(NoAnswer("time-out", request_left=True))
    answer = await sink.send(batch_of("POST /profiles/u1"))
    assert isinstance(answer.verdict, TryLater)
    assert (answer.attempt.status, answer.attempt.answer, answer.attempt.outcome) == (None, b"", "try_later")


async def test_the_client_never_shows_its_key(transport: Any, clock: Any) -> None:
    """Printing the client names the address alone."""
    client = CourierClient(transport, base_url="https://api.eu.courier.com", api_key="pk_secret", clock=clock)
    assert repr(client) == "CourierClient(https://api.eu.courier.com)"
    await client.call("GET /tenants/t1", b"")
    assert transport.requests[0].url == "https://api.eu.courier.com/tenants/t1"


async def test_a_key_that_is_replaced_is_sent_from_then_on(transport: Any, clock: Any) -> None:
    """Rotation needs no new client."""
    client = CourierClient(transport, base_url="https://api.courier.com", api_key="old", clock=clock)
    await client.call("GET /tenants/t1", b"")
    client.replace_key("new")
    await client.call("GET /tenants/t1", b"")
    assert [one.headers["Authorization"] for one in transport.requests] == ["Bearer old", "Bearer new"]
