"""What people and programs do to events and values beside delivering: each act is a job of the second writer."""

from collections.abc import Callable, Sequence
from functools import partial

from forwarder.archive_port import AuditRow
from forwarder.ports import Erased
from forwarder.spool.leasing import Leasing
from forwarder.spool.postgres.appends import text
from forwarder.spool.postgres.kept_values import KeptValues
from forwarder.spool.postgres.ownership import Ownership
from forwarder.spool.postgres.reading.archive import PostgresArchive
from forwarder.spool.postgres.requeueing import discard, requeue
from forwarder.spool.postgres.settling import Settling
from forwarder.spool.postgres.shared_erasing import SharedErasing
from forwarder.spool.postgres.transaction import Transaction
from forwarder.spool.postgres.writer import Writer

_CHUNK = 500  # events in one commit, so that a long replay delays nobody


class PostgresActs(PostgresArchive):
    """The archive, and what changes it."""

    _moves: Writer
    _leasing: Leasing
    _settling: Settling
    _erasing: SharedErasing
    _number: int  # the replica's, as a writer
    _kept: KeptValues
    ownership: Ownership

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False, is_replay: bool = True) -> int:
        """Make settled events pending again; see `ports.Spool.requeue`."""
        self._refuse_closed()
        count = 0
        for start in range(0, len(sequences), _CHUNK):
            work = partial(
                requeue,
                sequences=sequences[start : start + _CHUNK],
                everything=everything,
                is_replay=is_replay,
                writer=self._number,
            )
            counts, _ = await self._moves.run_job(work, on_commit=lambda result: self._leasing.requeued(*result))
            count += sum(counts)
        return count

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded; see `ports.Spool.discard`."""
        self._refuse_closed()
        return await self._moves.run_job(partial(discard, sequences=sequences))

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase what these events hold; see `ports.Spool.erase`."""
        self._refuse_closed()
        return await self._erasing.erase(sequences)

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """Let what was erased leave the tables; see `ports.Spool.scrub`. Its log and copies keep it longer."""
        self._refuse_closed()
        return await self._erasing.scrub(user_ids)

    async def put(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.put`. Raises ValueError above the limit."""
        self._refuse_closed()
        await self._kept.put(key, self._limits.small(value, key))

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a small value by what `change` makes of it; see `ports.Spool.change`."""
        self._refuse_closed()
        return await self._kept.change(key, lambda before: self._limits.small(change(before), key))

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called when another replica changed a value; see `ports.Spool.watch`."""
        self._kept.watch(key, heard)

    @property
    def has_replicas(self) -> bool:
        """Say yes: any number may be at work; see `ports.Spool.has_replicas`."""
        return True

    def leads(self) -> bool:
        """Tell whether this replica does what one does for all: the owner of the first partition does."""
        return self.ownership.leads()

    async def write_audit(self, row: AuditRow, *, number: int | None = None) -> int:
        """Add to the audit log; see `archive_port.Archive.write_audit`."""
        self._refuse_closed()
        return await self._moves.run_job(partial(_write_audit_line, row=row, number=number))


async def _write_audit_line(transaction: Transaction, row: AuditRow, number: int | None) -> int:
    """Add a line to the audit log, or rewrite what is known of its outcome; return its number."""
    connection = transaction.connection
    if number is not None and await connection.fetchval(
        "UPDATE forwarder.audit SET count = $2, outcome = $3 WHERE audit_id = $1 RETURNING audit_id",
        number,
        row.count,
        text(row.outcome),
    ):
        return number
    return int(
        await connection.fetchval(
            "INSERT INTO forwarder.audit (at_ms, who, action, detail, count, outcome) VALUES ($1, $2, $3, $4, $5, $6) "
            "RETURNING audit_id",
            row.at_ms,
            text(row.who),
            text(row.action),
            text(row.detail),
            row.count,
            text(row.outcome),
        )
    )
