"""Courier as a destination: one delivery, one call, one verdict.

A tenant is the exception: what an event brings to it is read, merged and written afresh at every attempt,
under the tenant's lock. Deliberately absent: retries, order and idempotency suffixes, which are the flow's.
"""

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from forwarder.courier.answers import Asked, error_message, judge, judge_no_answer
from forwarder.courier.client import CourierClient
from forwarder.courier.tenant_order import TenantOrder
from forwarder.courier.tenants import changes_nothing, merged, read_change
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
            return await self._bring_to_tenant(delivery)
        answer, _ = await self._exchange(delivery)
        return answer

    async def _bring_to_tenant(self, delivery: Delivery) -> Answer:
        tenant_id = unquote(delivery.operation.removeprefix(_TENANT))
        with self._tenants.visit(tenant_id) as tenant:
            # Read without the lock: the many events that change nothing then do not wait for each other.
            writes = tenant.writes
            read = await self._read_tenant(delivery)
            async with self._tenants.locked(tenant_id, tenant):
                # Written since, or perhaps at another replica: what was read is old.
                if tenant.writes != writes or (self._tenants.has_replicas and read.is_known):
                    read = await self._read_tenant(delivery)
                if not read.is_known:
                    return _unread(read.answer)
                is_newest = delivery.sequence >= await self._tenants.newest(tenant_id)
                body = merged(tenant_id, read.existing, read_change(delivery.body), is_newest=is_newest)
                answer = read.answer
                if not changes_nothing(read.existing, body):
                    tenant.writes += 1  # before it is known to be one: the answer may be lost
                    answer, _ = await self._exchange(msgspec.structs.replace(delivery, body=msgspec.json.encode(body)))
                if not isinstance(answer.verdict, Delivered):
                    return answer
                await self._tenants.applied(tenant_id, delivery.sequence)
            # Before anyone hears of it: after a crash in between, this event is simply applied again.
            await self._tenants.keep(tenant_id)
            return answer

    async def _read_tenant(self, delivery: Delivery) -> "_Read":
        path = delivery.operation.removeprefix("PUT ")
        answer, response = await self._exchange(
            msgspec.structs.replace(delivery, operation=f"GET {path}", body=b"", idempotency_key="")
        )
        if response is None:
            return _Read(answer=answer)
        if response.status == HTTPStatus.NOT_FOUND:
            return _Read(answer=answer, is_known=error_message(response.body) is not None)
        existing = _tenant_in(response)
        return _Read(answer=answer, existing=existing, is_known=existing is not None)

    async def _exchange(self, delivery: Delivery) -> tuple[Answer, HttpResponse | None]:
        started_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        asked = Asked(operation=delivery.operation, group=delivery.group, body=delivery.body)
        response: HttpResponse | None = None
        verdict: Verdict
        try:
            response = await self._client.call(
                delivery.operation, delivery.body, idempotency_key=delivery.idempotency_key
            )
        except NoAnswer as error:
            verdict = judge_no_answer(asked, error)
        else:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What reading a tenant brought: `existing` None and `is_known` True means that there is none."""

    answer: Answer
    existing: dict[str, Any] | None = None
    is_known: bool = False


def _tenant_in(response: HttpResponse) -> dict[str, Any] | None:
    if response.status != HTTPStatus.OK:
        return None
    try:
        tenant = msgspec.json.decode(response.body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return tenant if isinstance(tenant, dict) else None


def _unread(answer: Answer) -> Answer:
    """Say what it means that a tenant could not be read: nothing was written, whatever the answer."""
    verdict = answer.verdict
    if isinstance(verdict, TryLater | Held):
        verdict = replace(verdict, effect=Effect.NONE)
    elif isinstance(verdict, Delivered):
        # Writing over what cannot be read would wipe it.
        verdict = Held(reason="a tenant's answer that is not of Courier's API", scope="route")
    return _answer(verdict, answer.attempt)


def _answer(verdict: Verdict, attempt: Attempt) -> Answer:
    reason = "" if isinstance(verdict, Delivered) else verdict.reason
    return Answer(verdict=verdict, attempt=replace(attempt, outcome=_OUTCOMES[type(verdict)], reason=reason))
