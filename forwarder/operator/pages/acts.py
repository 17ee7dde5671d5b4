"""What every page does around its own work: errors told as pages, acts asked about before they are done."""

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps

from aiohttp import web

from forwarder.errors import ForwarderError, NoSuchEvent
from forwarder.operator.pages.render import Question, Renderer
from forwarder.operator.query import QueryInvalid

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def as_page(handler: Handler, render: Renderer) -> Handler:
    """Return the handler with its errors told as pages instead of JSON; bugs are left to the listener."""

    @wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except QueryInvalid as error:
            return _error(render, request, 400, str(error))
        except NoSuchEvent as error:
            return _error(render, request, 404, str(error))
        except ForwarderError as error:
            return _error(render, request, 503, str(error))
        except web.HTTPException as error:
            if error.status < web.HTTPBadRequest.status_code:
                raise
            return _error(render, request, error.status, error.reason)

    return answered


async def fields_of(request: web.Request) -> Mapping[str, str]:
    """Return the posted form's texts; files are no business of ours."""
    posted = await request.post()
    return {name: value for name, value in posted.items() if isinstance(value, str)}


def is_confirmed(fields: Mapping[str, str]) -> bool:
    """Tell whether the person said yes: in the dialog of the script, or on the page that asks without it."""
    return fields.get("confirmed") == "1"


async def ask(request: web.Request, render: Renderer, question: Question) -> web.Response | None:
    """Return the page that asks, or None when the person has said yes already.

    The form's other fields travel through the page unchanged.
    """
    fields = await fields_of(request)
    return None if is_confirmed(fields) else render.confirm(request, question, fields)


def operator_name(request: web.Request) -> str:
    """Return who acts, for the audit log: the page, and the address it was used from."""
    return f"page ({request.remote or 'unknown'})"


def _error(render: Renderer, request: web.Request, status: int, message: str) -> web.Response:
    return render.page(request, "error.html", status=status, code=status, message=message)
