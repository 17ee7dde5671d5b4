"""One transaction for whatever waits, or for one step of housekeeping. On the writer thread."""

from collections.abc import Callable, Sequence

import apsw

from forwarder.ports import Clock
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.sqlite.appends import take_in
from forwarder.spool.sqlite.housekeeping import Housekeeping
from forwarder.spool.sqlite.known_keys import KnownKeys
from forwarder.spool.sqlite.transaction import Memory, Transaction, load_memory
from forwarder.spool.sqlite.writer_jobs import AppendJob, Commit, Job


class GroupCommit:
    """Work jobs off together, all or none; memory follows the disk."""

    def __init__(
        self, connection: apsw.Connection, *, limits: SpoolLimits, clock: Clock, committed: Callable[[float], None]
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._committed = committed
        self.memory: Memory = load_memory(connection)
        self._keys = KnownKeys(connection, retention_s=limits.retention_s, now_ms=clock.wall_ms())
        self._housekeeping = Housekeeping(connection, limits, self._keys)

    def commit(self, jobs: Sequence[AppendJob | Job]) -> Commit:
        """Do them in one transaction, synced to disk; raises what any of them raises, and then none is done."""
        commit = Commit()

        def work(transaction: Transaction) -> None:
            appends = [job.envelopes for job in jobs if type(job) is AppendJob]
            if appends:
                commit.intake = take_in(transaction, self._keys, appends)
            for job in jobs:
                if type(job) is Job:
                    commit.calls.append((job.done, job.work(transaction)))

        transaction = self._in_transaction(work)
        commit.last_sequence, commit.quarantined = transaction.sequence, transaction.quarantined
        return commit

    def tidy(self, *, is_idle: bool, is_pressed: bool) -> Commit | None:
        """Do one step of housekeeping, if one is due."""
        self._housekeeping.is_pressed = is_pressed
        if not self._housekeeping.is_due(self.memory, now_ms=self._clock.wall_ms(), is_idle=is_idle):
            return None
        commit = Commit()

        def work(transaction: Transaction) -> None:
            commit.evicted = self._housekeeping.step(transaction, is_idle=is_idle)

        commit.last_sequence = self._in_transaction(work).sequence
        return commit

    def look_at_clock(self) -> None:
        """Notice a wall clock that was set back."""
        self._housekeeping.look_at_clock(now_ms=self._clock.wall_ms(), monotonic_s=self._clock.monotonic_s())

    def _in_transaction(self, work: Callable[[Transaction], None]) -> Transaction:
        connection = self._connection
        transaction = Transaction(connection, self.memory, self._limits, now_ms=self._clock.wall_ms())
        connection.execute("BEGIN IMMEDIATE")
        try:
            work(transaction)
            transaction.write_totals()
            transaction.weigh()
            began_s = self._clock.monotonic_s()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._keys.forget_changes()
            self._housekeeping.forget_changes()
            raise
        self._committed(self._clock.monotonic_s() - began_s)
        transaction.keep()
        self._keys.keep()
        return transaction
