"""The spool on Postgres: where events survive the loss of any replica until their destination said yes.

It opens and closes, and hands each call to who knows about it: two writers, `Leasing`, `Ownership`, `Reading`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from functools import partial

from forwarder.errors import SpoolClosed, SpoolFull, SpoolTooNew, WorkerEnded
from forwarder.model import Attempt, Demand, Envelope, Lease, Receipt, RouteName, Settlement
from forwarder.ports import Clock
from forwarder.spool.codes import ROUTE_CODES
from forwarder.spool.leasing import Leasing
from forwarder.spool.limits import CAP_RETRY_AFTER_S, SpoolLimits, incoming_bytes
from forwarder.spool.postgres.append_queue import AppendQueue
from forwarder.spool.postgres.appends import Append, Appender, Intake
from forwarder.spool.postgres.capacity import Capacity
from forwarder.spool.postgres.connecting import Connector
from forwarder.spool.postgres.housekeeping import Housekeeping
from forwarder.spool.postgres.kept_values import KeptValues
from forwarder.spool.postgres.layout_steps import THIS, Program, prepare
from forwarder.spool.postgres.ownership import Ownership
from forwarder.spool.postgres.reads import QueueReads
from forwarder.spool.postgres.reconnecting import AWAY, Connection, unusable
from forwarder.spool.postgres.replica_acts import PostgresActs
from forwarder.spool.postgres.settling import Settling
from forwarder.spool.postgres.shared_erasing import SharedErasing
from forwarder.spool.postgres.writer import Writer
from forwarder.telemetry.reporter import Reporter

_POLL_S = 0.25
_POLL_BUSY_S = 0.03  # while other replicas bring something
_OTHERS_S = 1.0  # how old what is known of the others' totals may be


class PostgresSpool(PostgresActs):
    """A spool and a `ports.Worker` on one replica; its `run` raises when a task of it ended unasked."""

    name = "spool writer"

    def __init__(
        self, connector: Connector, limits: SpoolLimits, clock: Clock, reporter: Reporter, program: Program
    ) -> None:
        super().__init__(Connection(connector), limits, clock, refused_for=self._refused_for_now)
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._nudged = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._is_done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._connection = Connection(connector)  # for what is rare
        self._kept = KeptValues(self._connection)
        self.ownership = Ownership(Connection(connector), program, self._busy_partitions, self._hear_failure)
        make = partial(Writer, limits=limits, clock=clock, heard=self._hear_writers, synced=reporter.spool_committed)
        self._appends = make(Connection(connector))
        self._moves = make(Connection(connector))
        self.housekeeping = Housekeeping(Connection(connector), limits, clock, self.ownership.leads, self._hear_failure)
        self._capacity = Capacity(limits, (self._appends, self._moves, self.housekeeping.writer))
        self._connector = connector

    def __repr__(self) -> str:
        """Show the queues."""
        return f"PostgresSpool({self._leasing!r})"

    @classmethod
    async def open(
        cls,
        read_url: Callable[[], str],
        *,
        limits: SpoolLimits,
        clock: Clock,
        reporter: Reporter,
        is_replica: bool = True,
        program: Program = THIS,
    ) -> "PostgresSpool":
        """Open the database's spool, making its schema where there is none.

        `read_url` is asked again for every connection. `is_replica` False: it owns no partition and leases nothing.
        Raises `SpoolAway`: the caller tries again unless it is lasting, and `SpoolUnusable`, with the remedy, for a
        database that will not do.
        """
        spool = cls(Connector(read_url), limits, clock, reporter, program)
        try:
            await spool._start(is_replica=is_replica)
        except BaseException as error:
            await spool.close()
            if (meant := unusable(error)) is not None:
                raise meant from None
            raise
        return spool

    async def _start(self, *, is_replica: bool) -> None:
        await prepare(self._connection, self.ownership.program, is_replica=is_replica)
        async with self._connection.statement() as connection:
            self._number = await connection.fetchval("SELECT nextval('forwarder.slot_sequence')")
        self._appender = Appender(self._number, self.ownership.home)
        self._queue = AppendQueue(self._appends, self._appender, self._stored)
        if is_replica:
            await self.ownership.renew()
        self._reads = QueueReads(
            Connection(self._connector),
            self.ownership.mine,
            own=self._number,
            cache_bytes_max=self._limits.cache_bytes_max,
        )
        self._leasing = Leasing(
            self._loop,
            self._reads,
            limits=self._limits,
            clock=self._clock,
            last_sequence=0,
            damaged=self._no_damage,
            read_failed=self._hear_failure,
        )
        self._settling = Settling(
            self._moves,
            self._leasing,
            self._reads,
            self.ownership,
            self._reporter,
            nudge=self._nudged.set,
            begin_anew=self._leasing.reset,
        )
        self._erasing = SharedErasing(self._moves, self._leasing, self._settling, self._connection)
        self._reads.begin(self.ownership.floors)
        self.ownership.changed = self._hear_ownership
        self._reads.moved = self._leasing.reset
        self._connector.promoted = self._settling.hear_promoted
        await self._leasing.start()
        replicas = [self.ownership.run, self.housekeeping.run, self._poll] if is_replica else []
        for work in (self._appends.run, self._moves.run, *replicas):
            task = self._loop.create_task(work())
            task.add_done_callback(self._hear_end)
            self._tasks.append(task)

    # --- Spool ---

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes in one transaction; see `ports.Spool.append`."""
        if self._is_closed:
            on_rollback(SpoolClosed("the spool is closed"))
            return
        if why := self._capacity.ask(incoming_bytes(envelopes)):
            on_rollback(SpoolFull(why, retry_after_s=CAP_RETRY_AFTER_S))
            return
        self._queue.add(Append(envelopes, on_commit, on_rollback))

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand; see `ports.Spool.lease`."""
        self._refuse_closed()
        if not self.ownership.may_lease() or self._settling.has_stale:  # nothing could be sent now
            return ()
        return self._settling.own(self._leasing.lease(ROUTE_CODES[route], demand))

    async def refill(self, route: RouteName, demand: Demand) -> None:
        """Read what of a demand is not at hand, so that the next lease has all of it."""
        self._refuse_closed()
        await self._leasing.look(ROUTE_CODES[route])
        await self._leasing.refill(ROUTE_CODES[route], demand)

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lease the newest due event; see `ports.Spool.lease_newest`."""
        self._refuse_closed()
        if not self.ownership.may_lease():
            return None
        await self._leasing.look(ROUTE_CODES[route])  # what was committed just now is the newest
        lease = await self._leasing.lease_newest(ROUTE_CODES[route])
        return None if lease is None else await self._settling.own_or_return(lease)

    def may_send(self) -> bool:
        """Tell whether an exchange may begin now: not when another replica may do so with what is in hand here."""
        return self.ownership.may_send() and not self._settling.has_stale

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Register the listener of a route; see `ports.Spool.on_work`."""
        self._leasing.on_work(ROUTE_CODES[route], wake)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back; see `ports.Spool.settle`."""
        self._refuse_closed()
        await self._settling.settle(settlements)

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress; see `ports.Spool.note`."""
        self._refuse_closed()
        await self._settling.note(sequence, progress)

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events; see `ports.Spool.record`."""
        self._refuse_closed()
        await self._settling.record(sequences, attempt)

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, give the partitions away. Idempotent."""
        self._closing = self._closing or self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        self._is_done.set()
        if self._tasks:
            self._leasing.close()
        for part in (self.housekeeping, self._appends, self._moves, self.ownership):
            part.end()
        self._nudged.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ownership.release()
        if self._tasks:
            await self._leasing.end()
        writers = self._appends, self._moves, self.housekeeping.writer
        connections = self._connection, self._read_connection, *(writer.connection for writer in writers)
        # Side by side: one that nobody answers takes its time.
        await asyncio.gather(*(connection.close() for connection in connections))

    # --- Worker and Probeable ---

    async def run(self) -> None:
        """Wait for the end; raises `WorkerEnded` when a task ended unasked, `SpoolTooNew`. See `ports.Worker`."""
        await self._is_done.wait()
        error = next((e for t in self._tasks if t.done() and not t.cancelled() and (e := t.exception())), None)
        if isinstance(error, SpoolTooNew):
            raise error
        if error is not None and not self._is_closed:
            raise WorkerEnded(f"the spool's writer ended ({type(error).__name__}): please report it")

    async def drain(self) -> None:
        """Let `run` return; see `ports.Worker`. What is in hand is committed when the spool is closed."""
        self._is_done.set()

    def is_alive(self, *, now_s: float, within_s: float) -> bool:  # noqa: ARG002 - the port's signature
        """Say that a database that is away is no reason to be killed; see `ports.Probeable`."""
        return True

    # --- inside: what is heard ---

    async def _poll(self) -> None:
        """Look for what arrived: at once after an own commit, often while others bring something."""
        looked_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_BUSY_S if self._reads.is_others_busy else _POLL_S):
                    await self._nudged.wait()
            self._nudged.clear()
            if self._is_closed:
                return
            try:
                for route in (0, 1):
                    await self._leasing.look(route)
                if self._loop.time() >= looked_s + _OTHERS_S:
                    looked_s = self._loop.time()
                    for look in (self.ownership.look, self._capacity.look, self._reads.raise_floors):
                        await look(self._connection)
                    await self._erasing.look(self.ownership.mine())
                    await self._kept.look()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look may do
                self._hear_failure(error)

    def _stored(self, intake: Intake) -> None:
        for leases in intake.leases:
            self._reads.commits.keep(leases)
        self._nudged.set()

    def _hear_ownership(self, ended: Collection[int]) -> None:
        self._settling.hear_ended(ended)
        self._reads.begin(self.ownership.floors)
        self._leasing.reset()

    def _hear_writers(self) -> None:
        before, away = self._leasing.is_deferring, bool(self._moves.refusal)
        self._leasing.is_deferring = away
        if away and not before:
            self._reporter.spool_refusing(reason=self._moves.refusal)
        if before and not away:
            self._reporter.spool_accepting()
            self._leasing.reset()

    def _hear_failure(self, error: Exception) -> None:
        if not isinstance(error, (*AWAY, SpoolFull, SpoolClosed)):
            self._loop.call_exception_handler({"message": "the database did not do what was asked", "exception": error})

    def _hear_end(self, _task: asyncio.Task[None]) -> None:
        self._is_done.set()

    async def _no_damage(self, _route: int, _sequences: Sequence[int]) -> None:
        """Postgres' own checksums tell of damage; nothing here is read in spite of it."""

    def _busy_partitions(self) -> set[int]:
        return self._settling.busy_partitions() if self._tasks else set()

    def _refused_for_now(self) -> str:
        return self._appends.refusal or self._moves.refusal or self._capacity.refusal()
