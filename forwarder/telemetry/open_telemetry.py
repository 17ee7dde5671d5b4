"""Spans from receipt to delivery by the OpenTelemetry SDK, configured by its own `OTEL_*` variables.

    receipt (server) ── traceparent kept with the event ──> delivery (consumer) ──> exchange (client) ──> traceparent

One delivery may hold events of many receipts: it is the child of the first one that is sampled, so that whatever the
sampler the trace goes on, and linked to the others. Spans hold names from closed sets and counts, never a label, an id
or a URL's path (law 8). Nothing here is global: no provider is set, no library instrumented.
"""

import asyncio
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from forwarder import __version__
from forwarder.errors import NoAnswer
from forwarder.model import (
    Answer,
    Batch,
    Envelope,
    Held,
    HttpRequest,
    HttpResponse,
    Lease,
    Refused,
    RouteName,
    TryLater,
)
from forwarder.ports import Transport
from forwarder.telemetry.tracing import EndReceipt, Send

EXPORTERS: Final[Mapping[str, type[SpanExporter]]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
SUCCESS: Final = SpanExportResult.SUCCESS
_FLUSH_MAX_S: Final = 3.0  # well within what is left of the process after its drain
# https://www.w3.org/TR/trace-context/#traceparent-header: a later version may have more behind these four fields.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_ERRORS_FROM: Final = 400  # of a client's span; a server's only from 500
_SERVER_ERRORS_FROM: Final = 500


def context_of(traceparent: object) -> SpanContext | None:
    """Read a traceparent; None when it is none."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups()[1:4])
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))


def traceparent_of(span: Span) -> str:
    """Write the context of a span as a traceparent: 55 characters."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & TraceFlags.SAMPLED:02x}"


class OpenTelemetry:
    """`tracing.Tracing` by the SDK. `is_propagated` False: nothing is taken from the wire, nor put on it."""

    def __init__(self, exporters: Sequence[SpanExporter], *, is_propagated: bool) -> None:
        """Begin to export; what does not go through is told by the SDK's own warnings."""
        self._is_propagated = is_propagated
        # What the operator set wins over what we know.
        about = Resource.create({"service.name": "forwarder", "service.version": __version__})
        self._provider = TracerProvider(resource=about.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("forwarder", __version__)

    def receive(
        self, envelopes: Sequence[Envelope], *, origin: str, traceparent: str, started_s: float
    ) -> tuple[list[Envelope], EndReceipt]:
        """Begin the span of a request or message; see `tracing.Tracing`."""
        is_request = origin.startswith("/")
        span = self._tracer.start_span(
            f"receive {origin}",
            context=_within(context_of(traceparent.strip()) if self._is_propagated else None),
            kind=SpanKind.SERVER if is_request else SpanKind.CONSUMER,
            attributes={"http.route" if is_request else "messaging.system": origin, "forwarder.events": len(envelopes)},
            start_time=time.time_ns() - round((time.monotonic() - started_s) * 1e9),
        )
        text = traceparent_of(span)
        return [msgspec.structs.replace(one, trace=text) for one in envelopes], partial(_end_receipt, span)

    async def deliver(self, send: Send, batch: Batch, leases: Sequence[Lease], *, route: RouteName) -> Answer:
        """Send within a span; see `tracing.Tracing`."""
        texts = dict.fromkeys(lease.envelope.trace for lease in leases)
        found = [context for context in map(context_of, texts) if context is not None]
        sampled = [context for context in found if context.trace_flags.sampled]
        parent = next(iter(sampled or found), None)
        with self._tracer.start_as_current_span(
            f"deliver {route.value}",
            context=_within(parent),
            kind=SpanKind.CONSUMER,
            links=[Link(context) for context in sampled[1:]],
            attributes={
                "forwarder.route": route.value,
                "forwarder.events": len(leases),
                "forwarder.attempt": leases[0].attempt,
            },
            record_exception=False,  # its text may quote a payload
            set_status_on_exception=False,
        ) as span:
            answer = await send(batch)
            span.set_attribute("forwarder.outcome", answer.attempt.outcome)
            if isinstance(answer.verdict, TryLater | Held | Refused):
                span.set_status(StatusCode.ERROR, answer.verdict.reason)
            return answer

    def transport(self, transport: Transport) -> Transport:
        """Return the transport with spans; see `tracing.Tracing`."""
        return _TracedTransport(transport, self._tracer, is_propagated=self._is_propagated)

    async def close(self) -> None:
        """Export what is left, for at most three seconds; see `tracing.Tracing`."""
        loop, is_done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(is_done.set)

        # The SDK waits for up to 30 s, on the thread that asks; a thread of the loop's executor would be waited for.
        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(is_done.wait(), _FLUSH_MAX_S)


class _TracedTransport:
    def __init__(self, transport: Transport, tracer: Any, *, is_propagated: bool) -> None:
        self._transport = transport
        self._tracer = tracer
        self._is_propagated = is_propagated

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        address = urlsplit(request.url)
        about: dict[str, str | int] = {"http.request.method": request.method, "server.address": address.hostname or ""}
        if address.port is not None:
            about["server.port"] = address.port
        with self._tracer.start_as_current_span(
            request.method,
            kind=SpanKind.CLIENT,
            attributes=about,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if self._is_propagated:
                request = replace(request, headers={**request.headers, "traceparent": traceparent_of(span)})
            try:
                response = await self._transport.exchange(request)
            except NoAnswer as error:
                span.set_status(StatusCode.ERROR, str(error))
                raise
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= _ERRORS_FROM:
                span.set_status(StatusCode.ERROR)
            return response


def _within(parent: SpanContext | None) -> Context:
    """Return the context of a span that goes on here, or of none: never the one that happens to be current."""
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def _end_receipt(span: Span, status: int | None) -> None:
    if status is not None:
        span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERRORS_FROM:
            span.set_status(StatusCode.ERROR)
    span.end()
