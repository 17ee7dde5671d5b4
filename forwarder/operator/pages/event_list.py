"""The list of events: history and live tail of both routes, newest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from forwarder.model import RouteName, State
from forwarder.operator.operation import Operation, read
from forwarder.operator.pages.export import export
from forwarder.operator.pages.overview import endpoint_urls
from forwarder.operator.pages.render import Renderer, link
from forwarder.operator.parameters import Listing
from forwarder.operator.parts import Parts
from forwarder.operator.text import moment
from forwarder.ports import EventPage, EventQuery

FIELDS: Final = ("route", "state", "event", "user", "message", "reason", "text", "from", "to")
_LABELS: Final = {"user": "user_id", "message": "message_id"}  # as the API calls them
_LOCAL_CHARACTERS: Final = len("2026-01-31T12:00:00")
_NOT_LIVE: Final = ("text", "from", "to", "before")  # history: what is new is not asked for
_NAMES_OFFERED: Final = 100


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
    def is_live(self) -> bool:
        """Tell whether new events belong into this list: it is the first page, and not a search of history."""
        return self.query.before_sequence is None and not any(name in self.given for name in _NOT_LIVE)


def read_filters(parameters: Mapping[str, str]) -> Filters:
    """Read the address line; unknown names are ignored, impossible values raise `QueryInvalid`."""
    given = {name: parameters[name].strip() for name in FIELDS if parameters.get(name, "").strip()}
    asked = {_LABELS.get(name, name): text for name, text in given.items()}
    return Filters(given=given, query=read(asked | {"before": parameters.get("before", "")}, Listing).page_query())


@dataclass(frozen=True, slots=True, kw_only=True)
class EventList:
    """What the list is made of."""

    parts: Parts
    render: Renderer

    def operations(self) -> Sequence[Operation]:
        """Return the page."""
        return (
            Operation("GET", "/events", "Events", self.show),
            Operation("GET", "/events/export", "All events that the filters leave, as a file", self.export),
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Hand out everything that the filters leave, as NDJSON, or as CSV with `format=csv`."""
        query = replace(read_filters(request.query).query, before_sequence=None)
        as_csv = request.query.get("format") == "csv"
        return await export(request, self.parts.archive, query, as_csv=as_csv)

    async def show(self, request: web.Request) -> web.Response:
        """Show one page of the list."""
        filters = read_filters(request.query)
        page = await self.parts.archive.events(filters.query)
        seen = await self.parts.archive.event_types(filters.query.route, limit=_NAMES_OFFERED)
        return await self.render.page(
            request,
            "events.html",
            filters=filters,
            page=page,
            names=sorted({row.event for row in seen}),
            states=[state.value for state in State],
            route_names=[route.value for route in RouteName],
            rejected=sum(one.last_hour for one in self.parts.by_time.lately() if one.endpoint != "operator"),
            older=_older(filters, page),
            endpoints=endpoint_urls(self.parts, request),
        )


def _older(filters: Filters, page: EventPage) -> str | None:
    if page.next_before is None:
        return None
    return link("/events", **{**filters.given, "before": str(page.next_before)})
