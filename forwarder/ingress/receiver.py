"""Take events in: judge the sender, cut the body into envelopes, and say what was stored of them.

Two steps, so that no body is read before its sender is known as far as the head can tell: `admit` judges the head,
`accept` and `accept_webhook` the body. All are synchronous and know no socket: between them the body is read, after
them the envelopes go to the spool in one append, and `committed` or `rolled_back` has the answer. What the events mean
is not judged here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from forwarder.courier import wire as courier_wire
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress import cutting, elements
from forwarder.ingress.admission import Admission, Admissions, EndpointSettings, Headers
from forwarder.ingress.cutting import Steps
from forwarder.ingress.elements import Element, NotJson, TooManyElements
from forwarder.ingress.endpoints import WEBHOOK, BodyFormat, Endpoint, ReplyFormat
from forwarder.ingress.proof import Proofs
from forwarder.ingress.replies import ONE_ACCEPTED, Rejected, Reply, accepted, draining
from forwarder.model import Envelope, Receipt, RouteName
from forwarder.ports import Clock
from forwarder.rudderstack import wire as rudderstack_wire
from forwarder.telemetry.reporter import Reporter

_ELEMENTS_PER_STEP = 200
_NOTHING = Receipt(accepted=0, duplicates=0)


def _unique() -> bytes:
    return os.urandom(16)


class Receiver:
    """Everything behind the paths that take events."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        clock: Clock,
        reporter: Reporter,
        unique: Callable[[], bytes] = _unique,
    ) -> None:
        """Keep the collaborators. `unique` makes bytes never made before, for events that carry nothing unique."""
        self._admissions = Admissions(settings)
        self._proofs = Proofs(settings)
        self._clock = clock
        self._reporter = reporter
        self._unique = unique
        self.body_bytes_max = settings.body_bytes_max

    def set_up(self, settings: EndpointSettings) -> None:
        """Use other settings from now on, such as rotated secrets. What was admitted before is judged by these, too."""
        is_draining = self.is_draining
        self._admissions = Admissions(settings)
        self._admissions.is_draining = is_draining
        self._proofs = Proofs(settings)
        self.body_bytes_max = settings.body_bytes_max

    @property
    def is_draining(self) -> bool:
        """Tell whether every endpoint answers 503."""
        return self._admissions.is_draining

    def open_paths(self) -> list[str]:
        """Return the paths that take events now."""
        return self._admissions.open_paths()

    def drain(self) -> None:
        """Answer 503 to whatever comes from now on. What was admitted before is still taken."""
        self._admissions.is_draining = True

    def admit(self, endpoint: Endpoint, method: bytes, headers: Headers, query: bytes) -> Admission | Reply:
        """Judge a request by everything but its body; a `Reply` ends it there."""
        try:
            if method not in endpoint.methods:
                raise _method_wrong(endpoint)
            return self._admissions.admit(endpoint, headers, query)
        except Rejected as rejected:
            return self.reject(endpoint, rejected)

    def accept_webhook(self, admission: Admission, body: bytes) -> list[Envelope] | Reply:
        """Judge an admitted webhook's body; return the one envelope to store, or the answer."""
        try:
            now_ms = self._clock.wall_ms()
            payload = self._proofs.open_webhook(admission, body, now_ms=now_ms)
        except Rejected as rejected:
            return self.reject(admission.endpoint, rejected)
        return [courier_wire.envelope(payload, received_at_ms=now_ms, source=WEBHOOK.source)]

    def accept(self, admission: Admission, body: bytes) -> Steps[list[Envelope] | Reply]:
        """Judge the body of any other request in steps, so that others get a turn in between.

        The generator returns the envelopes to store (never none), or the answer.
        """
        endpoint = admission.endpoint
        try:
            if endpoint.body_format is BodyFormat.QUERY:
                body = cutting.call_of(admission.query, endpoint.type, now_ms=self._clock.wall_ms())
            else:
                body = yield from self._proofs.open(admission, body)
            envelopes = yield from self._envelopes(admission, body)
        except Rejected as rejected:
            return self.reject(endpoint, rejected)
        except NotJson as error:
            return self.reject(endpoint, Rejected(400, "not_json", str(error), gateway="invalid json"))
        except TooManyElements as error:
            too_many = Rejected(413, "too_many_events", str(error), gateway="request size exceeds max limit")
            return self.reject(endpoint, too_many)
        return envelopes or self._reply(admission, _NOTHING)

    def committed(self, admission: Admission, receipt: Receipt) -> Reply:
        """Return the answer for what is on disk now."""
        endpoint = admission.endpoint
        self._reporter.events_received(endpoint.route, accepted=receipt.accepted, duplicates=receipt.duplicates)
        if endpoint is WEBHOOK and receipt.accepted:
            return ONE_ACCEPTED
        return self._reply(admission, receipt)

    def rolled_back(self, admission: Admission, error: SpoolFull | SpoolClosed) -> Reply:
        """Return the answer for what could not be stored."""
        endpoint = admission.endpoint
        if isinstance(error, SpoolClosed):
            return self.reject(endpoint, draining())
        rejected = Rejected(
            endpoint.full_status,
            "spool_full",
            "no room for new events just now",
            gateway="max requests limit reached",
            retry_after_s=max(1, error.retry_after_s),
        )
        return self.reject(endpoint, rejected)

    def reject(self, endpoint: Endpoint, rejected: Rejected) -> Reply:
        """Return a refusal in the endpoint's reply format."""
        return rejected.reply(endpoint.reply_format, endpoint.name)

    def _reply(self, admission: Admission, receipt: Receipt) -> Reply:
        return accepted(
            admission.endpoint,
            receipt,
            refused=admission.refused,
            message_id=admission.message_id,
            is_one=admission.is_one,
            is_rudderstack=admission.is_rudderstack,
        )

    def _envelopes(self, admission: Admission, body: bytes) -> Steps[list[Envelope]]:
        endpoint, now_ms = admission.endpoint, self._clock.wall_ms()
        keys: list[object] | None = None  # those of the elements, where each is to bring its own
        if admission.needs_key:  # first of all: a stranger's body is not cut
            key = yield from cutting.write_key_of(body)
            if key is not None or endpoint.body_format is BodyFormat.CALL:
                self._admissions.judge_write_keys(admission, [key])
            else:
                keys = []
        pieces, is_by_line = yield from cutting.cut(admission, body)
        is_outbound = endpoint.route is RouteName.COURIER_TO_RUDDERSTACK
        envelopes: list[Envelope] = []
        refused: list[int] = []
        for index, raw in enumerate(pieces, 1):
            if index % _ELEMENTS_PER_STEP == 0:
                yield
            if keys is not None:
                key = yield from cutting.write_key_of(raw)
                if not self._admissions.is_write_key(key):
                    keys.append(key)
                    refused.append(index - 1)
                    continue
            envelope = courier_wire.usual(raw, received_at_ms=now_ms, source=endpoint.source) if is_outbound else None
            if envelope is None:
                element = elements.line(raw) if is_by_line else elements.element(raw)
                if element is None:
                    refused.append(index - 1)
                    continue
                envelope = self._envelope(admission, element, now_ms)
            envelopes.append(envelope)
        admission.refused = refused
        if keys is not None and not envelopes:
            self._admissions.judge_write_keys(admission, keys)
        _judge_elements(admission, envelopes)
        return envelopes

    def _envelope(self, admission: Admission, element: Element, now_ms: int) -> Envelope:
        endpoint = admission.endpoint
        event: Mapping[str, Any] | None = element.value
        if endpoint.route is RouteName.COURIER_TO_RUDDERSTACK:
            return courier_wire.envelope(element.payload, received_at_ms=now_ms, source=endpoint.source)
        payload = element.payload
        if event is None:
            envelope = rudderstack_wire.unreadable(payload, received_at_ms=now_ms, source=endpoint.source)
        else:
            if endpoint.type:
                event, payload = rudderstack_wire.with_type(event, payload, endpoint.type)
            envelope = rudderstack_wire.envelope(
                event, payload, received_at_ms=now_ms, source=endpoint.source, unique=self._unique
            )
        if not admission.message_id:  # it is the first
            admission.message_id = (rudderstack_wire.message_id(event) if event else "") or envelope.event_key.hex()
            if not (admission.needs_key or admission.is_rudderstack or endpoint.is_segment):
                admission.is_rudderstack = _is_rudderstacks(event)
        return envelope


def _judge_elements(admission: Admission, envelopes: Sequence[Envelope]) -> None:
    """Refuse a request that holds nothing to store, where that is a mistake."""
    if envelopes:
        return
    if admission.refused:
        what = "not a JSON object" if admission.is_one else "none of the elements is a JSON object"
        raise Rejected(400, "no_object", what, gateway="event is not a valid rudder event")
    if admission.endpoint.reply_format is ReplyFormat.GATEWAY:
        raise Rejected(400, "batch_empty", "empty batch payload")


def _is_rudderstacks(event: Mapping[str, Any] | None) -> bool:
    """Tell whether an event is by an SDK of RudderStack's: all of theirs name a channel, and none a key."""
    return event is not None and isinstance(event.get("channel"), str) and "writeKey" not in event


def _method_wrong(endpoint: Endpoint) -> Rejected:
    allowed = ", ".join(sorted(method.decode() for method in endpoint.methods))
    return Rejected(
        endpoint.status(405), "method_wrong", f"this path takes {allowed} only", headers=(("Allow", allowed),)
    )
