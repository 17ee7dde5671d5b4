"""The audit log: who did what, when; newest first. Nothing can be changed here."""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from forwarder.web.operator_desk import OperatorDesk
from forwarder.web.operator_query import limit_of
from forwarder.web.pages.render import Renderer

PATH: Final = "/audit"
_ROWS_MORE: Final = 500


def audit_routes(desk: OperatorDesk, render: Renderer) -> Sequence[web.RouteDef]:
    """Return the page of the audit log."""

    async def show(request: web.Request) -> web.Response:
        limit = limit_of(request.query)
        rows = await desk.archive.audit(limit=limit)
        more = _ROWS_MORE if len(rows) == limit < _ROWS_MORE else 0
        return render.page(request, "audit.html", rows=rows, more=more, path=PATH)

    return (web.get(PATH, show),)
