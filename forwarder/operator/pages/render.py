"""Templates to answers: the one place that makes HTML, so that escaping is decided once.

Whatever a template prints is first made visible (`text.visible`), then escaped. `| exact` leaves out the first for
values that go back to us (form fields), never the second.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from forwarder import __version__
from forwarder.archive_port import SpoolFacts
from forwarder.errors import ForwarderError
from forwarder.model import RouteName
from forwarder.operator import text
from forwarder.operator.operation import fields_of
from forwarder.operator.parts import Parts
from forwarder.operator.people import NOBODY, person_of

# Path, name, and the key that follows "g".
NAVIGATION: Final = (
    ("/", "Overview", "o"),
    ("/events", "Events", "e"),
    ("/destination-events", "Destination events", "d"),
    ("/dead-letters", "Dead letters", "x"),
    ("/incidents", "Incidents", "i"),
    ("/settings", "Settings", "s"),
    ("/audit", "Audit", "a"),
)
# What a redirect after an act may tell (`?did=…&count=…`): a closed set, so that no link can put words on our page.
DID: Final = {
    "replayed": "Replayed: {count} event(s) are pending again.",
    "discarded": "Discarded: {count} event(s). They stay in the totals as dead.",
    "paused": "Paused. New events are still accepted and kept; nothing is sent until you resume.",
    "resumed": "Resumed. What is pending is being sent.",
    "linked": "Linked: {count} link(s) added.",
    "linked_doubtfully": "Linked: {count} link(s) added. Courier does not list the target: see below.",
    "unlinked": "Removed: {count} link(s).",
    "edited": "The edited event was stored as a new one and is pending.",
}
_COUNT_DIGITS_MAX: Final = 9
# A text without an end reaches to the end: looked at once, whatever strangers send.
_JSON: Final = re.compile(
    r'(?P<b>"(?:[^"\\]|\\.)*"(?=\s*:))|(?P<i>"(?:[^"\\]|\\.)*(?:"|\\?\Z))|(?P<u>-?\d[\d.eE+-]*)|(?P<s>\b(?:true|false|null)\b)',
    re.DOTALL,
)
_COLOURED_MAX: Final = 32_768  # characters; the loop waits meanwhile
_EPOCH_MS_DIGITS: Final = 13  # from 2001 to 2286


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask before an act: shown in a dialog with script, on a page of its own without."""

    title: str
    text: str
    act: str  # the word on the button
    back: str  # the path to go back to
    is_destructive: bool = False


class Renderer:
    """Render templates of the package. One for all pages.

    Every template gets `now_ms`, `version`, `navigation`, `here` (the path), `did` (what the last act did, or ""),
    `person` (who looks), `facts` of the spool (None while it cannot be read, and for nobody), `alarm` and `open_dead`.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._environment = _environment()
        self._environment.globals["version"] = __version__

    def alarm(self, facts: SpoolFacts | None) -> str:
        """Return in one word what a person must see before anything else; "" for nothing."""
        if facts is not None and not facts.is_accepting:
            return "refusing"
        states = {state for route in self._parts.routes for state, _, _ in route.status().troubles}
        return next((state for state in ("held", "paused") if state in states), "")

    async def page(self, request: web.Request, template: str, *, status: int = 200, **context: object) -> web.Response:
        """Render a page for a request; nobody learns from it how the daemon is."""
        person = context.get("person", person_of(request))
        facts = await self._facts() if person != NOBODY else None
        given = {
            "now_ms": self._parts.clock.wall_ms(),
            "here": request.path,
            "person": person,
            "did": _did(request.query),
            "facts": facts,
            "alarm": self.alarm(facts) if person != NOBODY else "",
            "open_dead": sum(facts.open_dead.values()) if facts is not None else 0,
            "navigation": NAVIGATION if person != NOBODY else (),
            **context,
        }
        body = self._environment.get_template(template).render(given).encode("utf-8", "replace")
        return web.Response(body=body, status=status, content_type="text/html", charset="utf-8")

    async def ask(
        self, request: web.Request, question: Question, meant: Mapping[str, object] | None = None
    ) -> web.Response | None:
        """Return the page that asks, or None when the person has said yes already.

        Its form posts the fields that were sent, or those of `meant`, and `confirmed`, to the path that was asked.
        """
        fields = await fields_of(request)
        if fields.get("confirmed") == "1":
            return None
        return await self.page(request, "confirm.html", question=question, fields=fields if meant is None else meant)

    async def error(self, request: web.Request, status: int, message: str) -> web.Response:
        """Tell what went wrong."""
        return await self.page(request, "error.html", status=status, code=status, message=message)

    async def _facts(self) -> SpoolFacts | None:
        try:
            return await self._parts.archive.facts()
        except ForwarderError:
            return None


def see_other(path: str, **query: object) -> web.HTTPSeeOther:
    """Return the redirect after an act, to be raised; `did` and `count` tell what it did."""
    return web.HTTPSeeOther(path + (("&" if "?" in path else "?") + urlencode(query) if query else ""))


def link(path: str, **query: object) -> str:
    """Return a link with a query; what is None or empty is left out."""
    given = {name: str(value).encode("utf-8", "replace") for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


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
        "minute": text.minute,
        "when": _when,
        "exact": _exact,
        "path": _path,
        "route": _route,
        "plural": text.plural,
        "json": coloured,
    }
    environment.globals |= {"link": link}
    return environment


def _visible(value: object) -> object:
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: object) -> Markup:
    """Escape, but leave every character as it is: for values that a form sends back."""
    return escape(str(value).encode("utf-8", "replace").decode())


def _path(value: object) -> str:
    """Encode one segment of a path."""
    return quote(str(value).encode("utf-8", "replace"), safe="")


def coloured(written: str) -> Markup:
    """Colour JSON, whatever of it there is: names, texts, numbers, words; a time in it is told beside the text."""
    shown, end = text.visible(written), 0
    made: list[str] = []
    if len(shown) > _COLOURED_MAX:
        return escape(shown)
    for token in _JSON.finditer(shown):
        kind, word = token.lastgroup or "", token[0]
        is_time = kind == "u" and word.isdigit() and len(word) == _EPOCH_MS_DIGITS
        when = f' data-when="{text.clock_time(int(word))}"' if is_time else ""
        made += (escape(shown[end : token.start()]), f"<{kind}{when}>", escape(word), f"</{kind}>")
        end = token.end()
    return Markup("".join((*made, escape(shown[end:]))))  # noqa: S704  every foreign piece is escaped above


@pass_context
def _when(context: Context, at_ms: int | None) -> Markup | str:
    """Write a moment as its age, with the moment itself beside it for machines and for the pointer."""
    if at_ms is None:
        return "—"
    return Markup('<time datetime="{}" data-at="{}" title="{}">{}</time>').format(
        text.moment(at_ms) or "", at_ms, text.clock_time(at_ms), text.ago(at_ms, now_ms=context["now_ms"])
    )


def _route(name: str) -> str:
    return text.ROUTE_LABELS.get(RouteName(name), name) if name in {route.value for route in RouteName} else name
