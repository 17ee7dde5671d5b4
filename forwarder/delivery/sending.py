"""One request of a flight: send it, and have it decided what follows. Carries nothing out but the breakers' changes."""

from forwarder.delivery.breakers import Breakers
from forwarder.delivery.concurrency import ConcurrencyLimit
from forwarder.delivery.flights import Flight
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.policy import EVENT, ROUTE, Change, Decision, OutcomePolicy
from forwarder.model import Answer, Attempt, Batch, Effect, Held, RouteName, TryLater, Verdict
from forwarder.ports import Clock, Sink
from forwarder.telemetry.reporter import Reporter


class Exchanges:
    """The requests of one route to its destination. Of planned calls a bug in the sink is one event's trouble."""

    def __init__(
        self,
        *,
        route: RouteName,
        sink: Sink,
        history: History,
        policy: OutcomePolicy,
        breakers: Breakers,
        concurrency: ConcurrencyLimit,
        limits: RequestLimits,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._route = route
        self._sink = sink
        self._history = history
        self._policy = policy
        self._breakers = breakers
        self._concurrency = concurrency
        self._are_replays = limits.are_replays
        self._bug_scope = EVENT if limits.is_planned else ROUTE
        self._reporter = reporter
        self._clock = clock

    @property
    def limit(self) -> int:
        """How many requests may be under way just now."""
        return self._concurrency.limit

    def tell_limit(self) -> None:
        """Tell people how many requests may be under way, those of replays left out."""
        if self._are_replays:
            return
        self._reporter.concurrency_changed(self._route, limit=self.limit)

    async def send(self, batch: Batch, *, in_flight: int) -> tuple[Answer, float]:
        """Send; return the answer and when it was sent. Whatever the sink raises becomes "later", its outcome unknown.

        Left alone, an error that nobody thought of would end the process, and the same event would end it again
        after each restart. As a failure it is seen, alarmed on, and isolated from what does get through.
        """
        at_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        self._concurrency.sent(in_flight=in_flight, now_s=started_s)
        try:
            return await self._sink.send(batch), started_s
        except Exception as error:  # noqa: BLE001 - the last resort: its type is told, its text may quote a payload
            reason = f"a bug in the sink: {type(error).__name__}"
        attempt = Attempt(
            at_ms=at_ms,
            duration_ms=round((self._clock.monotonic_s() - started_s) * 1000),
            operation=batch.deliveries[0].operation,
            status=None,
            outcome="try_later",
            reason=reason,
            answer=b"",
        )
        verdict = TryLater(reason=reason, after_s=None, scope=self._bug_scope, effect=Effect.UNKNOWN)
        return Answer(verdict=verdict, attempt=attempt), started_s

    def judge(self, flight: Flight, answer: Answer, group: str, *, started_s: float) -> Decision:
        """Return what follows from the answer to a call of this rate-limit group; the breakers have changed already."""
        now_s, verdict, status = self._clock.monotonic_s(), answer.verdict, answer.attempt.status
        self._reporter.request_finished(self._route, verdict=answer.attempt.outcome, duration_s=now_s - started_s)
        if (
            isinstance(verdict, TryLater | Held)
            and flight.leases[0].replayed_at_ms is not None
            and not self._are_replays
        ):
            return self._policy.step_aside(verdict, flight.leases[0].attempt)
        held = self._breakers.held(*((verdict.scope,) if isinstance(verdict, Held) else (ROUTE, group)))
        case = self._history.observe(flight, answer, group=group, held=held, now_s=now_s)
        decision = self._policy.decide(case, now_ms=self._clock.wall_ms())
        first = flight.leases[0].sequence
        if self._breakers.apply(decision, group=group, sequence=first, status=status, started_s=started_s):
            self._history.began_hold(decision.scope, flight)
        if isinstance(verdict, TryLater | Held) and decision.change is not Change.HOLD:
            self._reporter.request_failed(self._route, reason=verdict.reason, status=status, events=len(flight.leases))
        self._adapt(decision, verdict, started_s=started_s, now_s=now_s)
        return decision

    def _adapt(self, decision: Decision, verdict: Verdict, *, started_s: float, now_s: float) -> None:
        before = self.limit
        if decision.change is Change.BACK_OFF and decision.scope == ROUTE:
            self._concurrency.failed(started_s=started_s, now_s=now_s)
        elif not isinstance(verdict, TryLater):
            self._concurrency.succeeded(started_s=started_s, now_s=now_s)
        if self.limit != before:
            self.tell_limit()
