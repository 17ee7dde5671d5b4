"""The seams of the house: what each stage promises, and what its caller may not assume."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from forwarder.errors import SpoolClosed, SpoolFull, Unmappable
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivery,
    Demand,
    Envelope,
    Filtered,
    HttpRequest,
    HttpResponse,
    Lease,
    Receipt,
    RouteName,
    Settlement,
    Unmapped,
)

KeptT = TypeVar("KeptT")


class Clock(Protocol):
    """The time, as everything that waits or stamps is given it."""

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""


class Transport(Protocol):
    """One HTTP exchange with a vendor."""

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Send the request and return the whole answer, whatever its status; redirects are not followed.

        Raises `NoAnswer` for everything that is not a whole answer within the request's time-out.
        """


class Spool(Protocol):
    """Where an event is safe: it survives kill -9 and power loss from `append` to its settlement.

    Every writing call returns only after the commit. Sequences grow, are never reused and are unique over both routes.
    Safe to call from many tasks of one event loop; calls made close together share a commit.
    """

    def append(
        self,
        envelopes: Sequence[Envelope],
        *,
        on_commit: Callable[[Receipt], None],
        on_rollback: Callable[[SpoolFull | SpoolClosed], None],
    ) -> None:
        """Store the envelopes in one transaction, all or none; known keys count as duplicates.

        Returns at once. Exactly one of the two is called, once, on the event loop's thread: `on_commit` after the
        commit that holds the envelopes (a duplicate's: after the commit of the first copy), `on_rollback` when
        nothing was stored: `SpoolFull` (cap or disk; come back) or `SpoolClosed`. It may be called before `append`
        returns. Neither may raise or block; an `on_commit` that raised all the same is followed by `on_rollback`.
        """

    def lease(self, route: RouteName, demand: Demand) -> Sequence[Lease]:
        """Lease the oldest due events at hand, at most what is demanded.

        Returns at once, from memory, perhaps with nothing: what is only on disk is read behind it, and `on_work`
        tells when to ask again. An event is leased to one caller at a time and stays leased until it is settled
        or the process ends. Of the events with the same non-empty partition key only the oldest pending one is
        ever leased, also while it waits for a retry (law 4); of replays see `requeue`. Stops before the payloads' sum
        passes `demand.bytes_max`, but leases at least one. Leases nothing while settlements are deferred (full disk).
        A damaged row is quarantined (dead, "corrupt row"), counted, and the rest is leased. Raises `SpoolClosed`.
        """

    async def lease_newest(self, route: RouteName) -> Lease | None:
        """Lease the newest due event that is not leased (a probe's alternative to the oldest); no replay is one."""

    def on_work(self, route: RouteName, wake: Callable[[], None]) -> None:
        """Register the one listener of a route: called whenever a lease may find something new or due.

        On the event loop's thread, within a millisecond or two of an append's commit, when a due time passes, when
        a read of the backlog is done, and at the end. May be called for nothing. It must not raise or block.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle leased events or give them back, all in one commit; return after it.

        Sequences that are not leased are left alone. Never fails for a full disk: the settlements are deferred in
        memory, nothing new is leased meanwhile, and this returns when the commit succeeded (or with `SpoolClosed`).
        """

    async def note(self, sequence: int, progress: bytes) -> None:
        """Keep a leased event's progress, durable; the next lease of it carries it."""

    async def record(self, sequences: Sequence[int], attempt: Attempt) -> None:
        """Keep one more exchange of leased events that stay leased, shown with each of them; durable.

        One row for all, and the last ten of each: an outage must not fill the spool. On a full disk it is left out.
        """

    async def requeue(self, sequences: Sequence[int], *, everything: bool = False, is_replay: bool = True) -> int:
        """Make settled events pending again at once, as if new (attempts 0); return how many it did.

        They go beside what arrives, in their own order: nothing of their partition waits for them, but two are never
        out. Where few wait (`SpoolLimits.replays_in_line_max`), one whose partition has events waiting goes before
        those, until it is given back. `is_replay` False takes a settlement back: they stand where they were. Totals
        move with them, key and progress stay; until that is noted anew its lease says `Replay.REST`, or with
        `everything` `Replay.EVERYTHING`. Unknown and pending ones are skipped; what was to settle before has done so.
        """

    async def discard(self, sequences: Sequence[int]) -> int:
        """Mark dead events as discarded (they stay dead and in the totals); return how many."""

    async def erase(self, sequences: Sequence[int]) -> "Erased":
        """Erase what these events hold: payload, user and message label, plan, answers. Key, state, type and name stay.

        Settled ones keep their state; pending ones are dead, and with the unmapped discarded, for nothing of them can
        be sent any more. Leased ones are left as they are, and counted. Totals balance throughout.
        """

    async def scrub(self, user_ids: Sequence[str]) -> bool:
        """After `erase`: take these ids out of the audit log, and what was deleted out of the files.

        False: a reader was in the way, and deleted bytes stay in the files until the next start or a further call.
        """

    async def put(self, key: str, value: bytes) -> None:
        """Keep a small value of the daemon's own (pause, links), durable; at most 4 MiB."""

    async def get(self, key: str) -> bytes | None:
        """Return what `put` kept, or None."""

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace such a value by what `change` makes of it, durable; return that. b"" counts as nothing kept.

        Of several replicas one changes it at a time. `change` only computes: it may run on another thread, and again.
        What it raises is raised here, and the value stays.
        """

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called, within about a second, when another replica changed such a value; perhaps for nothing.

        On the event loop's thread. It must not raise or block.
        """

    @property
    def has_replicas(self) -> bool:
        """Tell whether other processes may be at work on the same events."""

    def may_send(self) -> bool:
        """Tell whether what is leased is still ours alone: False once another replica may have taken it over."""

    def leads(self) -> bool:
        """Tell whether it is this replica that does what one does for all: probes, incidents, alerts."""

    async def close(self) -> None:
        """Refuse what comes, commit what is in hand, checkpoint, release the lock. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure met: events that hold nothing any more, those of them that were pending, and leased ones left."""

    events: int
    pending: int
    leased: int


Mapped = tuple[Delivery, ...] | Filtered | Unmapped


class Mapper(Protocol):
    """From a stored event to what the destination shall get. Pure, and total: it raises only `Unmappable`."""

    def map(self, lease: Lease) -> Mapped:
        """Return the deliveries in the order they are to be made (outbound: exactly one), or why there are none.

        Raises `Unmappable`: the event is dead with that reason.
        """


class BatchMapper(Mapper, Protocol):
    """A mapper as a route uses it."""

    def map_batch(self, leases: Sequence[Lease]) -> Sequence[Mapped | Unmappable]:
        """Map each of them as `map` does; what `map` raises stands in its place."""


class Sink(Protocol):
    """A destination."""

    async def send(self, batch: Batch) -> Answer:
        """Make one exchange and say what it means. Never raises for what a destination can do.

        Inbound batches hold exactly one delivery. Cancelling it leaves the outcome unknown.
        """


class Worker(Protocol):
    """A task that the daemon owns."""

    name: str

    async def run(self) -> None:
        """Work until cancelled or drained. Returning before `drain` was called is a bug and ends the daemon."""

    async def drain(self) -> None:
        """Take nothing new, finish what is in hand, make `run` return. Called once; the daemon bounds it."""


@runtime_checkable
class Startable(Protocol):
    """A worker that others rely on from its start, such as a listener."""

    async def start(self) -> None:
        """Be of use once this returns; `run` follows. Idempotent. Raises `SettingsInvalid` when it cannot be."""


class Probeable(Protocol):
    """What the watchdog asks: did this loop turn lately?"""

    name: str

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether it made progress (or had none to make) within the time; monotonic seconds."""


def read_kept(
    kept: bytes | None, kind: type[KeptT], *, decode: Callable[..., KeptT] = msgspec.json.decode
) -> KeptT | None:
    """Read a value that a spool kept; None for nothing, and for what another version made."""
    try:
        return decode(kept, type=kind) if kept else None
    except msgspec.MsgspecError:
        return None
