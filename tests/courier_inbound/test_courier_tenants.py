"""Tenants: what a group event makes of them, and in which order."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.courier.tenant_order import TenantOrder
from forwarder.courier.tenants import TenantChange, changes_nothing, merged
from forwarder.errors import NoAnswer
from forwarder.model import Batch, Delivered, Effect, Held, HttpRequest, HttpResponse, Refused, TryLater
from stand_ins.kept_in_memory import KeptInMemory

_ABSENT = b'{"message": "Tenant not found", "type": "invalid_request_error"}'
BatchOf = Callable[..., Batch]


@pytest.mark.parametrize(
    ("existing", "change", "newest", "older"),
    [
        (None, ("Acme", {"plan": "pro"}), {"name": "Acme", "properties": {"plan": "pro"}}, None),
        (None, ("", {}), {"name": "t1"}, None),
        ({"id": "t1", "name": "Acme"}, ("", {}), {"name": "Acme"}, {"name": "Acme"}),
        ({"name": "Acme"}, ("New", {}), {"name": "New"}, {"name": "Acme"}),
        ({"name": "t1"}, ("New", {}), {"name": "New"}, {"name": "New"}),
        ({"name": 3}, ("", {}), {"name": "t1"}, {"name": "t1"}),
        (
            {"name": "A", "properties": {"a": 1, "b": {"c": 1}}, "brand_id": "B", "parent_tenant_id": None, "x": 1},
            ("", {"b": {"d": 2}, "e": None}),
            {"name": "A", "brand_id": "B", "properties": {"a": 1, "b": {"d": 2}, "e": None}},
            {"name": "A", "brand_id": "B", "properties": {"a": 1, "b": {"c": 1}, "e": None}},
        ),
        (
            {"name": "A", "properties": [], "default_preferences": {"items": []}, "user_profile": {"k": 1}},
            ("", {}),
            {"name": "A", "properties": [], "default_preferences": {"items": []}, "user_profile": {"k": 1}},
            {"name": "A", "properties": [], "default_preferences": {"items": []}, "user_profile": {"k": 1}},
        ),
    ],
)
def test_a_tenant_keeps_what_it_has(
    existing: dict[str, Any] | None,
    change: tuple[str, dict[str, Any]],
    newest: dict[str, Any],
    older: dict[str, Any] | None,
) -> None:
    """Nothing that others set is wiped; the newest event wins, an older one adds only what is missing."""
    wanted = TenantChange(name=change[0], properties=change[1])
    assert merged("t1", existing, wanted, is_newest=True) == newest
    assert merged("t1", existing, wanted, is_newest=False) == (newest if older is None else older)


_TENANT = st.fixed_dictionaries(
    {"name": st.text(max_size=3)},
    optional={"properties": st.dictionaries(st.sampled_from("abc"), st.integers()), "brand_id": st.text(max_size=3)},
)


@settings(max_examples=100, deadline=None)
@given(existing=st.none() | _TENANT, name=st.text(max_size=3), newest=st.booleans(), wanted_change=_TENANT)
def test_applying_a_change_twice_is_applying_it_once(
    existing: dict[str, Any] | None, name: str, wanted_change: dict[str, Any], *, newest: bool
) -> None:
    """A retry whose first attempt did take effect changes nothing more."""
    change = TenantChange(name=name, properties=wanted_change.get("properties", {}))
    once = merged("t1", existing, change, is_newest=newest)
    assert changes_nothing(once, merged("t1", once, change, is_newest=newest))


def _change(**properties: object) -> bytes:
    return json.dumps({"properties": properties}).encode()


async def test_a_tenant_is_read_merged_and_written(sink: CourierSink, transport: Any, batch_of: BatchOf) -> None:
    """The tenant is read first, and the write carries what it had."""
    transport.answer((200, b'{"id": "t/1", "name": "Acme", "brand_id": "B"}'), (200, b"{}"))
    answer = await sink.send(batch_of("PUT /tenants/t%2F1", _change(plan="pro"), group="tenants"))
    assert isinstance(answer.verdict, Delivered)
    assert transport.operations() == ["GET /tenants/t%2F1", "PUT /tenants/t%2F1"]
    assert json.loads(transport.requests[1].body) == {"name": "Acme", "brand_id": "B", "properties": {"plan": "pro"}}
    assert transport.requests[0].body == b""
    assert answer.attempt.operation == "PUT /tenants/t%2F1"


async def test_an_absent_tenant_is_created_under_its_id(sink: CourierSink, transport: Any, batch_of: BatchOf) -> None:
    """Where Courier knows no such tenant it is made, named after its id until somebody names it."""
    transport.answer((404, _ABSENT), (200, b"{}"))
    await sink.send(batch_of("PUT /tenants/caf%C3%A9", _change(), group="tenants"))
    assert json.loads(transport.requests[1].body) == {"name": "café"}


@pytest.mark.parametrize(
    ("answer", "verdict", "effect"),
    [
        ((404, b"<html>"), Held, Effect.NONE),
        ((200, b"<html>"), Held, Effect.NONE),
        ((200, b"[]"), Held, Effect.NONE),
        ((204, b""), Held, Effect.NONE),
        ((401, b""), Held, Effect.NONE),
        ((400, _ABSENT), Refused, None),
        ((500, b""), TryLater, Effect.NONE),
        ((429, b""), TryLater, Effect.NONE),
        (NoAnswer("time-out", request_left=True), TryLater, Effect.NONE),
    ],
    ids=str,
)
async def test_a_tenant_that_cannot_be_read_is_not_written(
    answer: tuple[int, bytes] | NoAnswer,
    verdict: type,
    effect: Effect | None,
    *,
    sink: CourierSink,
    transport: Any,
    batch_of: BatchOf,
) -> None:
    """Without a readable tenant nothing is written over it, and the attempt certainly had no effect."""
    transport.answer(answer)
    found = await sink.send(batch_of("PUT /tenants/t1", _change(), group="tenants"))
    assert isinstance(found.verdict, verdict)
    assert getattr(found.verdict, "effect", None) == effect
    assert transport.operations() == ["GET /tenants/t1"]
    assert found.attempt.outcome == {Held: "held", Refused: "refused", TryLater: "try_later"}[verdict]


async def test_an_event_overtaken_by_a_newer_one_adds_only_what_is_missing(
    sink: CourierSink, transport: Any, batch_of: BatchOf
) -> None:
    """After event 9 was applied, event 5 changes none of its values, and writes nothing when nothing is missing."""
    transport.answer((404, _ABSENT), (200, b"{}"))
    await sink.send(batch_of("PUT /tenants/t1", _change(plan="new"), group="tenants", sequence=9))
    transport.answer((200, b'{"name": "t1", "properties": {"plan": "new"}}'), (200, b"{}"))
    await sink.send(batch_of("PUT /tenants/t1", _change(plan="old", seats=3), group="tenants", sequence=5))
    assert json.loads(transport.requests[-1].body)["properties"] == {"plan": "new", "seats": 3}
    transport.answer((200, b'{"name": "t1", "properties": {"plan": "new"}}'))
    last = await sink.send(batch_of("PUT /tenants/t1", _change(plan="old"), group="tenants", sequence=5))
    assert isinstance(last.verdict, Delivered)
    assert transport.operations()[-1] == "GET /tenants/t1"


async def test_a_write_that_failed_does_not_count_as_applied(
    sink: CourierSink, transport: Any, batch_of: BatchOf, memory: Any
) -> None:
    """Only what Courier took makes other events older."""
    transport.answer((404, _ABSENT), (503, b""))
    answer = await sink.send(batch_of("PUT /tenants/t1", _change(), group="tenants", sequence=9))
    assert isinstance(answer.verdict, TryLater)
    assert answer.verdict.effect is Effect.ANSWERED
    assert await TenantOrder(memory).newest("t1") == 0


async def test_the_order_survives_a_restart(memory: Any) -> None:
    """What was applied is known to the next daemon; an older event never takes its place."""
    order = TenantOrder(memory)
    await order.applied("t1", 9)
    await order.applied("t1", 5)
    await order.keep("t1")
    again = TenantOrder(memory)
    assert await again.newest("t1") == 9
    assert await again.newest("t2") == 0


async def test_the_memory_of_tenants_is_bounded(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenants that were not touched for longest are forgotten first."""
    monkeypatch.setattr("forwarder.courier.tenant_order._SHARDS", 1)
    monkeypatch.setattr("forwarder.courier.tenant_order._TENANTS_PER_SHARD_MAX", 2)
    order = TenantOrder(memory)
    for tenant, sequence in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        await order.applied(tenant, sequence)
    assert [await order.newest(tenant) for tenant in "abc"] == [3, 0, 4]


async def test_a_full_disk_keeps_the_order_in_memory(memory: Any) -> None:
    """With the disk full an applied event still counts until the restart."""
    memory.is_full = True
    order = TenantOrder(memory)
    await order.applied("t1", 9)
    await order.keep("t1")
    assert await order.newest("t1") == 9
    assert memory.values == {}


async def test_visitors_share_a_tenant_and_leave_nothing_behind(memory: Any) -> None:
    """All who are at a tenant share its lock; another tenant has its own; the last one clears up."""
    order = TenantOrder(memory)
    with order.visit("t1") as first, order.visit("t1") as second, order.visit("t2") as other:
        assert first is second
        assert first is not other
    with order.visit("t1") as later:
        assert later is not first


async def test_an_event_that_changes_nothing_is_applied_without_a_write(
    sink: CourierSink, transport: Any, batch_of: BatchOf, memory: Any
) -> None:
    """A tenant that already is what an event wants is not written, and the event counts as its newest."""
    transport.answer((200, b'{"id": "t1", "name": "Acme", "properties": {"plan": "pro"}}'))
    answer = await sink.send(batch_of("PUT /tenants/t1", _change(plan="pro"), group="tenants", sequence=9))
    assert isinstance(answer.verdict, Delivered)
    assert transport.operations() == ["GET /tenants/t1"]
    assert await TenantOrder(memory).newest("t1") == 9


async def test_concurrent_group_events_lose_nothing(sink: CourierSink, transport: Any, batch_of: BatchOf) -> None:
    """Twenty events that each bring another property to one tenant leave all twenty."""
    tenant: dict[str, Any] = {"name": "t1", "properties": {}}

    async def exchange(request: HttpRequest) -> HttpResponse:
        body = json.dumps(tenant).encode()
        await asyncio.sleep(0)
        if request.method == "PUT":
            tenant.clear()
            tenant.update(json.loads(request.body))
        return HttpResponse(status=200, headers={}, body=body, duration_s=0)

    transport.exchange = exchange
    changes = [_change(**{f"p{n}": n}) for n in range(20)]
    await asyncio.gather(
        *(
            sink.send(batch_of("PUT /tenants/t1", change, group="tenants", sequence=n + 1))
            for n, change in enumerate(changes)
        ),
    )
    assert tenant["properties"] == {f"p{n}": n for n in range(20)}


async def test_replicas_lose_nothing_of_a_tenant(transport: Any, batch_of: BatchOf, memory: Any, clock: Any) -> None:
    """Events at two replicas that each bring another property leave all of them; the newest of all is known to both."""
    tenant: dict[str, Any] = {"name": "t1", "properties": {}}

    async def exchange(request: HttpRequest) -> HttpResponse:
        body = json.dumps(tenant).encode()
        for _ in range(5):
            await asyncio.sleep(0)
        if request.method == "PUT":
            tenant.clear()
            tenant.update(json.loads(request.body))
        return HttpResponse(status=200, headers={}, body=body, duration_s=0)

    transport.exchange = exchange
    client = CourierClient(transport, base_url="https://api.courier.com/", api_key="k", clock=clock)
    orders = [TenantOrder(memory), TenantOrder(KeptInMemory(beside=memory))]
    sinks = [CourierSink(client, order, clock=clock) for order in orders]
    await asyncio.gather(
        *(
            sinks[n % 2].send(batch_of("PUT /tenants/t1", _change(**{f"p{n}": n}), group="tenants", sequence=n + 1))
            for n in range(10)
        ),
    )
    assert tenant["properties"] == {f"p{n}": n for n in range(10)}
    assert [await order.newest("t1") for order in orders] == [10, 10]


async def test_a_lock_of_a_lost_replica_lapses(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who died while he had a tenant keeps it for a while and no longer."""
    monkeypatch.setattr("forwarder.courier.tenant_order._LOCK_MS", 50)
    here, there = TenantOrder(memory), TenantOrder(KeptInMemory(beside=memory))
    with here.visit("t1") as tenant, there.visit("t1") as same:
        lost = here.locked("t1", tenant)
        await lost.__aenter__()
        async with asyncio.timeout(60), there.locked("t1", same):
            pass


async def test_who_has_a_tenant_next_knows_what_was_applied(memory: Any) -> None:
    """What one replica applied is known to the other as soon as that may write: an older event does not win."""
    here, there = TenantOrder(memory), TenantOrder(KeptInMemory(beside=memory))
    with here.visit("t1") as tenant, there.visit("t1") as same:
        async with here.locked("t1", tenant):
            await here.applied("t1", 10)
        async with there.locked("t1", same):
            assert await there.newest("t1") == 10
