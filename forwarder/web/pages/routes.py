"""Every route of the page, put together.

A page's module offers one function that returns its routes; they are listed in `page_routes`, and nowhere else.
"""

from collections.abc import Sequence

from aiohttp import web

from forwarder.web.operator_desk import OperatorDesk
from forwarder.web.pages.acts import as_page
from forwarder.web.pages.assets import asset_routes
from forwarder.web.pages.render import Renderer


def page_routes(desk: OperatorDesk, render: Renderer) -> Sequence[web.RouteDef]:
    """Return the routes of every page and of the files they load, to be put beside those of the API."""
    pages: tuple[web.RouteDef, ...] = ()
    del desk
    return (*asset_routes(), *(_told_as_page(route, render) for route in pages))


def _told_as_page(route: web.RouteDef, render: Renderer) -> web.RouteDef:
    return web.RouteDef(route.method, route.path, as_page(route.handler, render), route.kwargs)
