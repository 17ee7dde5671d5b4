"""What the tests of Courier's sink share: a scripted transport, a clock that stands still, a memory."""

from collections.abc import Callable, Sequence

import pytest

from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.courier.tenant_order import TenantOrder
from forwarder.errors import NoAnswer
from forwarder.model import Batch, Delivery, HttpRequest, HttpResponse
from stand_ins.clock import HandClock
from stand_ins.kept_in_memory import KeptInMemory

NOW_MS = 1_767_225_600_000


class ScriptedTransport:
    """A transport that keeps the requests and gives the answers it was told, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.answers: list[HttpResponse | NoAnswer] = [HttpResponse(status=200, headers={}, body=b"{}", duration_s=0)]

    def answer(self, *answers: tuple[int, bytes] | NoAnswer, **headers: str) -> None:
        """Set the answers to come: status and body, or none at all."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers = [
            one
            if isinstance(one, NoAnswer)
            else HttpResponse(status=one[0], headers=named, body=one[1], duration_s=0.0)
            for one in answers
        ]

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Keep the request, and answer."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def operations(self) -> Sequence[str]:
        """Return method and path of every request so far."""
        return [f"{request.method} {request.url.removeprefix('https://api.courier.com')}" for request in self.requests]


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands still."""
    return HandClock(NOW_MS)


@pytest.fixture
def transport() -> ScriptedTransport:
    """Return a transport that answers 200 until told otherwise."""
    return ScriptedTransport()


@pytest.fixture
def memory() -> KeptInMemory:
    """Return a memory that survives whoever uses it."""
    return KeptInMemory()


@pytest.fixture
def sink(transport: ScriptedTransport, clock: HandClock, memory: KeptInMemory) -> CourierSink:
    """Return a sink over these."""
    client = CourierClient(transport, base_url="https://api.courier.com/", api_key="pk_test_secret", clock=clock)
    return CourierSink(client, TenantOrder(memory), clock=clock)


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Return a maker of batches of one delivery."""

    def make(
        operation: str, body: bytes = b"{}", *, group: str = "profiles", sequence: int = 1, key: str = "k1"
    ) -> Batch:
        delivery = Delivery(sequence=sequence, operation=operation, body=body, group=group, idempotency_key=key)
        return Batch(deliveries=(delivery,), size_bytes=len(body))

    return make
