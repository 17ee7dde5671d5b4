"""Courier as a destination: one delivery, one call, one verdict.

A tenant is the exception: what an event brings to it is read, merged and written afresh at every attempt,
under the tenant's lock. Deliberately absent: retries, order and idempotency suffixes, which are the flow's.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from forwarder.courier.answers import Asked, error_message, judge, judge_no_answer
from forwarder.courier.client import CourierClient
from forwarder.courier.tenant_order import TenantOrder
from forwarder.courier.tenants import changes_nothing, merged, read_wish
from forwarder.errors import NoAnswer
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivered,
    Delivery,
    Effect,
    Filtered,
    Held,
    HttpResponse,
    Refused,
    TryLater,
    Verdict,
)
from forwarder.ports import Clock

_TENANT: Final = "PUT /tenants/"
_ANSWER_BYTES_MAX: Final = 2_048

_OUTCOMES: Final[dict[type, str]] = {
    Delivered: "delivered",
    Filtered: "filtered",
    TryLater: "try_later",
    Refused: "refused",
    Held: "held",
}


class CourierSink:
    """`ports.Sink` of the inbound route: batches of exactly one delivery."""

    def __init__(self, client: CourierClient, tenants: TenantOrder, *, clock: Clock) -> None:
        self._client = client
        self._tenants = tenants
        self._clock = clock

    async def send(self, batch: Batch) -> Answer:
        """Make the one call and say what came of it; raises nothing that Courier can cause."""
        (delivery,) = batch.deliveries
        if delivery.operation.startswith(_TENANT):
            return await self._write_tenant(delivery)
        answer, _ = await self._exchange(delivery)
        return answer

    async def _write_tenant(self, delivery: Delivery) -> Answer:
        path = delivery.operation.removeprefix("PUT ")
        tenant_id = unquote(path.removeprefix("/tenants/"))
        async with self._tenants.turn(tenant_id):
            read = replace(delivery, operation=f"GET {path}", body=b"", idempotency_key="")
            answer, response = await self._exchange(read)
            existing = _tenant_in(response)
            if existing is None and not _is_absent(response):
                return _unread(answer)
            is_newest = delivery.sequence >= await self._tenants.newest(tenant_id)
            body = merged(tenant_id, existing, read_wish(delivery.body), is_newest=is_newest)
            if not is_newest and changes_nothing(existing, body):
                return answer
            written, _ = await self._exchange(replace(delivery, body=msgspec.json.encode(body)))
            if isinstance(written.verdict, Delivered):
                # Before anyone hears of it: after a crash in between, this event is simply applied again.
                await self._tenants.was_applied(tenant_id, delivery.sequence)
            return written

    async def _exchange(self, delivery: Delivery) -> tuple[Answer, HttpResponse | None]:
        started_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        response: HttpResponse | None = None
        verdict: Verdict
        try:
            response = await self._client.call(
                delivery.operation, delivery.body, idempotency_key=delivery.idempotency_key
            )
        except NoAnswer as error:
            verdict = judge_no_answer(error)
        else:
            asked = Asked(operation=delivery.operation, family=delivery.family, body=delivery.body)
            now_ms = self._clock.wall_ms()
            verdict = judge(asked, response.status, response.headers, response.body, now_ms=now_ms)
        attempt = Attempt(
            at_ms=started_ms,
            duration_ms=round((self._clock.monotonic_s() - started_s) * 1000),
            operation=delivery.operation,
            status=response.status if response else None,
            outcome="",
            reason="",
            answer=response.body[:_ANSWER_BYTES_MAX] if response else b"",
        )
        return _answer(verdict, attempt), response


def _tenant_in(response: HttpResponse | None) -> dict[str, Any] | None:
    if response is None or response.status != HTTPStatus.OK:
        return None
    try:
        tenant = msgspec.json.decode(response.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return tenant if isinstance(tenant, dict) else None


def _is_absent(response: HttpResponse | None) -> bool:
    if response is None or response.status != HTTPStatus.NOT_FOUND:
        return False
    return error_message(response.body) is not None


def _unread(answer: Answer) -> Answer:
    """Say what it means that a tenant could not be read: nothing was written, whatever the answer."""
    verdict = answer.verdict
    if isinstance(verdict, TryLater):
        verdict = replace(verdict, effect=Effect.NONE)
    elif isinstance(verdict, Delivered):
        # Writing over what cannot be read would wipe it.
        verdict = Held(reason="a tenant's answer that is not of Courier's API", scope="route")
    return _answer(verdict, answer.attempt)


def _answer(verdict: Verdict, attempt: Attempt) -> Answer:
    reason = "" if isinstance(verdict, Delivered) else verdict.reason
    return Answer(verdict=verdict, attempt=replace(attempt, outcome=_OUTCOMES[type(verdict)], reason=reason))
