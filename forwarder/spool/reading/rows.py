"""Turn database rows into what a listing shows."""

from forwarder.model import Attempt, Labels, State
from forwarder.ports import EventRow
from forwarder.spool.store.codes import ROUTES, STATES

EVENT_COLUMNS = "sequence, route, received_at_ms, source, type, event, message_id, user_id, size"
EventValues = tuple[int, int, int, str, str, str, str, str, int]
ATTEMPT_COLUMNS = "at_ms, duration_ms, operation, status, outcome, reason, answer"


class Standing:
    """Where an event is and since when; the part of a row that changes."""

    __slots__ = ("attempts", "is_discarded", "not_before_ms", "reason", "settled_at_ms", "state")

    def __init__(
        self,
        state: int,
        *,
        settled_at_ms: int | None = None,
        attempts: int = 0,
        reason: str = "",
        not_before_ms: int | None = None,
        is_discarded: bool = False,
    ) -> None:
        self.state = state
        self.settled_at_ms = settled_at_ms
        self.attempts = attempts
        self.reason = reason
        self.not_before_ms = not_before_ms
        self.is_discarded = is_discarded


def event_row(values: EventValues, standing: Standing) -> EventRow:
    """Put an event and its standing together."""
    sequence, route, received_at_ms, source, kind, event, message_id, user_id, size = values
    return EventRow(
        sequence=sequence,
        route=ROUTES[route],
        state=STATES[standing.state],
        labels=Labels(type=kind, event=event, message_id=message_id, user_id=user_id),
        source=source,
        received_at_ms=received_at_ms,
        settled_at_ms=standing.settled_at_ms,
        attempts=standing.attempts,
        reason=standing.reason,
        not_before_ms=standing.not_before_ms,
        is_discarded=standing.is_discarded,
        size_bytes=size,
    )


def damaged_row(sequence: int, route: int, standing: Standing) -> EventRow:
    """Show an event whose own row cannot be read."""
    return event_row((sequence, route, 0, "", "", "", "", "", 0), standing)


def is_pending(standing: Standing) -> bool:
    """Tell whether the event still waits."""
    return STATES[standing.state] is State.PENDING


def attempt_of(values: tuple[int, int, str, int | None, str, str, bytes]) -> Attempt:
    """Return an attempt as people see it."""
    at_ms, duration_ms, operation, status, outcome, reason, answer = values
    return Attempt(
        at_ms=at_ms,
        duration_ms=duration_ms,
        operation=operation,
        status=status,
        outcome=outcome,
        reason=reason,
        answer=answer,
    )
