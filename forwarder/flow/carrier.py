"""Carry one event through its plan: call after call, until it is settled or must wait.

What became of each call is kept in the plan (`plans`); whether calls may go is asked of the gates
(`families`). How many events are carried at a time is decided in `calls`.
"""

import asyncio
from collections.abc import Callable

from forwarder.flow.backoff import Backoff
from forwarder.flow.concurrency import ConcurrencyLimit
from forwarder.flow.families import ROUTE, Families
from forwarder.flow.parcels import batch_of
from forwarder.flow.plans import Fate, Plan, PlannedCall, delivery_of
from forwarder.flow.poison import HOLDS_MAX, is_hopeless
from forwarder.flow.setbacks import Setbacks
from forwarder.flow.settlement import Settlement
from forwarder.model import Answer, Attempt, Delivered, Filtered, Held, Lease, Refused, RouteName, State, TryLater
from forwarder.ports import Clock, Sink
from forwarder.telemetry.reporter import Reporter


class Carrier:
    """Make the calls of events, each event by itself. Every lease is settled or given back exactly once."""

    def __init__(
        self,
        *,
        route: RouteName,
        sink: Sink,
        settlement: Settlement,
        concurrency: ConcurrencyLimit,
        families: Families,
        backoff: Backoff,
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self._route = route
        self._sink = sink
        self._settlement = settlement
        self._concurrency = concurrency
        self._families = families
        self._backoff = backoff
        self._reporter = reporter
        self._clock = clock
        self._rng = rng
        self._setbacks = Setbacks()
        self._in_flight = 0
        self._is_closed = False

    def close(self) -> None:
        """Begin no further call: each event on its way ends with the call it is at."""
        self._is_closed = True

    async def carry(self, lease: Lease, plan: Plan, *, is_probe: bool) -> None:
        """Make the event's calls as far as it gets; `is_probe`: though the route stands still."""
        attempt: Attempt | None = None
        while (call := plan.next()) is not None:
            if self._is_closed or not (is_probe or self._families.route.is_open):
                await self._keep(lease, plan, attempt)
                await self._settlement.give_back([lease], attempt=attempt)
                return
            if not self._families.admits(call.family):
                await self._keep(lease, plan, attempt)
                await self.park(lease, call, attempt)
                return
            answer, started_s = await self._exchange(lease, plan, call, attempt)
            attempt = answer.attempt
            match answer.verdict:
                case TryLater() as later:
                    await self._later(lease, plan, call, later, attempt=answer.attempt, started_s=started_s)
                    return
                case Held() as held:
                    await self._held(lease, plan, call, held, answer.attempt)
                    return
                case Delivered():
                    call.close(Fate.DONE)
                case Filtered(reason=reason):
                    call.close(Fate.FILTERED, reason=reason)
                case Refused(reason=reason, words=words):
                    call.close(Fate.REFUSED, reason=reason, words=words)
            self._setbacks.passed(lease.sequence)
            self._families.answered(ROUTE, call.family, started_s=started_s)
        await self._conclude(lease, plan, attempt)

    async def park(self, lease: Lease, call: PlannedCall, attempt: Attempt | None = None) -> None:
        """Give an event back until its next call's family may go again; `attempt` is the call it made just before."""
        after_s = self._families.park_s(call.family)
        await self._settlement.postpone(
            [lease], after_s=after_s, reason=f"{call.family} calls wait", attempt=attempt, counts=False
        )

    async def _keep(self, lease: Lease, plan: Plan, attempt: Attempt | None) -> None:
        if attempt is not None:  # a call was made since the plan was kept last
            await self._settlement.note(lease, plan.encoded())

    async def _exchange(
        self, lease: Lease, plan: Plan, call: PlannedCall, before: Attempt | None
    ) -> tuple[Answer, float]:
        with self._families.flight(call.family):
            call.is_under_way = True
            # Together, so that they share a commit: the call that was made before, and what is known now.
            noting = self._settlement.note(lease, plan.encoded())
            await (noting if before is None else asyncio.gather(self._settlement.record([lease], before), noting))
            started_s = self._clock.monotonic_s()
            self._in_flight += 1
            in_flight = self._in_flight
            try:
                answer = await self._sink.send(batch_of([delivery_of(lease, call)]))
            finally:
                self._in_flight -= 1
        now_s = self._clock.monotonic_s()
        call.is_under_way = False
        self._reporter.request_finished(self._route, verdict=answer.attempt.outcome, duration_s=now_s - started_s)
        if not isinstance(answer.verdict, TryLater):
            limit_before = self._concurrency.limit
            self._concurrency.succeeded(started_s=started_s, now_s=now_s, in_flight=in_flight)
            self._report_limit(limit_before)
        return answer, started_s

    async def _later(
        self, lease: Lease, plan: Plan, call: PlannedCall, later: TryLater, *, attempt: Attempt, started_s: float
    ) -> None:
        self._reporter.request_failed(self._route, reason=later.reason, status=attempt.status, events=1)
        call.failed(later.effect, attempt.status)
        self._families.failed(call.family, has_answer=attempt.status is not None, started_s=started_s)
        if later.scope != "event":
            self._families.back_off(later.scope, later.reason, after_s=later.after_s, started_s=started_s)
            if later.scope != ROUTE:
                self._families.answered(ROUTE, started_s=started_s)  # it is there: only this family waits
            await self._settlement.note(lease, plan.encoded())
            await self._settlement.postpone(
                [lease],
                after_s=self._families.park_s(later.scope),
                reason=later.reason,
                attempt=attempt,
                counts=False,
            )
            return
        setback = self._setbacks.failed(lease.sequence)
        if setback.is_outage:
            limit_before = self._concurrency.limit
            self._concurrency.failed(started_s=started_s, now_s=self._clock.monotonic_s())
            self._report_limit(limit_before)
            self._families.back_off(ROUTE, later.reason, after_s=later.after_s, started_s=started_s)
        if setback.others_passed and is_hopeless(lease, now_ms=self._clock.wall_ms()):
            await self._give_up(lease, plan, f"keeps failing: {attempt.status or later.reason}", attempt)
            return
        await self._settlement.note(lease, plan.encoded())
        after_s = later.after_s or self._backoff.delay_s(max(setback.failures, lease.attempt), self._rng)
        await self._settlement.postpone(
            [lease], after_s=after_s, reason=later.reason, attempt=attempt, counts=setback.others_passed
        )

    async def _held(self, lease: Lease, plan: Plan, call: PlannedCall, held: Held, attempt: Attempt) -> None:
        call.failed(held.effect, attempt.status)
        after_s = 0.0
        if not self._families.is_held(held.scope):
            if self._setbacks.began_hold(held.scope):
                plan.holds += 1
                after_s = self._backoff.ceiling_s(plan.holds)  # others go first once the hold is over
            if plan.holds >= HOLDS_MAX:
                scope = "the route" if held.scope == ROUTE else f"{call.family} calls"
                await self._give_up(lease, plan, f"keeps holding {scope}: {attempt.status}", attempt)
                return
        self._families.hold(held.scope, held.reason, status=attempt.status)
        await self._settlement.note(lease, plan.encoded())
        if held.scope != ROUTE:
            after_s += self._families.park_s(held.scope)
        await self._settlement.postpone([lease], after_s=after_s, reason=held.reason, attempt=attempt, counts=False)

    async def _conclude(self, lease: Lease, plan: Plan, attempt: Attempt | None) -> None:
        # Kept to the end, so that a replay knows what was done; in one commit with the settlement.
        plan.is_over = True
        await asyncio.gather(self._settlement.note(lease, plan.encoded()), self._settle(lease, plan, attempt))

    async def _settle(self, lease: Lease, plan: Plan, attempt: Attempt | None) -> None:
        refused = plan.refused()
        if refused is not None:
            words = (refused.reason, refused.words, plan.what_was_done())
            reason = ": ".join(part for part in words[:2] if part)
            shown = "; ".join(part for part in (reason, words[2]) if part)
            await self._settlement.bury(lease, reason=shown, logged=refused.reason, attempt=attempt)
            return
        why_filtered = plan.why_filtered()
        if why_filtered is not None:
            await self._settlement.dismiss([lease], state=State.FILTERED, reason=why_filtered, attempt=attempt)
            return
        await self._settlement.deliver([lease], attempt=attempt)

    async def _give_up(self, lease: Lease, plan: Plan, reason: str, attempt: Attempt) -> None:
        plan.is_over = True
        await self._settlement.note(lease, plan.encoded())
        await self._settlement.bury(lease, reason=reason, logged=reason, attempt=attempt)

    def _report_limit(self, limit_before: int) -> None:
        if self._concurrency.limit != limit_before:
            self._reporter.concurrency_changed(self._route, limit=self._concurrency.limit)
