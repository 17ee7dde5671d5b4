"""What follows from an answer to a batch: for its parcel, and for the route.

What the answer means was decided by the sink. Counting to tell a culprit from an outage is in `poison`,
whether requests may go in `gate`; sending is in `delivery`.
"""

from collections.abc import Callable

import msgspec

from forwarder.flow.backoff import Backoff
from forwarder.flow.gate import Gate, StopKind
from forwarder.flow.parcels import Parcel, Parcels
from forwarder.flow.poison import (
    BATCH_FAILURES_MAX,
    HOLDS_MAX,
    HoldSuspects,
    RefusalStreak,
    is_hopeless,
    read_progress,
)
from forwarder.flow.settlement import Settlement, told
from forwarder.model import Answer, Attempt, Delivered, Filtered, Held, Lease, Refused, RouteName, State, TryLater
from forwarder.ports import Clock
from forwarder.telemetry.reporter import Reporter

_WAITING_EVENTS_MAX = 1_000
_STRUCK_MAX = 10_000
_RATE_LIMITED = 429
_TOO_LARGE = 413


class Aftermath:
    """Apply verdicts. `apply` decides without awaiting; only then does it write.

    What stays in hand may be on its way again before its failure is written down: the spool keeps the order.
    """

    def __init__(
        self,
        *,
        route: RouteName,
        settlement: Settlement,
        parcels: Parcels,
        gate: Gate,
        backoff: Backoff,
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self._route = route
        self._settlement = settlement
        self._parcels = parcels
        self._gate = gate
        self._backoff = backoff
        self._reporter = reporter
        self._clock = clock
        self._rng = rng
        self._streak = RefusalStreak()
        self._suspects = HoldSuspects()
        self._passes = 0  # parcels that the destination took
        self._passes_at_hold = -1
        self._strikes_seen: dict[int, int] = {}  # event that waits in the spool → passes at its last failure

    def company_max(self, lease: Lease) -> int | None:
        """Return how many may travel with this event, itself included; None when it is above suspicion."""
        if lease.attempt > 1 or self._streak.has_second_chance(lease.sequence):
            return 1
        return self._suspects.company_max(lease.sequence)

    def recognise(self, parcel: Parcel) -> None:
        """Tell a parcel that comes back from the spool what is known of its failures."""
        for sequence in parcel.sequences:
            passes = self._strikes_seen.pop(sequence, None)
            if passes is not None:
                parcel.failures = 1
                parcel.passes_seen = passes

    async def apply(self, parcel: Parcel, answer: Answer, *, started_s: float) -> bool:
        """Settle the parcel or queue it again; return whether its leases were given back to the spool."""
        attempt = answer.attempt
        match answer.verdict:
            case Delivered():
                await self._delivered(parcel, attempt, started_s)
            case Filtered(reason=reason):
                self._passed(parcel, started_s)
                await self._settlement.dismiss(parcel.leases, state=State.FILTERED, reason=reason, attempt=attempt)
            case Refused() as refused:
                return await self._refused(parcel, attempt, refused, started_s)
            case TryLater() as later:
                return await self._later(parcel, attempt, later, started_s)
            case Held(reason=reason):
                await self._held(parcel, attempt, reason)
        return True

    async def _delivered(self, parcel: Parcel, attempt: Attempt, started_s: float) -> None:
        self._passed(parcel, started_s)
        notes = {delivery.sequence: delivery.note for delivery in parcel.batch.deliveries if delivery.note}
        await self._settlement.deliver(parcel.leases, attempt=attempt, notes=notes)

    def _passed(self, parcel: Parcel, started_s: float) -> None:
        self._passes += 1
        self._streak.accepted(parcel.sequences)
        self._suspects.clear(parcel.sequences)
        self._open(started_s)

    def _open(self, started_s: float) -> None:
        ended = self._gate.release(started_s=started_s)
        if ended is not None and ended.is_hold:
            held_s = self._clock.monotonic_s() - ended.since_s
            self._reporter.route_hold_ended(self._route, scope="route", held_s=held_s)

    # --- refused: someone in it is the culprit ---

    async def _refused(self, parcel: Parcel, attempt: Attempt, refused: Refused, started_s: float) -> bool:
        stop = self._gate.stop
        if stop is not None and stop.kind is not StopKind.REFUSALS:
            self._open(started_s)  # a refusal is an answer: the set-up is right, the destination is there
        if len(parcel.leases) > 1:
            if attempt.status == _TOO_LARGE:
                self._parcels.too_large(parcel, now_s=self._clock.monotonic_s())
            self._parcels.queue_first(*parcel.halves())
            await self._settlement.record(parcel.leases, attempt)
            return False
        (lease,) = parcel.leases
        if self._gate.is_held:
            # Judged again when the hold is over: until something is accepted, a refusal proves nothing.
            self._gate.postpone(now_s=self._clock.monotonic_s())
            await self._settlement.give_back([lease], attempt=attempt, reason=refused.reason)
            return True
        await self._settlement.bury(lease, reason=told(refused), logged=refused.reason, attempt=attempt)
        stop = self._gate.stop
        if stop is not None and stop.is_hold:  # another one completed the row while this was written down
            self._streak.pardon(lease.sequence)
            await self._settlement.requeue([lease.sequence])
            return True
        row = self._streak.refused(lease.sequence)
        if row:
            self._hold(f"{len(row)} events in a row were refused", attempt.status, StopKind.REFUSALS)
            await self._settlement.requeue(row)
        return True

    # --- later: the destination is away, or chokes on this ---

    async def _later(self, parcel: Parcel, attempt: Attempt, later: TryLater, started_s: float) -> bool:
        now_s = self._clock.monotonic_s()
        self._reporter.request_failed(
            self._route, reason=later.reason, status=attempt.status, events=len(parcel.leases)
        )
        if self._gate.is_held and not self._ends_hold(attempt, started_s):
            self._gate.postpone(now_s=now_s)
            await self._settlement.give_back(parcel.leases, attempt=attempt, reason=later.reason)
            return True
        if parcel.is_probe:  # not one of those in hand: memory would grow with every probe of an outage
            self._back_off(later, started_s, now_s)
            await self._settlement.record(parcel.leases, attempt)
            await self._settlement.give_back(parcel.leases)
            return True
        others_passed = parcel.failures > 0 and self._passes > parcel.passes_seen
        parcel.failures += 1
        parcel.passes_seen = self._passes
        if not others_passed or later.after_s is not None or attempt.status == _RATE_LIMITED:
            self._back_off(later, started_s, now_s)
        if not others_passed or attempt.status == _RATE_LIMITED:
            self._parcels.queue(parcel)
            await self._settlement.record(parcel.leases, attempt)
            return False
        parcel.strikes += 1
        return await self._struck(parcel, attempt, later, now_s)

    def _ends_hold(self, attempt: Attempt, started_s: float) -> bool:
        # No answer is not an answer outside the hold's class, and only an acceptance ends a hold for refusals.
        stop = self._gate.stop
        if attempt.status is None or stop is None or stop.kind is StopKind.REFUSALS:
            return False
        self._open(started_s)
        return not self._gate.is_held

    def _back_off(self, later: TryLater, started_s: float, now_s: float) -> None:
        stop = self._gate.back_off(
            later.reason,
            after_s=later.after_s,
            started_s=started_s,
            now_s=now_s,
            now_ms=self._clock.wall_ms(),
        )
        if stop is not None:
            self._reporter.route_backing_off(
                self._route, scope="route", reason=later.reason, after_s=stop.retry_at_s - now_s
            )

    async def _struck(self, parcel: Parcel, attempt: Attempt, later: TryLater, now_s: float) -> bool:
        """Handle a parcel that fails while others succeed: it waits by itself, is cut, or given up."""
        if len(parcel.leases) == 1:
            (lease,) = parcel.leases
            if is_hopeless(lease, now_ms=self._clock.wall_ms()):
                reason = f"keeps failing: {attempt.status or later.reason}"
                await self._settlement.bury(lease, reason=reason, logged=reason, attempt=attempt)
                return True
            self._remember_strike(lease.sequence)
            after_s = later.after_s or self._backoff.delay_s(lease.attempt, self._rng)
            await self._settlement.postpone([lease], after_s=after_s, reason=later.reason, attempt=attempt, counts=True)
            return True
        if parcel.failures >= BATCH_FAILURES_MAX:
            for half in parcel.halves():
                self._parcels.queue(half)
            await self._settlement.record(parcel.leases, attempt)
            return False
        delay_s = self._backoff.delay_s(parcel.strikes, self._rng)
        if self._parcels.waiting_events + len(parcel.leases) > _WAITING_EVENTS_MAX:
            await self._settlement.postpone(
                parcel.leases, after_s=delay_s, reason=later.reason, attempt=attempt, counts=True
            )
            return True
        self._parcels.wait(parcel, until_s=now_s + delay_s)
        await self._settlement.record(parcel.leases, attempt)
        return False

    def _remember_strike(self, sequence: int) -> None:
        if len(self._strikes_seen) >= _STRUCK_MAX:
            self._strikes_seen.clear()  # then their next failure merely stops the route for a moment
        self._strikes_seen[sequence] = self._passes

    # --- held: the set-up is wrong ---

    async def _held(self, parcel: Parcel, attempt: Attempt, reason: str) -> None:
        if self._gate.is_held:
            self._hold(reason, attempt.status, StopKind.HELD)
            await self._settlement.give_back(parcel.leases, attempt=attempt, reason=reason)
            return
        others_passed = self._passes > self._passes_at_hold >= 0
        self._passes_at_hold = self._passes
        if len(parcel.leases) == 1 and others_passed:
            await self._alone_began_hold(parcel.leases[0], attempt, reason)
            return
        self._suspects.accuse(parcel.sequences)
        self._hold(reason, attempt.status, StopKind.HELD)
        await self._settlement.give_back(parcel.leases, attempt=attempt, reason=reason)

    async def _alone_began_hold(self, lease: Lease, attempt: Attempt, reason: str) -> None:
        progress = read_progress(lease)
        progress.holds += 1
        if progress.holds >= HOLDS_MAX:
            self._suspects.clear([lease.sequence])
            given_up = f"keeps holding the route: {attempt.status}"
            await self._settlement.bury(lease, reason=given_up, logged=given_up, attempt=attempt)
            return
        self._hold(reason, attempt.status, StopKind.HELD)
        await self._settlement.note(lease, msgspec.json.encode(progress))
        # Others go first once the hold is over: this one alone seems to bring it about.
        after_s = self._backoff.ceiling_s(progress.holds)
        await self._settlement.postpone([lease], after_s=after_s, reason=reason, attempt=attempt, counts=False)

    def _hold(self, reason: str, status: int | None, kind: StopKind) -> None:
        began = self._gate.hold(reason, kind=kind, now_s=self._clock.monotonic_s(), now_ms=self._clock.wall_ms())
        if began is not None:
            self._reporter.route_held(self._route, scope="route", reason=reason, status=status)
