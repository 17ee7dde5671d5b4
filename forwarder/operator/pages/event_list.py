"""The list of events: history and live tail of both routes, newest first; found by one field, narrowed by others."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

from aiohttp import web
from msgspec import Struct

from forwarder.archive_port import EventPage, EventQuery
from forwarder.errors import NoSuchEvent
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.incidents.traffic import rejected_within_hour
from forwarder.operator.operation import FORM, Operation, QueryInvalid, fields_of, read
from forwarder.operator.pages.bulk import BulkPages, Verb
from forwarder.operator.pages.export import export
from forwarder.operator.pages.overview import endpoint_urls
from forwarder.operator.pages.render import Question, link, see_other
from forwarder.operator.parameters import ACTED_ON, Listing, Narrowed
from forwarder.operator.parts import LABEL_CHARACTERS_MAX
from forwarder.operator.searching import Search, Searches
from forwarder.operator.text import moment

FIELDS: Final = (
    "text", "route", "state", "period", "status", "attempts", "event", "user", "message", "reason", "from", "to"
)  # fmt: skip
PERIODS: Final = {
    "15m": ("15 minutes", 900),
    "1h": ("hour", 3_600),
    "24h": ("24 hours", 86_400),
    "7d": ("7 days", 604_800),
}
_LABELS: Final = {"user": "user_id", "message": "message_id"}  # as the API calls them
_SELDOM: Final = ("status", "attempts", "event", "user", "message", "reason", "from", "to")
_LOCAL_CHARACTERS: Final = len("2026-01-31T12:00:00")
_NOT_LIVE: Final = ("text", "from", "to", "before", "after")  # history: what is new is not asked for
_NAMES_OFFERED: Final = 100
_MINUTE_MS: Final = 60_000
_NUMBER_DIGITS_MAX: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the list is narrowed to. `given` is what the person wrote, for the form and for links."""

    given: Mapping[str, str]
    narrowed: Narrowed
    query: EventQuery

    @property
    def words(self) -> Hashable:
        """Return what a search for this goes by: a period by its name, for its time goes on."""
        return (*self.given.items(), self.query.before_sequence)

    def value(self, name: str) -> str:
        """Return what was written in a field; "" for nothing."""
        return self.given.get(name, "")

    def local(self, name: str) -> str:
        """Return the time in the field "from" or "to" as a form's field takes it: UTC, without saying so."""
        if name not in self.given:
            return ""
        at_ms = {"from": self.query.received_from_ms, "to": self.query.received_to_ms}[name]
        return (moment(at_ms) or "")[:_LOCAL_CHARACTERS]

    @property
    def has_seldom(self) -> bool:
        """Tell whether a field is given that is folded away otherwise."""
        return any(name in self.given for name in _SELDOM)

    @property
    def is_live(self) -> bool:
        """Tell whether new events belong into this list: it is the first page, and not a search of history."""
        is_first = self.query.before_sequence is None and self.query.after_sequence is None
        return is_first and not any(name in self.given for name in _NOT_LIVE)

    @property
    def text_alone(self) -> str:
        """Return the text, where nothing else is asked for and it is the first page; "" else."""
        is_alone = set(self.given) == {"text"} and self.query.before_sequence is self.query.after_sequence is None
        return self.value("text") if is_alone else ""

    @property
    def label_alone(self) -> str:
        """Return the user, message or name that is asked for, where nothing else is; "" else."""
        (name, *others) = self.given or ("",)
        return self.value(name) if not others and name in ("user", "message", "event") else ""

    @property
    def acts(self) -> Sequence[str]:
        """Return what can be done to all of these events."""
        return [act for act, states in ACTED_ON.items() if self.query.state in states]


def read_filters(parameters: Mapping[str, str], *, now_ms: int) -> Filters:
    """Read the address line; unknown names are ignored, impossible values raise `QueryInvalid`.

    A period begins at a whole minute, so that what is asked for again within it is the same.
    """
    given = {name: parameters[name].strip() for name in FIELDS if parameters.get(name, "").strip()}
    asked = {_LABELS.get(name, name): value for name, value in given.items()}
    if period := asked.pop("period", ""):
        if period not in PERIODS:
            raise QueryInvalid(f"period is unknown: use {', '.join(PERIODS)}")
        began_ms = now_ms - PERIODS[period][1] * 1_000
        asked.setdefault("from", str(began_ms - began_ms % _MINUTE_MS))
    place = {name: parameters.get(name, "") for name in ("before", "after")}
    listing = read(asked | place, Listing)
    return Filters(given=given, narrowed=listing, query=listing.page_query())


class FilteredForm(Struct, frozen=True, kw_only=True):
    """Beside the list's filters: what is to become of its search, `stop` or `go`; an act asks without `confirmed`."""

    search: str = ""
    confirmed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventList(BulkPages):
    """What the list is made of."""

    searches: Searches

    def operations(self) -> Sequence[Operation]:
        """Return the page."""
        return (
            Operation("GET", "/events", "Events", self.show),
            Operation("GET", "/events/export", "All events that the filters leave, as a file", self.export),
            Operation("POST", "/events/search", "Stop a search, or go on with it", self.steer, FORM, is_act=False),
            Operation("POST", "/events/replay", "Replay all events that the filters leave", self.replay, FORM),
            Operation("POST", "/events/discard", "Discard all dead events that the filters leave", self.discard, FORM),
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Hand out everything that the filters leave, as NDJSON, or as CSV with `format=csv`."""
        query = replace(self._filters(request.query).query, before_sequence=None, after_sequence=None)
        as_csv = request.query.get("format") == "csv"
        return await export(request, self.acts.parts.archive, query, as_csv=as_csv)

    async def show(self, request: web.Request) -> web.Response:
        """Show one page of the list."""
        filters, archive = self._filters(request.query), self.acts.parts.archive
        hits = await self._exact(filters.text_alone) if request.query.get("everywhere") != "1" else {}
        if len(hits) == 1:  # what has exactly this for its id or name was meant
            raise see_other(next(iter(hits.values())))
        page, search = await self._page(filters)
        seen = await archive.event_types(filters.query.route, limit=_NAMES_OFFERED)
        older, newer = _neighbours(filters, page)
        return await self.render.page(
            request,
            "events.html",
            filters=filters,
            page=page,
            search=search,
            hits=hits,
            periods=[(name, words) for name, (words, _) in PERIODS.items()],
            names=sorted({row.event for row in seen}),
            states=[state.value for state in State],
            route_names=[route.value for route in RouteName],
            rejected=0 if page.rows else rejected_within_hour(self.acts.parts.by_time),
            older=older,
            newer=newer,
            endpoints=endpoint_urls(self.acts.parts, request),
        )

    async def steer(self, request: web.Request, _: FilteredForm) -> web.StreamResponse:
        """Stop a search, or let it go on."""
        fields = await fields_of(request)
        filters = self._filters(fields)
        (self.searches.stop if fields.get("search") == "stop" else self.searches.go_on)(filters.words)
        raise see_other(link("/events", **filters.given, everywhere="1", before=filters.query.before_sequence))

    async def replay(self, request: web.Request, _: FilteredForm) -> web.StreamResponse:
        """Replay all that the filters leave, once the person said yes."""
        return await self._act(request, "replay", "will be tried again, oldest first")

    async def discard(self, request: web.Request, _: FilteredForm) -> web.StreamResponse:
        """Discard all dead ones that the filters leave, once the person said yes."""
        done = "will be put aside; they stay in the totals as dead, and in the log until the retention ends"
        return await self._act(request, "discard", done)

    async def _act(self, request: web.Request, act: Verb, done: str) -> web.Response:
        filters = self._filters(await fields_of(request))
        if act not in filters.acts:
            raise QueryInvalid(f"choose a state first: one of {', '.join(state.value for state in ACTED_ON[act])}")
        meant = await self._meant(filters)
        query, back = replace(self._filters(meant).query, after_sequence=None), link("/events", **filters.given)
        counted = await self.acts.parts.archive.events(replace(query, limit=0, has_discarded=False))
        words = f"{text.number(counted.matched)}{' or more' if counted.is_cut else ''} events"
        which = ", ".join(f"{name} {value}" for name, value in filters.given.items())
        question = Question(
            title=f"{act.capitalize()} these events?",
            text=f"{words} ({which}) {done}.",
            act=f"{act.capitalize()} {words}",
            back=back,
            is_destructive=act == "discard",
        )
        return await self.act_on_all(
            request,
            act,
            query,
            question,
            title=f"{words}: {which}",
            total=counted.matched,
            detail=str(filters.narrowed),
            logged=filters.narrowed.logged(),
            meant=meant,
            is_at_least=counted.is_cut,
        )

    async def _meant(self, filters: Filters) -> Mapping[str, str]:
        """Return what to post for the events that the filters leave now: a yes is for no others, however late."""
        given, query = dict(filters.given), filters.query
        if given.pop("period", ""):
            given.setdefault("from", moment(query.received_from_ms) or "")
        before = query.before_sequence
        if before is None:
            rows = (await self.acts.parts.archive.events(EventQuery(limit=1))).rows
            before = rows[0].sequence + 1 if rows else 0
        return given | {"before": str(before)}

    def _filters(self, parameters: Mapping[str, str]) -> Filters:
        return read_filters(parameters, now_ms=self.acts.parts.clock.wall_ms())

    async def _page(self, filters: Filters) -> tuple[EventPage, Search | None]:
        """Return what to show, and the search that goes on with what takes longer, or counts what lies behind."""
        query, archive = filters.query, self.acts.parts.archive
        if query.after_sequence is not None:  # newer ones: found oldest first
            page = await archive.events(query)
            before = page.rows[0].sequence if page.rows else query.after_sequence + 1
            return replace(page, rows=page.rows[::-1], next_before=before), None
        if query.text is None:
            page = await archive.events(query)
            is_counted = bool(filters.given) and query.before_sequence is None and page.next_before is not None
            if not page.is_cut:
                return page, await self.searches.look(filters.words, query) if is_counted else None
        search = await self.searches.look(filters.words, query)
        found = EventPage(
            rows=tuple(search.rows),
            next_before=search.next_before,
            is_cut=search.ended_s is None and not search.is_full,
            matched=search.matched,
            scanned=search.scanned,
            reached_ms=search.reached_ms,
        )
        return found, search

    async def _exact(self, wanted: str) -> Mapping[str, str]:
        """Return what has exactly this for its number, id or name, with its page."""
        archive, label = self.acts.parts.archive, wanted[:LABEL_CHARACTERS_MAX]
        if not wanted:
            return {}
        hits = {}
        if wanted.isascii() and wanted.isdigit() and len(wanted) <= _NUMBER_DIGITS_MAX:
            try:
                await archive.event(int(wanted))
                hits[f"Event ID {wanted}"] = f"/events/{int(wanted)}"
            except NoSuchEvent:
                pass
        for words, query, path in (
            ("Message", EventQuery(message_id=label, limit=1), f"/messages/{quote(wanted, safe='')}"),
            ("User", EventQuery(user_id=label, limit=1), link("/events", user=wanted)),
            ("Event", EventQuery(event=label, limit=1), link("/events", event=wanted)),
        ):
            if (await archive.events(query)).rows:
                hits[f"{words} {wanted}"] = path
        return hits


def _neighbours(filters: Filters, page: EventPage) -> tuple[str | None, str | None]:
    """Return the links to the older and the newer page, as far as there is one."""
    query = filters.query
    older = link("/events", **filters.given, before=page.next_before) if page.next_before is not None else None
    is_first = query.before_sequence is None and (query.after_sequence is None or page.next_after is None)
    newest = page.rows[0].sequence if page.rows else None
    return older, None if is_first or newest is None else link("/events", **filters.given, after=newest)
