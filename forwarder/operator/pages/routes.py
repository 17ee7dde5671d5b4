"""Every route of the page, put together.

A page's module offers what returns its routes; they are listed in `page_routes`, and nowhere else.
"""

from collections.abc import Sequence

from aiohttp import web

from forwarder.operator.desk import OperatorDesk
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.pages.acts import as_page
from forwarder.operator.pages.assets import asset_routes
from forwarder.operator.pages.event import EventPages
from forwarder.operator.pages.events import Events
from forwarder.operator.pages.overview import Overview
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.stream import TICK_S, Stream
from forwarder.telemetry.rates import Rates


def page_routes(desk: OperatorDesk, render: Renderer, *, overview: Overview, stream: Stream) -> Sequence[web.RouteDef]:
    """Return the routes of every page, of the files they load and of their stream, to be put beside the API's."""
    pages = (
        *overview.routes(),
        *Events(desk=desk, render=render).routes(),
        *EventPages(desk=desk, render=render).routes(),
        web.get("/{missing:(?!api/).*}", _missing),  # tried last: aiohttp looks for the longest fixed beginning first
    )
    return (
        *asset_routes(),
        web.get("/api/stream", stream.serve, allow_head=False),  # a stream never ends
        *(_told_as_page(route, render) for route in pages),
    )


def make_page(
    desk: OperatorDesk, render: Renderer, rates: Rates, *, guard: OperatorGuard, tick_s: float = TICK_S
) -> tuple[Sequence[web.RouteDef], Stream]:
    """Return the page's routes, and the worker behind its stream, which the daemon must run."""
    overview = Overview(desk=desk, render=render, rates=rates)
    stream = Stream(
        archive=desk.archive,
        clock=desk.clock,
        reporter=desk.reporter,
        render=render,
        parts=overview.parts,
        guard=guard,
        tick_s=tick_s,
    )
    return page_routes(desk, render, overview=overview, stream=stream), stream


async def _missing(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound(reason="There is no page of that name.")


def _told_as_page(route: web.RouteDef, render: Renderer) -> web.RouteDef:
    return web.RouteDef(route.method, route.path, as_page(route.handler, render), route.kwargs)
