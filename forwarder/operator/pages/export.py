"""Events as NDJSON, each as the API shows one event, or as CSV without payloads: of any length, in a step's memory."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web

from forwarder.archive_port import Archive, EventQuery
from forwarder.errors import ForwarderError, NoSuchEvent
from forwarder.operator import views
from forwarder.operator.api_types import Event
from forwarder.operator.text import csv_row
from forwarder.operator.walk import walk

_STEP_EVENTS: Final = 500


async def export(
    request: web.Request, archive: Archive, query: EventQuery, *, as_csv: bool = False
) -> web.StreamResponse:
    """Stream the selected events as a file, oldest first, discarded ones included.

    Should the daemon stop meanwhile, the transfer is cut rather than ended, so that nobody takes it for whole.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8" if as_csv else "application/x-ndjson",
            "Content-Disposition": f'attachment; filename="{query.state or "events"}.{"csv" if as_csv else "ndjson"}"',
        }
    )
    lines = _rows(archive, query) if as_csv else _lines(archive, query)
    try:
        first = await anext(lines, b"")  # before the answer begins: what fails at once is still told as an error
        await response.prepare(request)
        await response.write(first)
        if request.method != "HEAD":
            async for line in lines:
                await response.write(line)
        await response.write_eof()
    except ConnectionError:
        return response  # the person has gone
    except ForwarderError:
        if not response.prepared:
            raise
        if request.transport is not None:
            request.transport.abort()
    return response


async def _lines(archive: Archive, query: EventQuery) -> AsyncIterator[bytes]:
    async for step in walk(archive, query, step_events=_STEP_EVENTS):
        for row in step.rows:
            try:
                detail = await archive.event(row.sequence)
            except NoSuchEvent:
                continue  # purged since it was listed
            yield msgspec.json.encode(views.event_detail(detail)) + b"\n"


async def _rows(archive: Archive, query: EventQuery) -> AsyncIterator[bytes]:
    yield csv_row(Event.__struct_fields__)
    async for step in walk(archive, query, step_events=_STEP_EVENTS):
        for row in step.rows:
            shown = views.event(row)
            yield csv_row([getattr(shown, name) for name in Event.__struct_fields__])
