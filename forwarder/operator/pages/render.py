"""Templates to answers: the one place that makes HTML, so that escaping is decided once.

Whatever a template prints is first made visible (`text.visible`), then escaped. `| exact` leaves out the first for
values that go back to us (form fields), never the second. Deliberately absent: what the pages show.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from forwarder.model import RouteName
from forwarder.operator import text
from forwarder.operator.views import moment
from forwarder.ports import Clock

# Path, name, and the key that follows "g".
NAVIGATION: Final = (
    ("/", "Overview", "o"),
    ("/events", "Events", "e"),
    ("/destination-events", "Destination events", "d"),
    ("/dead-letters", "Dead letters", "x"),
    ("/settings", "Settings", "s"),
    ("/audit", "Audit", "a"),
)
ROUTE_LABELS: Final = {
    RouteName.COURIER_TO_RUDDERSTACK: "Courier → RudderStack",
    RouteName.RUDDERSTACK_TO_COURIER: "RudderStack → Courier",
}
# What a redirect after an act may tell (`?did=…&count=…`): a closed set, so that no link can put words on our page.
DID: Final = {
    "replayed": "Replayed: {count} event(s) wait for delivery again.",
    "discarded": "Discarded: {count} event(s). They stay in the books as dead.",
    "paused": "Paused. New events are still taken and kept; nothing is sent until you resume.",
    "resumed": "Resumed. What waited is being sent.",
    "linked": "Linked: {count} link(s) added.",
    "unlinked": "Removed: {count} link(s).",
    "edited": "The edited event was stored as a new one and waits for delivery.",
}
_COUNT_DIGITS_MAX: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask before an act: shown in a dialog with script, on a page of its own without."""

    title: str
    text: str
    act: str  # the word on the button
    back: str  # the path to go back to
    is_destructive: bool = False


class Renderer:
    """Render templates of the package. One for the whole page; safe to share.

    Every template gets `now_ms`, `version`, `navigation`, `here` (the path), `did` (what the last act did, or "")
    and `can_log_out`.
    """

    def __init__(self, *, clock: Clock, version: str, can_log_out: bool = False) -> None:
        self._clock = clock
        self._version = version
        self._can_log_out = can_log_out
        self._environment = _environment()

    def page(self, request: web.BaseRequest, template: str, *, status: int = 200, **context: object) -> web.Response:
        """Render a whole page for a request."""
        body = self.text(template, here=request.path, did=_did(request.query), **context)
        return web.Response(body=body.encode(), status=status, content_type="text/html", charset="utf-8")

    def text(self, template: str, **context: object) -> str:
        """Render a template, or a part of a page, to text; `here` and `did` are only for whole pages."""
        now_ms = self._clock.wall_ms()
        rendered = self._environment.get_template(template).render(
            now_ms=now_ms,
            version=self._version,
            **{"navigation": NAVIGATION, "can_log_out": self._can_log_out, "here": "", "did": "", **context},
        )
        return rendered.encode("utf-8", "replace").decode()

    def confirm(self, request: web.Request, question: Question, fields: Mapping[str, str]) -> web.Response:
        """Ask on a page of its own; its form posts `fields` and `confirmed=1` to the path that was asked."""
        return self.page(request, "confirm.html", question=question, fields=fields)


def see_other(path: str, **query: object) -> web.HTTPSeeOther:
    """Return the redirect after an act, to be raised; `did` and `count` tell what it did."""
    return web.HTTPSeeOther(path + (("&" if "?" in path else "?") + urlencode(query) if query else ""))


def _did(query: Mapping[str, str]) -> str:
    told, count = DID.get(query.get("did", ""), ""), query.get("count", "0")
    is_count = count.isascii() and count.isdigit() and len(count) <= _COUNT_DIGITS_MAX
    return told.format(count=text.number(int(count)) if is_count else "some")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("forwarder.operator"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "number": text.number,
        "rate": text.rate,
        "size": text.size,
        "span": text.span,
        "clock": text.clock_time,
        "when": _when,
        "exact": _exact,
        "path": _path,
        "route": _route,
        "plural": _plural,
    }
    environment.globals |= {"link": link, "routes": ROUTE_LABELS}
    return environment


def _visible(value: object) -> object:
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: object) -> Markup:
    """Escape, but leave every character as it is: for values that a form sends back."""
    return escape(str(value).encode("utf-8", "replace").decode())


def _path(value: object) -> str:
    """Encode one segment of a path."""
    return quote(str(value).encode("utf-8", "replace"), safe="")


def link(path: str, **query: object) -> str:
    """Return a link with a query; what is None or empty is left out."""
    given = {name: str(value).encode("utf-8", "replace") for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


@pass_context
def _when(context: Context, at_ms: int | None) -> Markup | str:
    """Write a moment as its age, with the moment itself beside it for machines and for the pointer."""
    if at_ms is None:
        return "—"
    return Markup('<time datetime="{}" data-at="{}" title="{}">{}</time>').format(
        moment(at_ms) or "", at_ms, text.clock_time(at_ms), text.ago(at_ms, now_ms=context["now_ms"])
    )


def _route(name: str) -> str:
    return ROUTE_LABELS.get(RouteName(name), name) if name in {route.value for route in RouteName} else name


def _plural(count: float, one: str, many: str = "") -> str:
    return f"{text.number(count)} {one if count == 1 else many or one + 's'}"
