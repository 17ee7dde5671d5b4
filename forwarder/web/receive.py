"""Take events in: judge the sender, cut the body, put everything into the spool at once, and only then say yes.

Two steps, so that no body is read before its sender is known as far as headers can tell: `admit` judges method, path
and headers, `receive` the body. Neither knows an HTTP library: they are given a way to look headers up and the body's
bytes, and return a `Reply`. Deliberately absent: sockets, time-outs, and what the events mean.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from forwarder.courier import wire as courier_wire
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, Receipt, RouteName
from forwarder.ports import Clock, Spool
from forwarder.rudderstack import wire as rudderstack_wire
from forwarder.spool.appending import stored
from forwarder.telemetry.reporter import Reporter
from forwarder.web import elements
from forwarder.web.admission import Admission, DoorSettings, Header, Porter, draining
from forwarder.web.answers import Rejected, accepted
from forwarder.web.doors import DOORS, Door, Reply, Shape, Words
from forwarder.web.elements import Element, NotJson, TooManyElements

UNKNOWN_ENDPOINT = "other"  # in metrics: whatever path somebody invents

_ELEMENTS_PER_TURN = 200  # then the loop gets a turn: a large batch must not keep the others waiting
_NOTHING = Receipt(accepted=0, duplicates=0)
_CALL_TYPES = frozenset(door.type for door in DOORS.values() if door.type)


def _unique() -> bytes:
    return os.urandom(16)


class Receiver:
    """Everything behind the public listener's paths, but for health.

    A 2xx is answered only after the spool's commit, and one request is one `Spool.append`: all of it or
    nothing. Safe to call from many tasks of one event loop.
    """

    def __init__(
        self,
        settings: DoorSettings,
        *,
        spool: Spool,
        clock: Clock,
        reporter: Reporter,
        unique: Callable[[], bytes] = _unique,
    ) -> None:
        """Keep the collaborators. `unique` makes bytes never made before, for events that carry nothing unique."""
        self._porter = Porter(settings, clock=clock)
        self._spool = spool
        self._clock = clock
        self._reporter = reporter
        self._unique = unique
        self.body_bytes_max = settings.body_bytes_max

    @property
    def is_draining(self) -> bool:
        """Tell whether the doors answer 503 to everything."""
        return self._porter.is_draining

    def drain(self) -> None:
        """Answer 503 to whatever comes from now on. What was admitted before is still taken."""
        self._porter.is_draining = True

    def admit(self, method: str, path: str, header: Header) -> Admission | Reply:
        """Judge a request by everything but its body; a `Reply` ends it there."""
        door = DOORS.get(path) or DOORS.get(path.removesuffix("/"))
        if door is None:
            return self._turn_away(UNKNOWN_ENDPOINT, Words.JSON, Rejected(404, "path_unknown", "there is no such path"))
        if method != "POST":
            allow = (("Allow", "POST"),)
            rejected = Rejected(405, "method_wrong", "this path takes POST only", headers=allow)
            return self._turn_away(door.endpoint, door.words, rejected)
        try:
            return self._porter.admit(door, header)
        except Rejected as rejected:
            return self._turn_away(door.endpoint, door.words, rejected)

    async def receive(self, admission: Admission, body: bytes) -> Reply:
        """Judge an admitted request's body, store what it holds and answer."""
        door = admission.door
        try:
            payload = self._porter.open(admission, body)
            if door.shape is Shape.WEBHOOK:
                return await self._keep_webhook(door, payload)
            return await self._keep_elements(admission, payload)
        except Rejected as rejected:
            return self._turn_away(door.endpoint, door.words, rejected)

    def reject(self, admission: Admission, rejected: Rejected) -> Reply:
        """Turn an admitted request away for something that happened to its body on the way in."""
        return self._turn_away(admission.door.endpoint, admission.door.words, rejected)

    async def _keep_webhook(self, door: Door, payload: bytes) -> Reply:
        now_ms = self._clock.wall_ms()
        envelope = courier_wire.envelope(payload, received_at_ms=now_ms, source=door.source)
        receipt = await self._append(door, [envelope])
        return accepted(door, receipt, refused=(), message_ids=(), is_one=True)

    async def _keep_elements(self, admission: Admission, body: bytes) -> Reply:
        door = admission.door
        found, is_one = self._cut(admission, body)
        envelopes: list[Envelope] = []
        refused: list[int] = []
        message_ids: list[str] = []
        now_ms = self._clock.wall_ms()
        for index, element in enumerate(_reading(found)):
            if element is None:
                refused.append(index)
                continue
            envelopes.append(self._envelope(door, element, now_ms))
            if not message_ids:
                message_ids.append(_message_id(element, envelopes[-1]))
            if index % _ELEMENTS_PER_TURN == _ELEMENTS_PER_TURN - 1:
                await asyncio.sleep(0)
        if refused and not envelopes:
            what = "not a JSON object" if is_one else "none of the elements is a JSON object"
            raise Rejected(400, "no_object", what, gateway="event is not a valid rudder event")
        if not envelopes and door.words is Words.GATEWAY:
            raise Rejected(400, "batch_empty", "empty batch payload")
        receipt = await self._append(door, envelopes) if envelopes else _NOTHING
        return accepted(door, receipt, refused=refused, message_ids=message_ids, is_one=is_one)

    def _cut(self, admission: Admission, body: bytes) -> tuple[Iterator[Element | None], bool]:
        """Return the request's elements, and whether it is a lone event rather than a list of them."""
        try:
            return _cut(admission, body)
        except NotJson as error:
            raise _not_json(error) from None
        except TooManyElements as error:
            raise Rejected(413, "too_many_events", str(error), gateway="request size exceeds max limit") from None

    def _envelope(self, door: Door, element: Element, now_ms: int) -> Envelope:
        if door.route is RouteName.COURIER_TO_RUDDERSTACK:
            return courier_wire.envelope(element.payload, received_at_ms=now_ms, source=door.source)
        if element.value is None:
            return rudderstack_wire.unreadable(element.payload, received_at_ms=now_ms, source=door.source)
        event: Mapping[str, Any] = element.value
        payload = element.payload
        if door.type:
            event, payload = rudderstack_wire.with_type(event, payload, door.type)
        return rudderstack_wire.envelope(event, payload, received_at_ms=now_ms, source=door.source, unique=self._unique)

    async def _append(self, door: Door, envelopes: list[Envelope]) -> Receipt:
        try:
            receipt = await stored(self._spool, envelopes)
        except SpoolFull as full:
            raise Rejected(
                door.full_status,
                "spool_full",
                "no room for new events just now",
                gateway="max requests limit reached",
                retry_after_s=max(1, full.retry_after_s),
            ) from None
        except SpoolClosed:
            raise draining() from None
        self._reporter.events_received(door.route, accepted=receipt.accepted, duplicates=receipt.duplicates)
        return receipt

    def _turn_away(self, endpoint: str, words: Words, rejected: Rejected) -> Reply:
        self._reporter.request_rejected(endpoint, rejected.reason)
        return rejected.reply(words)


def _reading(found: Iterator[Element | None]) -> Iterator[Element | None]:
    """Read the elements as they are asked for; what turns out to be no JSON ends the request."""
    try:
        yield from found
    except NotJson as error:
        raise _not_json(error) from None


def _not_json(error: NotJson) -> Rejected:
    return Rejected(400, "not_json", str(error), gateway="invalid json")


def _cut(admission: Admission, body: bytes) -> tuple[Iterator[Element | None], bool]:
    match admission.door.shape:
        case Shape.EVENTS:
            return _cut_events(body, has_lines=admission.has_lines)
        case Shape.CALLS:
            return _cut_calls(body)
        case Shape.BATCH:
            body = elements.trimmed(body)
            batch = body if body.startswith(b"[") else elements.batch_of(body)
            if batch is None:
                elements.element(body)  # raises when it is no JSON
            # The gateway takes a lone object for a batch of one, and no batch for an empty one.
            return elements.from_array(batch if batch not in (None, b"null") else b"[]"), False
        case Shape.CALL | Shape.WEBHOOK:
            return iter([elements.element(elements.trimmed(body))]), True


def _cut_events(body: bytes, *, has_lines: bool) -> tuple[Iterator[Element | None], bool]:
    if has_lines:
        return elements.from_lines(body), False
    try:
        return elements.from_array(body), not elements.trimmed(body).startswith(b"[")
    except NotJson:
        if elements.looks_like_lines(body):
            return elements.from_lines(body), False
        raise


def _cut_calls(body: bytes) -> tuple[Iterator[Element | None], bool]:
    body = elements.trimmed(body)
    if body.startswith(b"["):
        return elements.from_array(body), False
    batch = elements.batch_of(body)
    if batch is not None and batch.startswith(b"[") and not _is_call(body):
        return elements.from_array(batch), False
    return iter([elements.element(body)]), True


def _is_call(body: bytes) -> bool:
    """Tell whether an object with a `batch` is an event that only happens to have a field of that name."""
    element = elements.element(body)
    kind = element.value.get("type") if element is not None and element.value is not None else None
    return isinstance(kind, str) and kind.lower() in _CALL_TYPES


def _message_id(element: Element, envelope: Envelope) -> str:
    own = rudderstack_wire.message_id(element.value) if element.value is not None else ""
    return own or envelope.event_key.hex()
