"""The overview: what runs, what is pending and why, and whether the totals balance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from forwarder.archive_port import SpoolFacts
from forwarder.delivery.route_status import Pause, RouteStatus
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.acts import Acts
from forwarder.operator.incidents.incident import remedy_of_hold
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.incidents.traffic import rejected_lately
from forwarder.operator.operation import FORM, Operation
from forwarder.operator.pages.chart import RANGES, Range, draw
from forwarder.operator.pages.render import Renderer, see_other
from forwarder.operator.parameters import OfChart, PauseOf
from forwarder.operator.parts import OperatedRoute, Parts
from forwarder.operator.people import who
from forwarder.telemetry.rates import Rates
from forwarder.telemetry.totals_by_time import Rejected

_OFF: Final = {
    RouteName.COURIER_TO_RUDDERSTACK: (
        "Set RUDDERSTACK_WRITE_KEY, RUDDERSTACK_DATA_PLANE_URL and COURIER_WEBHOOK_SECRET to switch it on."
    ),
    RouteName.RUDDERSTACK_TO_COURIER: "Set COURIER_API_KEY and FORWARDER_INBOUND_KEYS to switch it on.",
}
_STANDS: Final = {"held": "is held", "paused": "is paused", "backing_off": "backs off"}  # the worst first
_GROUPS_MAX: Final = 100
_INCIDENTS_SHOWN: Final = 3
_INCIDENTS_MARKED: Final = 50
_PAUSES_S: Final = (900, 3_600, 14_400, 86_400)
_KEPT: Final = "Nothing is lost: every event is kept."


class PauseForm(PauseOf, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of a pause. Without `confirmed`=1 the answer asks."""

    confirmed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDo:
    """What waits for a person: how many, what they are, what to do, and where."""

    path: str
    count: int
    words: str
    act: str
    is_bad: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the overview is made of."""

    acts: Acts
    render: Renderer
    rates: Rates
    incidents: Incidents

    def operations(self) -> Sequence[Operation]:
        """Return the page and the two acts on it."""
        return (
            Operation("GET", "/", "Overview", self.show),
            Operation("POST", "/routes/{route}/pause", "Pause a route (the page's form)", self.pause, form=FORM),
            Operation("POST", "/routes/{route}/resume", "Resume a route (the page's form)", self.resume, form=FORM),
        )

    async def show(self, request: web.Request, given: OfChart) -> web.Response:
        """Show everything at once."""
        parts = self.acts.parts
        facts, now_ms = await parts.archive.facts(), parts.clock.wall_ms()
        running = {route.name: route.status() for route in parts.routes}
        of = RANGES[given.range]
        rejected = rejected_lately(parts.by_time)
        return await self.render.page(
            request,
            "overview.html",
            summary=summary(running, facts),
            to_do=await self._to_do(facts, rejected),
            routes=[self._route_shown(name, facts, running.get(name.value), now_ms, of) for name in RouteName],
            ranges=tuple(RANGES.values()),
            of=of,
            view=given.view,
            rejected=rejected,
            sources=[one.status() for one in parts.sources],
            incidents=self.incidents.watch.foremost(_INCIDENTS_SHOWN),
            facts=facts,
            started_at_ms=parts.started_at_ms,
            endpoints=endpoint_urls(parts, request),
            is_untouched=not any(totals.accepted for totals in facts.totals.values()),
        )

    async def pause(self, request: web.Request, form: PauseForm) -> web.StreamResponse:
        """Pause a route, once the person said yes, perhaps why, and until when."""
        route = self._route(request)
        if form.confirmed != "1":
            return await self.render.page(request, "pause.html", route=route.name, lengths_s=_PAUSES_S)
        await self.acts.pause(route, form, who=who(request))
        raise see_other("/", did="paused")

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Resume a route: destroys nothing, asks nothing."""
        route = self._route(request)
        await self.acts.resume(route, who=who(request))
        raise see_other("/", did="resumed")

    def _stood_still(self, name: RouteName, now_ms: int) -> Sequence[tuple[int, int]]:
        known = self.incidents.watch.newest(_INCIDENTS_MARKED)
        return [(one.began_ms, one.ended_ms or now_ms) for one in known if one.route in (None, name)]

    async def _to_do(self, facts: SpoolFacts, rejected: Sequence[Rejected]) -> Sequence[ToDo]:
        """Return what waits for a person, with the page where it is done."""
        groups = await self.acts.parts.archive.reasons(None, State.UNMAPPED, limit=_GROUPS_MAX)
        dead, unmapped = sum(facts.open_dead.values()), sum(group.count for group in groups)
        turned_away = sum(one.last_hour for one in rejected)
        found = (
            ToDo(path="/dead-letters", count=dead, words="dead-lettered", act="Put the cause right, then replay"),
            ToDo(
                path="/dead-letters#unmapped", count=unmapped, words="unmapped", act="Link, then replay", is_bad=False
            ),
            ToDo(path="#rejected", count=turned_away, words="rejected in the last hour", act="See why", is_bad=False),
        )
        return [one for one in found if one.count]

    def _route(self, request: web.Request) -> OperatedRoute:
        route = self.acts.parts.route(request.match_info["route"])
        if route is None:
            raise web.HTTPNotFound(reason="No route of that name is running.")
        return route

    def _route_shown(
        self, name: RouteName, facts: SpoolFacts, status: RouteStatus | None, now_ms: int, of: Range
    ) -> Mapping[str, object]:
        oldest_ms = facts.oldest_pending_ms.get(name)
        return {
            "name": name.value,
            "label": text.ROUTE_LABELS[name],
            "state": status.state if status else "off",
            "status": status,
            "advice": advice(name, status),
            "flow": self.rates.flow(name),
            "chart": draw(self.acts.parts.by_time, name, of, now_ms=now_ms, incidents=self._stood_still(name, now_ms)),
            "totals": facts.totals.get(name),
            "oldest_age_s": max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else None,
            "retrying": facts.retrying.get(name, 0),
            "unsettled_bytes": facts.unsettled_bytes.get(name, 0),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How everything is, in one word and one sentence."""

    state: str
    text: str


def summary(running: Mapping[str, RouteStatus], facts: SpoolFacts) -> Summary:
    """Say the worst first: refusing, then what stands still, then what is pending."""
    pending = sum(totals.pending for totals in facts.totals.values())
    waits = f"{text.plural(pending, 'event')} pending" if pending else "queue empty"
    if not facts.is_accepting:
        return Summary(state="refusing", text=f"New events are refused: {facts.refusal}; {waits}.")
    troubles = [(RouteName(name), *one) for name, status in running.items() for one in status.troubles]
    if troubles:
        troubles.sort(key=lambda one: tuple(_STANDS).index(one[1]))
        return Summary(state=troubles[0][1], text=f"{'; '.join(_trouble(*one) for one in troubles)}; {waits}.")
    if not running:
        return Summary(state="off", text="No route runs.")
    which = "Both routes run" if len(running) > 1 else f"{text.ROUTE_LABELS[RouteName(next(iter(running)))]} runs"
    return Summary(state="running", text=f"{which}; {waits}.")


def _trouble(name: RouteName, state: str, group: str, reason: str) -> str:
    where = f"{text.ROUTE_LABELS[name]} ({group})" if group else text.ROUTE_LABELS[name]
    return f"{where} {_STANDS[state]}{f': {reason}' if reason else ''}"


def advice(name: RouteName, status: RouteStatus | None) -> str:
    """Say what a person should do about a route's state; "" when nothing."""
    if status is None:
        return _OFF[name]
    match status.state:
        case "paused":
            return f"{paused_by(status)} {_KEPT} Resume it when the destination may be called again."
        case "held":
            remedy = remedy_of_hold(name)
            return f"The destination turns us away. {remedy} It goes on by itself after the first success. {_KEPT}"
        case "backing_off":
            return f"The destination fails or asks us to wait. It is tried again by itself. {_KEPT}"
        case _:
            return ""


def paused_by(status: RouteStatus) -> str:
    """Say who paused a route and when that ends."""
    pause = status.pause or Pause()
    until = f", until {text.clock_time(pause.until_ms)}" if pause.until_ms is not None else ""
    return f"Paused by {pause.who or 'somebody'}{until}."


def endpoint_urls(parts: Parts, request: web.BaseRequest) -> Mapping[str, str]:
    """Return the URLs to paste at the vendors: `FORWARDER_PUBLIC_URL`, or the public listener's port at this host.

    A proxy or another public name in front is not known then; the page says so beside them.
    """
    base = parts.setting("FORWARDER_PUBLIC_URL").rstrip("/")
    if not base:
        port = parts.setting("FORWARDER_LISTEN").partition(",")[0].rpartition(":")[2]
        host = urlsplit(f"//{request.host}").hostname or "localhost"
        base = f"http://{f'[{host}]' if ':' in host else host}{f':{port}' if port.isdigit() else ''}"
    return {
        "courier": f"{base}/webhooks/courier",
        "events": f"{base}/events",
        "rudderstack": f"{base}/inbound/rudderstack",
        "segment": f"{base}/inbound/segment",
        "sdk": base,
    }
