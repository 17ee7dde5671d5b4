"""The operator's API: what happens, event by event, and the few things people may do about it.

Every handler asks a part of the daemon and answers a type. Absent: who may ask (`guard`), and the pages.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from forwarder import __version__
from forwarder.errors import RulesInvalid, SpoolClosed
from forwarder.model import RouteName, State
from forwarder.operator import api_types as told
from forwarder.operator import views
from forwarder.operator.acts import Acts
from forwarder.operator.forgetting import Forget, Forgotten, forget
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.incidents.traffic import rejected_lately
from forwarder.operator.linking import by_event, doubted, links_to
from forwarder.operator.openapi import document
from forwarder.operator.operation import Operation, QueryInvalid, sequence_of
from forwarder.operator.parameters import (
    Chosen,
    LinksChange,
    Listing,
    OfLog,
    OfReason,
    OfRoute,
    PauseOf,
    Replay,
    Selection,
)
from forwarder.operator.parts import OperatedRoute
from forwarder.operator.people import who
from forwarder.operator.text import moment

_CATALOGUE_WAIT_S: Final = 1.0  # for Courier's lists

Act = Callable[..., Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What the API is made of."""

    acts: Acts
    incidents: Incidents

    def operations(self) -> Sequence[Operation]:
        """Return everything that programs can ask."""
        return (
            Operation("GET", "/metrics", "Metrics for Prometheus", self.metrics),
            Operation("GET", "/api/status", "State of both routes, the totals and the spool", self.status),
            Operation("GET", "/api/events", "List events, newest first (oldest first with `after`)", self.events),
            Operation("GET", "/api/events/{sequence}", "One event with its payload and its attempts", self.event),
            Operation("GET", "/api/event-types", "Event types seen, last seen first", self.event_types),
            Operation("GET", "/api/reasons", "Settled events grouped by reason, largest first", self.reasons),
            Operation("GET", "/api/incidents", "What went wrong, newest first", self.list_incidents),
            Operation("GET", "/api/audit", "Who did what, newest first", self.audit),
            Operation("GET", "/api/settings", "Effective settings with their source, secrets masked", self.settings),
            Operation("GET", "/api/links", "Links between events and what they start, pinned ones first", self.links),
            Operation("POST", "/api/links", "Add and remove links, all or none", self.change_links),
            Operation("POST", "/api/replay", "Make settled events pending again", self.replay),
            Operation("POST", "/api/outcome", "Where some events are now; changes nothing", self.outcome, is_act=False),
            Operation("POST", "/api/discard", "Mark dead events as discarded; they stay in the totals", self.discard),
            Operation("POST", "/api/forget", "Erase a person's events, or count them", self.forget),
            Operation(
                "POST",
                "/api/routes/{route}/pause",
                "Pause a route, also over a restart, until resumed or for a time",
                self.pause,
            ),
            Operation("POST", "/api/routes/{route}/resume", "Resume a route", self.resume),
        )

    # --- seeing ---

    async def metrics(self, _: web.Request) -> web.Response:
        """Render the metrics, with the totals of this moment; with the spool shut they are left out."""
        parts = self.acts.parts
        try:
            parts.totals.show(await parts.archive.facts(), now_ms=parts.clock.wall_ms())
        except SpoolClosed:
            parts.totals.forget()
        return web.Response(body=generate_latest(parts.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def status(self, _: web.Request) -> told.Status:
        """Tell how everything is."""
        parts = self.acts.parts
        facts, now_ms = await parts.archive.facts(), parts.clock.wall_ms()
        states = {route.name: route.status() for route in parts.routes}
        return told.Status(
            version=__version__,
            now=moment(now_ms),
            started_at=moment(parts.started_at_ms),
            uptime_s=max(0, now_ms - parts.started_at_ms) / 1000,
            spool=views.spool(facts),
            rejected=rejected_lately(parts.by_time),
            routes=[views.route(name, facts, states.get(name.value), now_ms=now_ms) for name in RouteName],
            sources=[views.source(one.status()) for one in parts.sources],
        )

    async def events(self, _: web.Request, given: Listing) -> told.EventPage:
        """List events."""
        return views.event_page(await self.acts.parts.archive.events(given.page_query()))

    async def event(self, request: web.Request) -> told.EventDetail:
        """Show one event."""
        return views.event_detail(await self.acts.parts.archive.event(sequence_of(request)))

    async def event_types(self, _: web.Request, given: OfRoute) -> told.EventTypes:
        """List what was seen, and what it is linked to."""
        parts = self.acts.parts
        rows = await parts.archive.event_types(given.route, limit=given.limit)
        links = by_event(parts.links.rows())
        return told.EventTypes(event_types=[views.event_type(row, links_to(row, links)) for row in rows])

    async def reasons(self, _: web.Request, given: OfReason) -> told.Reasons:
        """Group settled events."""
        groups = await self.acts.parts.archive.reasons(given.route, given.state, limit=given.limit)
        return told.Reasons(state=given.state, reasons=[views.reason(group) for group in groups])

    async def audit(self, _: web.Request, given: OfLog) -> told.Audit:
        """Tell who did what."""
        rows = await self.acts.parts.archive.audit(limit=given.limit)
        return told.Audit(audit=[views.audit_line(row) for row in rows])

    async def list_incidents(self, _: web.Request, given: OfLog) -> told.IncidentList:
        """Tell what went wrong."""
        now_ms = self.acts.parts.clock.wall_ms()
        found = self.incidents.watch.newest(given.limit)
        return told.IncidentList(incidents=[views.incident(one, now_ms=now_ms) for one in found])

    async def settings(self, _: web.Request) -> told.SettingsInEffect:
        """Tell what is in effect."""
        return msgspec.convert({"settings": self.acts.parts.settings_rows}, told.SettingsInEffect)

    async def links(self, _: web.Request) -> told.Links:
        """List the links."""
        known = await self.acts.catalogue.known(wait_s=_CATALOGUE_WAIT_S)
        return msgspec.convert({"links": doubted(self.acts.parts.links.rows(), known)}, told.Links)

    # --- acting ---

    async def change_links(self, request: web.Request, given: LinksChange) -> told.LinksChanged:
        """Change the links."""
        add, remove = (msgspec.to_builtins(links or []) for links in (given.add, given.remove))
        try:
            added, removed = await self.acts.change_links(add=add, remove=remove, who=who(request))
        except RulesInvalid as error:
            raise QueryInvalid(str(error)) from None
        return told.LinksChanged(added=added, removed=removed)

    async def replay(self, request: web.Request, given: Replay) -> told.Replayed:
        """Replay the chosen events, or the next step of them."""
        act = partial(self.acts.replay, everything=given.everything)
        count, sequences, next_after = await self._step(request, given, "replay", act)
        return told.Replayed(replayed=count, next_after=next_after, sequences=sequences)

    async def outcome(self, _: web.Request, given: Chosen) -> told.Outcome:
        """Tell what became of some events."""
        states = await self.acts.parts.archive.states(given.sequences)
        pending = [sequence for sequence, state in states.items() if state is State.PENDING]
        return told.Outcome(states=Counter(states.values()), pending=pending)

    async def discard(self, request: web.Request, given: Selection) -> told.Discarded:
        """Discard the chosen events, or the next step of them."""
        count, _, next_after = await self._step(request, given, "discard", self.acts.discard)
        return told.Discarded(discarded=count, next_after=next_after)

    async def forget(self, request: web.Request, given: Forget) -> Forgotten:
        """Erase a person, or a step of it."""
        return await forget(self.acts, given, who=who(request))

    async def pause(self, request: web.Request, given: PauseOf) -> told.RouteState:
        """Pause a route."""
        route = self._route(request)
        await self.acts.pause(route, given, who=who(request))
        return views.route_state(route.status())

    async def resume(self, request: web.Request) -> told.RouteState:
        """Resume a route."""
        route = self._route(request)
        await self.acts.resume(route, who=who(request))
        return views.route_state(route.status())

    async def _step(
        self, request: web.Request, given: Selection, action: str, act: Act
    ) -> tuple[int, list[int], int | None]:
        archive = self.acts.parts.archive
        sequences, next_after = given.sequences, None
        if sequences is None:
            after, before = given.after, given.before
            query = given.query(after_sequence=after, before_sequence=before, limit=given.limit, has_discarded=False)
            one = await archive.events(query)
            sequences, next_after = [row.sequence for row in one.rows], one.next_after
        elif given.dry_run:
            states = await archive.states(sequences)
            sequences = [sequence for sequence, state in states.items() if state in given.allowed()]
        if given.dry_run:
            return len(sequences), sequences, next_after
        again = ", with what was done before" if isinstance(given, Replay) and given.everything else ""
        line = self.acts.line(who(request), action, f"{given}{again}", logged=f"{given.logged()}{again}")
        line = await self.acts.step(given.act, line) if given.act else line
        count = await act(sequences, line=line) if sequences else 0
        if given.act and (given.has_more or next_after is not None):
            await self.acts.await_step(given.act, line)
        elif line.count is not None and action == "replay":
            self.acts.follow(line)
        elif line.count is not None:
            await self.acts.end(line, "done")
        return count, sequences, next_after

    def _route(self, request: web.Request) -> OperatedRoute:
        route = self.acts.parts.route(request.match_info["route"])
        if route is None:
            names = ", ".join(one.name for one in self.acts.parts.routes)
            raise web.HTTPNotFound(reason=f"no such route is running; these are: {names}")
        return route


def described(operations: Sequence[Operation]) -> Operation:
    """Return the operation that describes these and itself."""

    async def show(_: web.Request) -> web.Response:
        return web.json_response(text=text)

    own = Operation("GET", "/api/openapi.json", "This document", show)
    text = msgspec.json.encode(document(__version__, (*operations, own))).decode()
    return own
