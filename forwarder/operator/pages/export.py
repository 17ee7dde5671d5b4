"""Events as NDJSON, one line each as the API shows one event: a stream of any length in the memory of one event."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from aiohttp import web

from forwarder.errors import ForwarderError, NoSuchEvent
from forwarder.operator import views
from forwarder.ports import Archive, EventQuery

_PAGE_EVENTS: Final = 500


async def export(request: web.Request, archive: Archive, query: EventQuery) -> web.StreamResponse:
    """Stream the selected events as a file, oldest first, discarded ones included.

    Should the daemon stop meanwhile, the transfer is cut rather than ended, so that nobody takes it for whole.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/x-ndjson",
            "Content-Disposition": f'attachment; filename="{query.state or "events"}.ndjson"',
        }
    )
    lines = _lines(archive, query)
    try:
        first = await anext(lines, b"")  # before the answer begins: what fails at once is still told as an error
        await response.prepare(request)
        await response.write(first)
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
    after = 0
    while True:
        found = await archive.events(replace(query, after_sequence=after, limit=_PAGE_EVENTS))
        for row in found.rows:
            try:
                detail = await archive.event(row.sequence)
            except NoSuchEvent:
                continue  # purged since it was listed
            yield json.dumps(views.detail(detail)).encode() + b"\n"
        if not found.rows or (len(found.rows) < _PAGE_EVENTS and not found.is_cut):
            return
        after = found.rows[-1].sequence
