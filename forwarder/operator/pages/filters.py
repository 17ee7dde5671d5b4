"""The filters of the events' list, from the address line to a query and back. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from forwarder.operator.query import event_query
from forwarder.operator.views import moment
from forwarder.ports import EventQuery

NAMES: Final = ("route", "state", "event", "user", "message", "reason", "text", "from", "to")
_LABELS: Final = {"user": "user_id", "message": "message_id"}  # as the API calls them
_LOCAL_CHARACTERS: Final = len("2026-01-31T12:00:00")
_UNTAILED: Final = ("text", "from", "to", "before")  # history: what is new is not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the list is narrowed to. `given` is what the person wrote, for the form and for links."""

    given: Mapping[str, str]
    query: EventQuery

    def value(self, name: str) -> str:
        """Return what was written in a field; "" for nothing."""
        return self.given.get(name, "")

    def local(self, name: str) -> str:
        """Return the time in the field "from" or "to" as a form's field takes it: UTC, without saying so."""
        at_ms = {"from": self.query.received_from_ms, "to": self.query.received_to_ms}[name]
        return (moment(at_ms) or "")[:_LOCAL_CHARACTERS]

    @property
    def is_narrowed(self) -> bool:
        """Tell whether anything but the page is chosen."""
        return bool(self.given)

    @property
    def is_live(self) -> bool:
        """Tell whether new events belong into this list: it is the first page, and not a search of history."""
        return self.query.before_sequence is None and not any(name in self.given for name in _UNTAILED)


def read_filters(parameters: Mapping[str, str], *, limit: int) -> Filters:
    """Read the address line; unknown names are ignored, impossible values raise `QueryInvalid`."""
    given = {name: parameters[name].strip() for name in NAMES if parameters.get(name, "").strip()}
    asked = {_LABELS.get(name, name): text for name, text in given.items()}
    if parameters.get("before"):
        asked["before"] = parameters["before"]
    return Filters(given=given, query=replace(event_query(asked), limit=limit))
