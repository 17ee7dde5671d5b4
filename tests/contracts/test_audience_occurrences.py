"""Audience events carry neither id nor time: what the data plane sees of them, through spool and mapper."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from forwarder.courier.wire import envelope
from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import EventSelection
from forwarder.model import Receipt, RouteName
from forwarder.rudderstack.calls import TrackCalls
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import give_back, leased, stored

AnySpool = MemorySpool | SqliteSpool
OUT = RouteName.COURIER_TO_RUDDERSTACK
NEW, COPY = Receipt(accepted=1, duplicates=0), Receipt(accepted=0, duplicates=1)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MAPPER = CourierToRudderStack(
    TrackCalls(version="1.2.3"), preset="courier", selection=EventSelection.of(["all"]), rules=Rules()
)


def audience(kind: str) -> bytes:
    """Return an audience event as Courier sends it, the same bytes at every attempt."""
    data = {"audience_id": "vip", "audience_version": 11, "reason": "EQ('a', 'b') => true", "user_id": "suhas"}
    return json.dumps({"type": f"audiences:{kind}", "data": data}).encode()


async def arrive(spool: AnySpool, clock: Any, kind: str) -> Receipt:
    """Take the event in as the webhook's endpoint does."""
    return await stored(spool, [envelope(audience(kind), received_at_ms=clock.now_ms, source="webhook")])


async def sent(spool: AnySpool) -> list[tuple[str, str]]:
    """Return event and messageId of everything that is leased now, as it would be sent; nothing is settled."""
    leases = await leased(spool, OUT, fresh=99, retry=99, size=1_000_000)
    calls = []
    for lease in leases:
        mapped = MAPPER.map(lease)
        assert isinstance(mapped, tuple)
        call = msgspec.json.decode(mapped[0].body)
        calls.append((call["event"], call["messageId"]))
    await give_back(spool, [lease.sequence for lease in leases], 0, counts=False)
    return calls


async def test_each_occurrence_has_a_message_id_and_its_copies_share_it(spool: AnySpool, clock: Any) -> None:
    """In, resent, out, in again: three calls with three messageIds, and none for the copy."""
    assert await arrive(spool, clock, "user:matched") == NEW
    first = await sent(spool)
    clock.now_ms += 15 * MINUTE_MS
    assert await arrive(spool, clock, "user:matched") == COPY
    assert await sent(spool) == first
    clock.now_ms += HOUR_MS
    assert await arrive(spool, clock, "user:unmatched") == NEW
    clock.now_ms += HOUR_MS
    assert await arrive(spool, clock, "user:matched") == NEW
    calls = await sent(spool)
    assert [event for event, _ in calls] == [
        "Audience User Matched",
        "Audience User Unmatched",
        "Audience User Matched",
    ]
    assert calls[0] == first[0]
    assert len({message_id for _, message_id in calls}) == 3
    assert all(message_id.isascii() and message_id.isprintable() for _, message_id in calls)


async def test_two_calculations_are_two_calls(spool: AnySpool, clock: Any) -> None:
    """An audience that is calculated twice with the same result is reported twice, by different messageIds."""
    assert await arrive(spool, clock, "calculated") == NEW
    clock.now_ms += HOUR_MS
    assert await arrive(spool, clock, "calculated") == NEW
    (_, first), (_, second) = await sent(spool)
    assert first != second


@pytest.mark.parametrize("kind", ["user:matched", "calculated"])
async def test_a_resend_by_us_after_a_restart_keeps_the_message_id(
    open_spool: Callable[[SpoolLimits], Awaitable[AnySpool]], clock: Any, kind: str
) -> None:
    """What was sent with an unknown outcome is sent again under the same messageId, whatever was restarted."""
    spool = await open_spool(SpoolLimits())
    await arrive(spool, clock, kind)
    before = await sent(spool)
    if isinstance(spool, SqliteSpool):
        await spool.close()
        spool = await open_spool(SpoolLimits())
    clock.now_ms += HOUR_MS
    assert await sent(spool) == before
