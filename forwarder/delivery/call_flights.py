"""One event and its plan of calls as a flight: which call is next, what an answer does to it, how it ends.

Pure. What an answer means is decided by the sink, what follows from it in `policy`, and both are carried out by
`route`; the plan itself is in `plan`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from forwarder.delivery.flights import Flight, batch_of
from forwarder.delivery.plan import Fate, Plan, PlannedCall, delivery_of, new_plan, read_plan, replan
from forwarder.delivery.policy import Decision, Outcome
from forwarder.model import (
    Answer,
    Attempt,
    Batch,
    Delivered,
    Delivery,
    Filtered,
    Held,
    Lease,
    Refused,
    Replay,
    Settled,
    State,
    TryLater,
    Verdict,
)

_NOTHING: Final = Batch(deliveries=(), size_bytes=0)


def kept_plan(lease: Lease) -> Plan | None:
    """Return the plan that is carried on; None when the event is to be planned, which a replay always is."""
    plan = read_plan(lease)
    return plan if plan is not None and not plan.is_over and lease.replay is Replay.NOT else None


def planned(lease: Lease, deliveries: Sequence[Delivery]) -> Plan:
    """Plan these deliveries; of a replay, what was done before stays done unless everything is asked for."""
    old = read_plan(lease)
    if old is None:
        return new_plan(deliveries)
    return replan(old, deliveries, everything=lease.replay is Replay.EVERYTHING)


@dataclass(slots=True, eq=False, kw_only=True)
class CallFlight(Flight):
    """One event on its way: its calls are made one after the other.

    Before the first of them the plan is on disk, marked as under way; what became of the calls is written with what
    becomes of the event. After a crash in between, the calls whose fate is not on disk are made again under their keys.
    """

    plan: Plan
    batch: Batch = _NOTHING

    @property
    def is_through(self) -> bool:
        """Tell whether every call was made: so it is with a replay of what was done already."""
        return self.plan.next() is None

    @property
    def group(self) -> str:
        """The rate-limit group of the next call; that of the last one when all are made."""
        call = self.plan.next() or self.plan.calls[-1]
        return call.group

    @property
    def holds(self) -> int:
        """How many holds the event alone began."""
        return self.plan.holds

    def begin(self) -> Batch:
        """Return the next call as the sink takes it."""
        self.batch = batch_of([delivery_of(self.leases[0], self._call())])
        return self.batch

    def unkept(self) -> bytes | None:
        """Return the plan while it is not on disk as it must be before the first call is made."""
        if self.plan.is_under_way:
            return None
        self.plan.is_under_way = True
        return self.plan.encoded()

    def unsent(self) -> bytes | None:
        """Return what was on disk before `unkept`: an event that never got a call is planned anew, links and all."""
        if not self.plan.is_under_way:
            return None
        lease = self.leases[0]
        # What was asked of a replay is known to the spool no longer, only to the plan that was made of it.
        return lease.progress if lease.replay is Replay.NOT else self.progress()

    def end(self, decision: Decision, answer: Answer) -> bool:
        """Learn what became of the call; return whether another one follows."""
        call = self._call()
        if decision.holds is not None:
            self.plan.holds = decision.holds
        match answer.verdict:
            case Delivered():
                call.close(Fate.DONE)
            case Filtered(reason=reason):
                call.close(Fate.FILTERED, reason=reason)
            case Refused(reason=reason, words=words):
                call.close(Fate.REFUSED, reason=reason, words=words)
            case TryLater() | Held() as unsuccessful:
                call.failed(unsuccessful.effect, answer.attempt.status)
                return False
            case _ as unreachable:
                assert_never(unreachable)
        return self.plan.next() is not None

    def progress(self) -> bytes | None:
        """Return the plan as it is kept while the event waits, or once it is settled: a replay reads it."""
        self.plan.is_under_way = False
        return self.plan.encoded()

    def ending(self, decision: Decision, verdict: Verdict | None, attempt: Attempt | None) -> tuple[list[Settled], str]:
        """Return how the event settles, and what may be logged of it if it is dead."""
        del verdict  # what became of the calls is in the plan
        self.plan.is_over = True
        sequences = self.sequences
        if decision.outcome is Outcome.DEAD:
            return [Settled(sequences, State.DEAD, decision.reason, attempt)], decision.reason
        refused = self.plan.refused()
        if refused is not None:
            said = ": ".join(text for text in (refused.reason, refused.words) if text)
            shown = "; ".join(text for text in (said, self.plan.what_was_done()) if text)
            return [Settled(sequences, State.DEAD, shown, attempt)], refused.reason
        why_filtered = self.plan.why_filtered()
        if why_filtered is not None:
            return [Settled(sequences, State.FILTERED, why_filtered, attempt)], ""
        return [Settled(sequences, State.DELIVERED, "", attempt)], ""

    def _call(self) -> PlannedCall:
        call = self.plan.next()
        assert call is not None  # noqa: S101 - a plan without an open call is concluded, not sent
        return call
