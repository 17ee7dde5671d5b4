"""A stand-in OpenTelemetry collector: takes OTLP over HTTP as protobuf, and keeps the spans."""

import gzip
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stand_ins.listener import Asked, Said, StandIn
from stand_ins.waiting import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSpan:
    """One exported span; ids in lower-case hex, "" for none."""

    name: str
    kind: int  # as in OTLP: 2 server, 3 client, 5 consumer
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]  # of the span ids
    attributes: dict[str, Any]
    is_error: bool
    service: str
    started_ns: int
    ended_ns: int


class Collector(StandIn):
    """Use it as an async context manager."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(self._answer, port=port)
        self.spans: list[SeenSpan] = []
        self.exports = 0

    async def _answer(self, asked: Asked) -> Said:
        if (asked.method, asked.path) != ("POST", "/v1/traces"):
            return Said(status=404, body=b"")
        is_packed = asked.headers.get("content-encoding") == "gzip"
        request = ExportTraceServiceRequest()
        request.ParseFromString(gzip.decompress(asked.body) if is_packed else asked.body)
        self.exports += 1
        for resource in request.resource_spans:
            about = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_seen(span, about["service.name"]) for span in scope.spans]
        return Said(status=200, body=b"")

    async def named(self, name: str, *, count: int = 1) -> list[SeenSpan]:
        """Wait until so many spans of this name were exported, and return them, oldest first."""

        def found() -> list[SeenSpan]:
            return sorted((span for span in self.spans if span.name == name), key=lambda span: span.started_ns)

        await wait_until(lambda: len(found()) >= count)
        return found()


def _seen(span: Any, service: str) -> SeenSpan:
    return SeenSpan(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple(link.span_id.hex() for link in span.links),
        attributes={one.key: _value(one.value) for one in span.attributes},
        is_error=span.status.code == 2,
        service=service,
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
    )


def _value(value: Any) -> object:
    return getattr(value, value.WhichOneof("value"))
