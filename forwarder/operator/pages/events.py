"""The list of events: history and live tail of both routes, newest first.

Deliberately absent: the live stream itself (`stream`) and one event's own page (`event`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from forwarder.model import RouteName, State
from forwarder.operator.desk import OperatorDesk
from forwarder.operator.pages.filters import Filters, read_filters
from forwarder.operator.pages.overview import door_urls
from forwarder.operator.pages.render import Renderer, link
from forwarder.ports import EventPage

ROWS: Final = 50
_NAMES_OFFERED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What the list is made of."""

    desk: OperatorDesk
    render: Renderer

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the page."""
        return (web.get("/events", self.show),)

    async def show(self, request: web.Request) -> web.Response:
        """Show one page of the list."""
        filters = read_filters(request.query, limit=ROWS)
        page = await self.desk.archive.events(filters.query)
        seen = await self.desk.archive.event_types(filters.query.route, limit=_NAMES_OFFERED)
        return self.render.page(
            request,
            "events.html",
            filters=filters,
            page=page,
            names=sorted({row.event for row in seen}),
            states=[state.value for state in State],
            route_names=[route.value for route in RouteName],
            stream=_stream(filters, page),
            older=_older(filters, page),
            scanned=filters.query.scan_max,
            doors=door_urls(self.desk, request),
        )


def _stream(filters: Filters, page: EventPage) -> str | None:
    """Return the address of what follows this list; None when it is not followed."""
    if not filters.is_live:
        return None
    newest = page.rows[0].sequence if page.rows else 0
    return link("/api/stream", **{"watch": "events", "after": newest, **filters.given})


def _older(filters: Filters, page: EventPage) -> str | None:
    if page.next_before is None:
        return None
    asked: Mapping[str, object] = {**filters.given, "before": page.next_before}
    return link("/events", **asked)
