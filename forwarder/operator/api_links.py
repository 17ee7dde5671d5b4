"""The operator's API for links: what is linked, and changing it.

Absent: what a link may be, which the keeper of the links judges, and the page.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from aiohttp import web

from forwarder.errors import RulesInvalid
from forwarder.operator.api import body_of, who
from forwarder.operator.desk import OperatorDesk
from forwarder.operator.query import QueryInvalid

_CHANGES_MAX: Final = 1_000  # of one request
_ACTS: Final = ("add", "remove")


def link_routes(desk: OperatorDesk) -> Sequence[web.RouteDef]:
    """Return the routes of the links, to be put beside those of `api_routes`."""
    api = _LinkApi(desk)
    return (web.get("/api/links", api.list), web.post("/api/links", api.change))


class _LinkApi:
    def __init__(self, desk: OperatorDesk) -> None:
        self._desk = desk

    async def list(self, _: web.Request) -> web.Response:
        links = self._desk.links
        return web.json_response({"links": [dict(row) for row in links.rows()] if links is not None else []})

    async def change(self, request: web.Request) -> web.Response:
        add, remove = _change(await body_of(request))
        try:
            added, removed = await self._desk.change_links(add=add, remove=remove, who=who(request))
        except RulesInvalid as error:
            raise QueryInvalid(str(error)) from None
        return web.json_response({"added": added, "removed": removed})


def _change(body: object) -> tuple[Sequence[Mapping[str, str]], Sequence[Mapping[str, str]]]:
    if not isinstance(body, dict) or not body or not set(body) <= set(_ACTS):
        raise QueryInvalid('send an object with "add" or "remove", or both')
    add, remove = (_links(act, body.get(act, [])) for act in _ACTS)
    return add, remove


def _links(act: str, value: object) -> Sequence[Mapping[str, str]]:
    if not isinstance(value, list) or len(value) > _CHANGES_MAX:
        raise QueryInvalid(f'"{act}" must be a list of at most {_CHANGES_MAX} links')
    if not all(isinstance(link, dict) and all(isinstance(word, str) for word in link.values()) for link in value):
        raise QueryInvalid(f'"{act}" must hold links: objects whose values are texts')
    return value
