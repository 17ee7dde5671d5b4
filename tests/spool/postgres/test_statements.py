"""How many statements a commit takes: as many for a hundred events as for two, or each costs its way there and back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import structlog

from forwarder.model import Attempt, Envelope, Labels, Returned, RouteName, Settled, State
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter
from stand_ins.clock import HandClock
from stand_ins.spool_acts import leased, stored

IN = RouteName.RUDDERSTACK_TO_COURIER
Statements = list[list[str]]  # by connection


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Return what every connection opened from now on sends, as it sends it."""
    seen: Statements = []
    opened = Connector.open

    async def heard(connector: Connector, **how: float) -> asyncpg.Connection:
        connection = await opened(connector, **how)
        mine: list[str] = []
        seen.append(mine)
        connection.add_query_logger(lambda query: mine.append(query.query))
        return connection

    monkeypatch.setattr(Connector, "open", heard)
    return seen


@pytest.fixture
async def spool(statements: Statements, postgres_url: str) -> AsyncIterator[Any]:
    """Return a replica whose statements are counted."""
    del statements  # they are listened to from before
    reporter = Reporter(Metrics(), structlog.get_logger())
    one = await PostgresSpool.open(
        lambda: postgres_url, limits=SpoolLimits(), clock=HandClock(1_700_000_000_000), reporter=reporter
    )
    yield one
    await one.close()


def _envelope(number: int) -> Envelope:
    return Envelope(
        route=IN,
        event_key=number.to_bytes(16, "big"),
        partition_key=f"user {number}",
        received_at_ms=1_700_000_000_000,
        payload=b'{"n":%d}' % number,
        source="webhook",
        labels=Labels(type="identify"),
    )


def _attempt(number: int) -> Attempt:
    return Attempt(
        at_ms=1_700_000_000_000,
        duration_ms=3,
        operation=f"PUT /users/{number}",
        status=200,
        outcome="delivered",
        reason="",
        answer=b"{}",
    )


async def _act(spool: Any, numbers: range, act: Callable[[int], Awaitable[None]], statements: Statements) -> list[str]:
    """Have so many events leased and something done to each at once; return what the commit took that did it."""
    await stored(spool, [_envelope(number) for number in numbers])
    sequences = [lease.sequence for lease in await leased(spool, IN, fresh=1_000)]
    assert len(sequences) == len(numbers)
    for of_one in statements:
        of_one.clear()
    await asyncio.gather(*map(act, sequences))
    (writing,) = [[*of_one] for of_one in statements if any("WITH held" in one for one in of_one)]
    await spool.settle([Settled(sequences, State.DELIVERED)])
    return writing


@pytest.mark.parametrize("what", ["noted", "recorded", "delivered", "refused", "given back", "all of it"])
async def test_a_commit_takes_as_many_statements_for_many_events_as_for_few(
    spool: Any, statements: Statements, what: str
) -> None:
    """Whatever becomes of them, and though each has its own exchange and its own reason."""

    async def act(sequence: int) -> None:
        attempt, kind = _attempt(sequence), what
        if what == "all of it":
            kind = ("noted", "recorded", "delivered", "refused", "given back")[sequence % 5]
        match kind:
            case "noted":
                await spool.note(sequence, b"plan")
            case "recorded":
                await spool.record([sequence], attempt)
            case "delivered":
                news = (spool.note(sequence, b"over"), spool.record([sequence], _attempt(0)))
                await asyncio.gather(*news, spool.settle([Settled([sequence], State.DELIVERED, "", attempt)]))
            case "refused":
                await spool.settle([Settled([sequence], State.DEAD, f"no {sequence}", attempt)])
            case _:
                await spool.settle([Returned([sequence], 1_700_000_001_000, f"not {sequence}", attempt)])

    await _act(spool, range(10), act, statements)  # what is asked once a connection is asked here
    few = await _act(spool, range(10, 20), act, statements)
    many = await _act(spool, range(20, 120), act, statements)
    assert [one.partition(" VALUES")[0] for one in few] == [one.partition(" VALUES")[0] for one in many]


async def test_what_was_noted_and_delivered_together_takes_four_ways_there_and_back(
    spool: Any, statements: Statements
) -> None:
    """The beginning, all that is written, who is next in each order, and the account with the commit."""

    async def act(sequence: int) -> None:
        settling = spool.settle([Settled([sequence], State.DELIVERED, "", _attempt(sequence))])
        await asyncio.gather(spool.note(sequence, b"over"), settling)

    await _act(spool, range(2), act, statements)
    assert len(await _act(spool, range(2, 50), act, statements)) == 4
