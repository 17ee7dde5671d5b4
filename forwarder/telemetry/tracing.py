"""What tracing is to those who are traced; `open_telemetry` makes the spans, and is imported only where it is on."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from forwarder.model import Answer, Batch, Envelope, Lease, RouteName
from forwarder.ports import Transport

Send = Callable[[Batch], Awaitable[Answer]]
EndReceipt = Callable[[int | None], None]  # with the HTTP status of the answer; None for a message of a bus


class Tracing(Protocol):
    """Follow events from their receipt over the spool to their delivery. Neither raises nor blocks."""

    def receive(
        self, envelopes: Sequence[Envelope], *, origin: str, traceparent: str, started_s: float
    ) -> tuple[list[Envelope], EndReceipt]:
        """Begin the span of a request or message with these events; return them with its context, and what ends it.

        `origin` is the endpoint ("/events") or the bus ("nats"), `traceparent` the header ("" without one), `started_s`
        the monotonic time when it began to come.
        """

    async def deliver(self, send: Send, batch: Batch, leases: Sequence[Lease], *, route: RouteName) -> Answer:
        """Send within a span that goes on where the events of these leases were received."""

    def transport(self, transport: Transport) -> Transport:
        """Return the transport with a span for each exchange, whose context the request carries."""

    async def close(self) -> None:
        """Export what is left, within a few seconds."""
