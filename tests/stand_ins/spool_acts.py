"""What tests do with a spool: give it events, lease what there is, settle it, give it back, wait for work."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import (
    Attempt,
    Demand,
    Envelope,
    Labels,
    Lease,
    Receipt,
    Recurrence,
    Returned,
    RouteName,
    Settled,
    State,
)
from forwarder.ports import Spool


class RefilledSpool(Spool, Protocol):
    """A spool that can be made to have everything at hand."""

    async def refill(self, route: RouteName, demand: Demand) -> None:
        """Read what of a demand is on disk only, so that the next lease has all of it at hand."""


def an_envelope(
    number: int,
    *,
    partition: str = "",
    route: RouteName = RouteName.COURIER_TO_RUDDERSTACK,
    at_ms: int = 1_700_000_000_000,
    payload: bytes | None = None,
    source: str = "webhook",
    labels: Labels | None = None,
    recurrence: Recurrence | None = None,
) -> Envelope:
    """Return an event; the number makes its key."""
    return Envelope(
        route=route,
        event_key=number.to_bytes(16, "big"),
        partition_key=partition,
        received_at_ms=at_ms,
        payload=b'{"n":%d}' % number if payload is None else payload,
        source=source,
        labels=labels or Labels(type="t", event="e"),
        recurrence=recurrence,
    )


async def leased(
    spool: RefilledSpool,
    route: RouteName = RouteName.COURIER_TO_RUDDERSTACK,
    *,
    fresh: int = 100,
    retry: int = 100,
    replay: int | None = None,
    size: int = 10_000_000,
) -> Sequence[Lease]:
    """Lease what there is, also when it must be read first; as many replays as fresh ones by default."""
    replay_max = fresh if replay is None else replay
    demand = Demand(fresh_max=fresh, retry_max=retry, bytes_max=size, replay_max=replay_max)
    await spool.refill(route, demand)
    return spool.lease(route, demand)


async def settle(
    spool: Spool, sequences: Sequence[int], state: State, *, reason: str = "", attempt: Attempt | None = None
) -> None:
    """Settle leased events."""
    await spool.settle([Settled(sequences, state, reason, attempt)])


async def give_back(
    spool: Spool,
    sequences: Sequence[int],
    not_before_ms: int = 0,
    *,
    reason: str = "",
    attempt: Attempt | None = None,
    counts: bool = True,
) -> None:
    """Give leased events back."""
    await spool.settle([Returned(sequences, not_before_ms, reason, attempt, counts)])


async def stored(spool: Spool, envelopes: Sequence[Envelope]) -> Receipt:
    """Append the envelopes and return once they are on disk; raises `SpoolFull` or `SpoolClosed`."""
    answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    def on_commit(receipt: Receipt) -> None:
        if not answer.done():  # it is when nobody waits any more
            answer.set_result(receipt)

    def on_rollback(error: SpoolFull | SpoolClosed) -> None:
        if not answer.done():
            answer.set_exception(error)

    spool.append(envelopes, on_commit=on_commit, on_rollback=on_rollback)
    return await answer


class Work:
    """The listener of a route: it can be waited for."""

    def __init__(self, spool: Spool, route: RouteName = RouteName.COURIER_TO_RUDDERSTACK) -> None:
        self._event = asyncio.Event()
        spool.on_work(route, self._event.set)

    async def wait(self, *, within_s: float) -> bool:
        """Return True as soon as a lease may find something new since the last call; False at the time-out."""
        try:
            async with asyncio.timeout(within_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


async def numbers(
    spool: RefilledSpool,
    route: RouteName = RouteName.COURIER_TO_RUDDERSTACK,
    *,
    fresh: int = 100,
    retry: int = 100,
) -> list[int]:
    """Lease what there is, also when it must be read first, and return the sequences."""
    return [lease.sequence for lease in await leased(spool, route, fresh=fresh, retry=retry)]
