"""Take a bus' messages in: fetch, decode, append, and acknowledge once the spool's commit is there.

One batch is under way at a time, so a full spool stops the fetching, and what is in memory is bounded by one batch.
A bus that is away is tried again for ever.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from forwarder.errors import SourceAway, SpoolClosed, SpoolFull
from forwarder.model import Envelope, Receipt, RouteName
from forwarder.ports import Clock, Spool
from forwarder.sources.decode import envelopes, traceparent_of
from forwarder.sources.port import Bus, Fetched, Message
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import EndReceipt, Tracing

MESSAGES_MAX: Final = 500
BYTES_MAX: Final = 1_048_576
_LAG_EVERY_S: Final = 5.0
_AGAIN_S: Final = 0.5  # after the first failure; doubled with each, up to
_AGAIN_MAX_S: Final = 30.0
_KEEP_EVERY_S: Final = 5.0  # while the spool is full

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How a source is, for people. `state` is connecting, connected, away or waiting (the spool is full)."""

    name: str
    state: str
    since_ms: int
    reason: str = ""  # why it is away or waiting
    lag: int | None = None  # messages that the bus holds for us; None: not known


class _Drained(Exception):
    """Nothing new is to be begun."""


class SourceWorker:
    """`ports.Worker` of one bus; its events are those of the outbound route."""

    def __init__(
        self,
        name: str,
        bus: Bus,
        *,
        spool: Spool,
        clock: Clock,
        reporter: Reporter,
        rng: Callable[[], float],
        tracing: Tracing | None = None,
    ) -> None:
        """Keep the collaborators. `name` ("nats") is what envelopes, metrics and logs call it; `rng` gives [0, 1)."""
        self.name = name
        self._bus = bus
        self._spool = spool
        self._clock = clock
        self._reporter = reporter
        self._rng = rng
        self._tracing = tracing
        self._receipts: list[EndReceipt] = []  # the spans of what is in hand
        self._drained = asyncio.Event()
        self._failures = 0
        self._lag_at_s = 0.0
        self._status = SourceStatus(name=name, state="connecting", since_ms=clock.wall_ms())

    def status(self) -> SourceStatus:
        """Return what people should see now."""
        return self._status

    async def run(self) -> None:
        """Take messages until drained; see `ports.Worker`."""
        self._reporter.source_lag(self.name, None)
        try:
            while True:
                try:
                    fetched = await self._unless_drained(
                        self._bus.fetch(messages_max=MESSAGES_MAX, bytes_max=BYTES_MAX)
                    )
                    self._back()
                    await self._take(fetched)
                    await self._look_at_lag()
                    self._failures = 0  # not before: a bus may let itself be read and take no acknowledgement
                except SourceAway as error:
                    # What was fetched is given up: were it passed by, a later acknowledgement might cover it, too.
                    await self._bus.close()
                    self._away(str(error))
                    await self._pause(min(_AGAIN_MAX_S, _AGAIN_S * 2**self._failures) * (0.5 + self._rng() / 2))
                    self._failures = min(self._failures + 1, 10)
        except _Drained:
            pass
        finally:
            await self._bus.close()

    async def drain(self) -> None:
        """Fetch nothing more; what is on its way into the spool is acknowledged."""
        self._drained.set()

    async def _take(self, fetched: Fetched) -> None:
        if fetched.lost:
            self._reporter.source_lost(self.name, messages=fetched.lost)
        if not fetched.messages:
            return
        found = await self._decoded(fetched.messages)
        while True:
            try:
                receipt = await self._append(found)
                break
            except SpoolClosed:
                raise _Drained from None
            except SpoolFull as error:
                self._turn("waiting", "the spool has no room")
                await self._pause(min(error.retry_after_s, _KEEP_EVERY_S))
                await self._bus.keep(fetched.messages)
                await self._look_at_lag()
        for end in self._receipts:
            end(None)
        self._reporter.events_received(
            RouteName.COURIER_TO_RUDDERSTACK, accepted=receipt.accepted, duplicates=receipt.duplicates
        )
        self._turn("connected")
        await self._bus.acknowledge(fetched.messages)

    async def _decoded(self, messages: Sequence[Message]) -> list[Envelope]:
        found: list[Envelope] = []
        self._receipts.clear()  # what was not stored comes again
        now_ms = self._clock.wall_ms()
        for number, message in enumerate(messages, 1):
            steps = envelopes(message, received_at_ms=now_ms, source=self.name)
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    found += self._traced(message, done.value)
                    break
                await asyncio.sleep(0)
            if number % 100 == 0:
                await asyncio.sleep(0)
        return found

    def _traced(self, message: Message, found: Sequence[Envelope]) -> Sequence[Envelope]:
        if self._tracing is None:
            return found
        traced, end = self._tracing.receive(
            found, origin=self.name, traceparent=traceparent_of(message), started_s=self._clock.monotonic_s()
        )
        self._receipts.append(end)
        return traced

    async def _append(self, found: Sequence[Envelope]) -> Receipt:
        committed: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

        def on_commit(receipt: Receipt) -> None:
            if not committed.done():
                committed.set_result(receipt)

        def on_rollback(error: SpoolFull | SpoolClosed) -> None:
            if not committed.done():
                committed.set_exception(error)

        self._spool.append(found, on_commit=on_commit, on_rollback=on_rollback)
        return await committed

    async def _look_at_lag(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._lag_at_s:
            lag = await self._unless_drained(self._bus.lag())
            self._lag_at_s = now_s + _LAG_EVERY_S
            self._status = replace(self._status, lag=lag)
            self._reporter.source_lag(self.name, lag)

    async def _pause(self, seconds: float) -> None:
        await self._unless_drained(asyncio.sleep(seconds))

    async def _unless_drained(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns; cancel it and raise `_Drained` when the drain begins before."""
        if self._drained.is_set():
            work.close()
            raise _Drained
        task, drained = asyncio.ensure_future(work), asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait((task, drained), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Drained
            return task.result()
        finally:
            for one in (task, drained):
                one.cancel()
            await asyncio.wait((task, drained))

    def _away(self, reason: str) -> None:
        if (self._status.state, self._status.reason) != ("away", reason):
            self._reporter.source_away(self.name, reason=reason)
        self._turn("away", reason)
        self._status = replace(self._status, lag=None)
        self._lag_at_s = 0.0
        self._reporter.source_lag(self.name, None)

    def _back(self) -> None:
        if self._status.state in ("connecting", "away"):
            self._reporter.source_connected(self.name)
            self._turn("connected")

    def _turn(self, state: str, reason: str = "") -> None:
        is_same = self._status.state == state  # however often its reason changes
        since_ms = self._status.since_ms if is_same else self._clock.wall_ms()
        self._status = replace(self._status, state=state, reason=reason, since_ms=since_ms)
