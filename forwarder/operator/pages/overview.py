"""The overview: what runs, what waits and why, and whether the books balance.

Its live parts are rendered here too, once for everyone who looks (see `stream`). Deliberately absent: sampling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from forwarder.flow.route import RouteStatus
from forwarder.model import RouteName
from forwarder.operator.desk import OperatedRoute, OperatorDesk
from forwarder.operator.pages.acts import ask, operator_name
from forwarder.operator.pages.chart import hour_chart
from forwarder.operator.pages.render import ROUTE_LABELS, Question, Renderer, see_other
from forwarder.ports import SpoolFacts
from forwarder.telemetry.rates import Rates

_OFF: Final = {
    RouteName.COURIER_TO_RUDDERSTACK: (
        "Set RUDDERSTACK_WRITE_KEY, RUDDERSTACK_DATA_PLANE_URL and COURIER_WEBHOOK_SECRET to switch it on."
    ),
    RouteName.RUDDERSTACK_TO_COURIER: "Set COURIER_API_KEY and FORWARDER_INBOUND_KEYS to switch it on.",
}
_HELD: Final = {
    RouteName.COURIER_TO_RUDDERSTACK: "Check RUDDERSTACK_WRITE_KEY and RUDDERSTACK_DATA_PLANE_URL, and the source.",
    RouteName.RUDDERSTACK_TO_COURIER: "Check COURIER_API_KEY and COURIER_API_URL, and what the key may do.",
}
_KEPT: Final = "Nothing is lost: every event is kept."
_PART_NAMES: Final = ("state", "since", "acts", "numbers", "chart", "books")
LISTEN_VARIABLE: Final = "FORWARDER_LISTEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the overview is made of."""

    desk: OperatorDesk
    render: Renderer
    rates: Rates

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the page and the two acts on it."""
        return (
            web.get("/", self.show),
            web.post("/routes/{route}/pause", self.pause),
            web.post("/routes/{route}/resume", self.resume),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show everything at once."""
        facts = await self.desk.archive.facts()
        return self.render.page(
            request,
            "overview.html",
            parts_by_route=self._contexts(facts),
            daemon=self._daemon(facts),
            doors=door_urls(self.desk, request),
            is_untouched=not any(books.accepted for books in facts.totals.values()),
        )

    def parts(self, facts: SpoolFacts) -> Mapping[str, str]:
        """Return the live parts as markup, by the name of their place."""
        rendered = {"daemon": self.render.text("overview_daemon.html", daemon=self._daemon(facts))}
        for name, context in self._contexts(facts).items():
            for part in _PART_NAMES:
                rendered[f"{part}-{name}"] = self.render.text(f"overview_{part}.html", one=context)
        return rendered

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Pause a route, once the person said yes."""
        route = self._route(request)
        question = Question(
            title="Pause this route?",
            text="Nothing is sent until it is resumed, also after a restart. New events are still taken and kept.",
            act="Pause",
            back="/",
        )
        if (asking := await ask(request, self.render, question)) is not None:
            return asking
        await self.desk.pause(route, who=operator_name(request))
        raise see_other("/", did="paused")

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Resume a route: destroys nothing, asks nothing."""
        route = self._route(request)
        await self.desk.resume(route, who=operator_name(request))
        raise see_other("/", did="resumed")

    def _route(self, request: web.Request) -> OperatedRoute:
        route = self.desk.route(request.match_info["route"])
        if route is None:
            raise web.HTTPNotFound(reason="No route of that name is running.")
        return route

    def _contexts(self, facts: SpoolFacts) -> Mapping[str, Mapping[str, object]]:
        now_ms = self.desk.clock.wall_ms()
        running = {route.name: route.status() for route in self.desk.routes}
        return {name.value: self._context(name, facts, running.get(name.value), now_ms) for name in RouteName}

    def _context(
        self, name: RouteName, facts: SpoolFacts, status: RouteStatus | None, now_ms: int
    ) -> Mapping[str, object]:
        oldest_ms = facts.oldest_pending_ms.get(name)
        return {
            "name": name.value,
            "label": ROUTE_LABELS[name],
            "state": status.state if status else "off",
            "status": status,
            "advice": advice(name, status),
            "flow": self.rates.flow(name),
            "chart": hour_chart(self.rates.hour(name), now_ms=now_ms),
            "books": facts.totals.get(name),
            "oldest_age_s": max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else None,
            "retrying": facts.retrying.get(name, 0),
            "unsettled_bytes": facts.unsettled_bytes.get(name, 0),
        }

    def _daemon(self, facts: SpoolFacts) -> Mapping[str, object]:
        return {
            "facts": facts,
            "uptime_s": max(0, self.desk.clock.wall_ms() - self.desk.started_at_ms) / 1000,
            "started_at_ms": self.desk.started_at_ms,
            "share": facts.size_bytes / facts.cap_bytes if facts.cap_bytes else 0.0,
        }


def advice(name: RouteName, status: RouteStatus | None) -> str:
    """Say what a person should do about a route's state; "" when nothing."""
    if status is None:
        return _OFF[name]
    match status.state:
        case "paused":
            return f"Somebody paused it. {_KEPT} Resume it when the destination may be called again."
        case "held":
            return f"The destination turns us away. {_HELD[name]} It goes on by itself after the first success. {_KEPT}"
        case "backing_off":
            return f"The destination fails or asks us to wait. It is tried again by itself. {_KEPT}"
        case _:
            return ""


def door_urls(desk: OperatorDesk, request: web.BaseRequest) -> Mapping[str, str]:
    """Return the URLs to paste at the vendors: the public listener's port at the host that the browser used.

    A proxy or another public name in front is not known here; the page says so beside them.
    """
    listen = next((str(row["value"]) for row in desk.settings_rows if row["variable"] == LISTEN_VARIABLE), "")
    port = listen.rpartition(":")[2]
    host = urlsplit(f"//{request.host}").hostname or "localhost"
    base = f"http://{f'[{host}]' if ':' in host else host}{f':{port}' if port.isdigit() else ''}"
    return {
        "courier": f"{base}/webhooks/courier",
        "events": f"{base}/events",
        "rudderstack": f"{base}/inbound/rudderstack",
        "segment": f"{base}/inbound/segment",
        "sdk": base,
    }
