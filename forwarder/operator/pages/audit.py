"""The audit log: who did what, when; newest first. Nothing can be changed here."""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from forwarder.operator.desk import OperatorDesk
from forwarder.operator.pages.render import Renderer
from forwarder.operator.query import limit_of

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
