"""The operator's API: what happens, event by event, and the few things people may do about it.

Every handler reads, asks the desk, and writes JSON. Absent: who may ask (`operator_auth`), the shapes
(`operator_views`), and the page.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from forwarder.errors import SpoolClosed
from forwarder.model import RouteName, State
from forwarder.operator import views
from forwarder.operator.desk import OperatedRoute, OperatorDesk
from forwarder.operator.openapi import document
from forwarder.operator.query import (
    QueryInvalid,
    Selection,
    event_query,
    limit_of,
    member,
    replay_selection,
    selection,
    sequence_of,
)

REPLAYABLE = (State.DEAD, State.UNMAPPED, State.FILTERED, State.DELIVERED)
DISCARDABLE = (State.DEAD,)
_WHO_MAX = 64

Act = Callable[..., Awaitable[int]]


def api_routes(desk: OperatorDesk, *, also_described: Mapping[str, Any] | None = None) -> Sequence[web.RouteDef]:
    """Return every route of the API and `/metrics`, to be put into an application of the listener.

    `also_described` are OpenAPI paths of what is served beside it.
    """
    api = _OperatorApi(desk, document(desk.version, also_described or {}))
    return (
        web.get("/metrics", api.metrics),
        web.get("/api/status", api.status),
        web.get("/api/events", api.events),
        web.get("/api/events/{sequence}", api.event),
        web.get("/api/event-types", api.event_types),
        web.get("/api/reasons", api.reasons),
        web.get("/api/audit", api.audit),
        web.get("/api/settings", api.settings),
        web.get("/api/openapi.json", api.openapi),
        web.post("/api/replay", api.replay),
        web.post("/api/discard", api.discard),
        web.post("/api/routes/{route}/pause", api.pause),
        web.post("/api/routes/{route}/resume", api.resume),
    )


class _OperatorApi:
    def __init__(self, desk: OperatorDesk, described: Mapping[str, Any]) -> None:
        self._desk = desk
        self._described = described

    # --- seeing ---

    async def metrics(self, _: web.Request) -> web.Response:
        try:
            self._desk.books.show(await self._desk.archive.facts(), now_ms=self._desk.clock.wall_ms())
        except SpoolClosed:
            self._desk.books.forget()
        body = generate_latest(self._desk.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(self, _: web.Request) -> web.Response:
        facts, now_ms = await self._desk.archive.facts(), self._desk.clock.wall_ms()
        states = {route.name: route.status() for route in self._desk.routes}
        return _json(
            {
                "version": self._desk.version,
                "now": views.moment(now_ms),
                "started_at": views.moment(self._desk.started_at_ms),
                "uptime_s": max(0, now_ms - self._desk.started_at_ms) / 1000,
                "spool": views.spool(facts),
                "routes": [views.route(name, facts, states.get(name.value), now_ms=now_ms) for name in RouteName],
            }
        )

    async def events(self, request: web.Request) -> web.Response:
        return _json(views.page(await self._desk.archive.events(event_query(request.query))))

    async def event(self, request: web.Request) -> web.Response:
        return _json(views.detail(await self._desk.archive.event(sequence_of(request.match_info["sequence"]))))

    async def event_types(self, request: web.Request) -> web.Response:
        route = member(request.query, "route", RouteName)
        rows = await self._desk.archive.event_types(route, limit=limit_of(request.query))
        return _json({"event_types": [views.event_type(row, self._desk.links_of(row)) for row in rows]})

    async def reasons(self, request: web.Request) -> web.Response:
        route = member(request.query, "route", RouteName)
        state = member(request.query, "state", State) or State.DEAD
        groups = await self._desk.archive.reasons(route, state, limit=limit_of(request.query))
        return _json({"state": state.value, "reasons": [views.reason(group) for group in groups]})

    async def audit(self, request: web.Request) -> web.Response:
        rows = await self._desk.archive.audit(limit=limit_of(request.query))
        return _json({"audit": [views.audit(row) for row in rows]})

    async def settings(self, _: web.Request) -> web.Response:
        return _json({"settings": list(self._desk.settings_rows)})

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(self._described)

    # --- acting ---

    async def replay(self, request: web.Request) -> web.Response:
        chosen = replay_selection(await body_of(request), states=REPLAYABLE)
        return await self._act(request, chosen, partial(self._desk.replay, everything=chosen.everything), "replayed")

    async def discard(self, request: web.Request) -> web.Response:
        chosen = selection(await body_of(request), states=DISCARDABLE)
        return await self._act(request, chosen, self._desk.discard, "discarded")

    async def pause(self, request: web.Request) -> web.Response:
        route = self._route(request)
        await self._desk.pause(route, who=who(request))
        return _json({"route": route.name, "state": route.status().state})

    async def resume(self, request: web.Request) -> web.Response:
        route = self._route(request)
        await self._desk.resume(route, who=who(request))
        return _json({"route": route.name, "state": route.status().state})

    async def _act(self, request: web.Request, chosen: Selection, act: Act, did: str) -> web.Response:
        """Act on the chosen events; `next_after` continues a selection that is more than one request may do."""
        if chosen.sequences is not None:
            count = await act(chosen.sequences, who=who(request), detail=str(chosen))
            return _json({did: count, "next_after": None})
        found = await self._desk.archive.events(chosen.query())
        sequences = [row.sequence for row in found.rows if not row.is_discarded]
        count = await act(sequences, who=who(request), detail=str(chosen)) if sequences else 0
        is_full = len(found.rows) >= chosen.limit
        return _json({did: count, "next_after": found.rows[-1].sequence if is_full else None})

    def _route(self, request: web.Request) -> OperatedRoute:
        route = self._desk.route(request.match_info["route"])
        if route is None:
            names = ", ".join(one.name for one in self._desk.routes)
            raise web.HTTPNotFound(reason=f"no such route is running; these are: {names}")
        return route


def who(request: web.Request) -> str:
    """Return who asks, for the audit log: what a program says of itself, and its address."""
    said = "".join(c for c in request.headers.get("X-Forwarder-Operator", "api") if c.isprintable())
    return f"{said[:_WHO_MAX]} ({request.remote or 'unknown'})"


async def body_of(request: web.Request) -> object:
    """Return the request's JSON; raises `QueryInvalid`."""
    try:
        parsed: object = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise QueryInvalid("the body is no JSON") from None
    return parsed


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)
