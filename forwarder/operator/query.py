"""From a query string or a body of the operator's API to what is asked of the archive. Pure.

Absent: HTTP; what is wrong is raised as `QueryInvalid` with the parameter and the remedy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from forwarder.errors import ForwarderError
from forwarder.model import RouteName, State
from forwarder.operator.desk import ACTION_EVENTS_MAX
from forwarder.ports import EventQuery

LIMIT_MAX = 500
_SEQUENCE_MAX = 2**63 - 2  # the one after it is a number of the spool, too
_TEXT_MAX = 1_000
_PARAMETERS = (
    *("route", "state", "event", "user_id", "message_id", "reason", "text"),
    *("from", "to", "before", "after", "limit"),
)

Choice = TypeVar("Choice", bound=Enum)


class QueryInvalid(ForwarderError):
    """A request of the operator's API asks for something impossible; the text says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events an action is for: sequences, or a page of those with a state and reason, oldest first."""

    sequences: tuple[int, ...] | None
    state: State | None = None
    route: RouteName | None = None
    reason: str | None = None
    after: int = 0
    limit: int = ACTION_EVENTS_MAX
    everything: bool = False  # of a replay: what was done is done again

    def query(self) -> EventQuery:
        """Return the listing that finds the next page."""
        return EventQuery(
            route=self.route, state=self.state, reason=self.reason, after_sequence=self.after, limit=self.limit
        )

    def __str__(self) -> str:
        """Name the selection for the audit log."""
        if self.sequences is not None:
            shown = ", ".join(str(sequence) for sequence in self.sequences[:20])
            return shown + (", …" if len(self.sequences) > len(self.sequences[:20]) else "")
        named = {"state": self.state, "route": self.route, "reason": self.reason}
        return " ".join(f"{name}={value}" for name, value in named.items() if value is not None)


def event_query(parameters: Mapping[str, str]) -> EventQuery:
    """Read the filters of a listing."""
    unknown = sorted(set(parameters) - set(_PARAMETERS))
    if unknown:
        raise QueryInvalid(f"unknown parameter {unknown[0][:40]!r}: use {', '.join(_PARAMETERS)}")
    given = {name: text for name, text in parameters.items() if text}
    return EventQuery(
        route=member(given, "route", RouteName),
        state=member(given, "state", State),
        event=text_of(given, "event"),
        user_id=text_of(given, "user_id"),
        message_id=text_of(given, "message_id"),
        reason=text_of(given, "reason"),
        text=text_of(given, "text"),
        received_from_ms=_moment(given, "from"),
        received_to_ms=_moment(given, "to"),
        before_sequence=_whole(given, "before", maximum=_SEQUENCE_MAX),
        after_sequence=_whole(given, "after", maximum=_SEQUENCE_MAX),
        limit=limit_of(given),
    )


def limit_of(parameters: Mapping[str, str]) -> int:
    """Read how many rows are wanted: 1 to 500, 50 unless said."""
    limit = _whole(parameters, "limit", maximum=LIMIT_MAX)
    if limit == 0:
        raise QueryInvalid("limit is 0: use 1 or more")
    return limit or 50


def member(parameters: Mapping[str, Any], name: str, kind: type[Choice]) -> Choice | None:
    """Read one word of a closed set; None when it is not given."""
    given = parameters.get(name)
    if given in (None, ""):
        return None
    for one in kind:
        if one.value == given:
            return one
    raise QueryInvalid(f"{name} is unknown: use one of {', '.join(str(one.value) for one in kind)}")


def text_of(parameters: Mapping[str, str], name: str) -> str | None:
    """Read a text of bounded length; None when it is not given."""
    text = parameters.get(name)
    if text is not None and len(text) > _TEXT_MAX:
        raise QueryInvalid(f"{name} is longer than {_TEXT_MAX} characters")
    return text or None


def sequence_of(text: str) -> int:
    """Read the sequence in a path."""
    sequence = _whole({"sequence": text}, "sequence", maximum=_SEQUENCE_MAX)
    return sequence or 0


def replay_selection(body: object, *, states: tuple[State, ...]) -> Selection:
    """Read what a replay is for: a selection, and `everything` when what was done is to be done again."""
    if not isinstance(body, dict):
        raise QueryInvalid("the body is no JSON object")
    everything = body.get("everything", False)
    if not isinstance(everything, bool):
        raise QueryInvalid("everything is neither true nor false")
    chosen = selection({name: value for name, value in body.items() if name != "everything"}, states=states)
    return replace(chosen, everything=everything)


def selection(body: object, *, states: tuple[State, ...]) -> Selection:
    """Read what an action is for: `{"sequences": […]}`, or `{"state": …, "reason"?, "route"?, "after"?, "limit"?}`."""
    if not isinstance(body, dict):
        raise QueryInvalid("the body is no JSON object")
    unknown = sorted(set(body) - {"sequences", "state", "route", "reason", "after", "limit"})
    if unknown:
        raise QueryInvalid(
            f"unknown field {unknown[0][:40]!r}: use sequences, or state with reason, route, after, limit"
        )
    if "sequences" in body:
        return Selection(sequences=_sequences(body["sequences"]))
    state = member(body, "state", State)
    if state not in states:
        raise QueryInvalid(f"give sequences, or a state: one of {', '.join(one.value for one in states)}")
    reason = body.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise QueryInvalid("reason is no text")
    return Selection(
        sequences=None,
        state=state,
        route=member(body, "route", RouteName),
        reason=reason,
        after=_integer(body.get("after", 0), "after", maximum=_SEQUENCE_MAX),
        limit=_integer(body.get("limit", ACTION_EVENTS_MAX), "limit", maximum=ACTION_EVENTS_MAX) or ACTION_EVENTS_MAX,
    )


def _sequences(given: object) -> tuple[int, ...]:
    if not isinstance(given, list) or not given:
        raise QueryInvalid("sequences is no list of numbers with at least one in it")
    if len(given) > ACTION_EVENTS_MAX:
        raise QueryInvalid(f"sequences has more than {ACTION_EVENTS_MAX} numbers: send several requests")
    return tuple(_integer(one, "sequences", maximum=_SEQUENCE_MAX) for one in given)


def _integer(given: object, name: str, *, maximum: int) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= maximum:
        raise QueryInvalid(f"{name} is no whole number from 0 to {maximum}")
    return given


def _whole(parameters: Mapping[str, str], name: str, *, maximum: int) -> int | None:
    text = parameters.get(name, "")
    if not text:
        return None
    # Digits only, and few: int() of a long text is slow by design.
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_SEQUENCE_MAX)) or int(text) > maximum:
        raise QueryInvalid(f"{name} is no whole number from 0 to {maximum}")
    return int(text)


def _moment(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name, "")
    if text.isascii() and text.isdigit():
        return _whole(parameters, name, maximum=_SEQUENCE_MAX)
    if not text:
        return None
    try:
        # A plus sign that was not encoded arrives as a space.
        read = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise QueryInvalid(f"{name} is no time: use 2026-01-31T12:00:00Z or milliseconds since 1970") from None
    return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
