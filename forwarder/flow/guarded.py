"""A sink whose bugs cost time, not the daemon.

Left alone, an error that nobody thought of would end the process, and the same event would end it again after
each restart. As an outage it is seen, alarmed on, and isolated from what does get through.
"""

from forwarder.model import Answer, Attempt, Batch, Effect, TryLater
from forwarder.ports import Clock, Sink


class GuardedSink:
    """`ports.Sink` around another: whatever that raises becomes "later", with an unknown outcome."""

    def __init__(self, sink: Sink, *, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock

    async def send(self, batch: Batch) -> Answer:
        """Send; see `ports.Sink`."""
        at_ms, started_s = self._clock.wall_ms(), self._clock.monotonic_s()
        try:
            return await self._sink.send(batch)
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
        # Of this event alone, where events go singly: setbacks tell whether others have the same trouble.
        return Answer(
            verdict=TryLater(reason=reason, after_s=None, scope="event", effect=Effect.UNKNOWN), attempt=attempt
        )
