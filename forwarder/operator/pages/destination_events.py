"""Destination events: what arrives from RudderStack and Segment, and what each event starts at Courier.

As on Courier's own integration page: one row per type and name, mapped ones first, a "+" that links. Names match
exactly, case included. Automations are made in Courier's Studio: there is no public call for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from msgspec import Struct

from forwarder.archive_port import EventQuery, EventRow
from forwarder.errors import RulesInvalid
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.linking import LINKABLE, TYPES_MAX, Row, by_event, count, counted, doubted, key_of
from forwarder.operator.operation import FORM, Operation, QueryInvalid
from forwarder.operator.pages.bulk import BulkPages
from forwarder.operator.pages.overview import endpoint_urls
from forwarder.operator.pages.render import Question, see_other
from forwarder.operator.people import who

PATH: Final = "/destination-events"
STUDIO_URL: Final = "https://app.courier.com/automations"
_ASKED_EVENTS_MAX: Final = 1_000  # before a replay
_WORDS: Final = ("type", "event", "to", "target", "source")
_INBOUND: Final = RouteName.RUDDERSTACK_TO_COURIER
_PAGE_WAITS_S: Final = 0.1  # for Courier's lists: they are there the next time
_FORM_WAITS_S: Final = 1.5  # a person is about to pick from them
_OFFERED_MAX: Final = 500  # of one kind


class LinkForm(Struct, frozen=True, kw_only=True):
    """A link in the words of file and command line. Without `confirmed`=1 a removal asks first."""

    type: str = ""
    event: str = ""
    to: str = ""
    target: str = ""
    source: str = ""
    is_fixed: str = ""  # "1": type and event were not typed by a person
    confirmed: str = ""

    def words(self) -> dict[str, str]:
        """Return the words of the link itself."""
        return {word: getattr(self, word) for word in _WORDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationEvents(BulkPages):
    """The page and its acts."""

    def operations(self) -> Sequence[Operation]:
        """Return them."""
        return (
            Operation("GET", PATH, "Destination events", self.show),
            Operation("GET", f"{PATH}/link", "Link an event", self.ask_link, is_act=True),
            Operation("POST", f"{PATH}/link", "Link an event (the page's form)", self.link, form=FORM),
            Operation("POST", f"{PATH}/unlink", "Remove a link (the page's form)", self.unlink, form=FORM),
            Operation("POST", f"{PATH}/replay", "Replay what was unmapped of one event", self.replay, form=FORM),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show every event type, and the links of those that have not come yet."""
        parts = self.acts.parts
        inbound = await parts.archive.event_types(_INBOUND, limit=TYPES_MAX)
        outbound = await parts.archive.event_types(RouteName.COURIER_TO_RUDDERSTACK, limit=TYPES_MAX)
        known = await self.acts.catalogue.known(wait_s=_PAGE_WAITS_S)
        links = by_event(doubted(parts.links.rows(), known))
        sort, is_down = _order(request.query)
        rows = [Row(seen=seen, links=links.pop(key_of(seen), ())) for seen in inbound]
        return await self.render.page(
            request,
            "destination_events.html",
            rows=await counted(parts, _sorted(rows, sort, is_down=is_down)),
            unchecked=known.problem,
            waiting=[link for same in links.values() for link in same],
            outbound=outbound,
            sort=sort,
            is_down=is_down,
            running=self.jobs.running(),
            is_cut=len(inbound) == TYPES_MAX,
            is_relay=parts.setting("FORWARDER_INBOUND_MODE") == "relay",
            types=LINKABLE,
            endpoints=endpoint_urls(parts, request),
            path=PATH,
            studio=STUDIO_URL,
        )

    async def ask_link(self, request: web.Request, given: LinkForm) -> web.Response:
        """Show the form of a link."""
        return await self._form(request, given.words(), is_fixed=bool(given.event))

    async def link(self, request: web.Request, form: LinkForm) -> web.Response:
        """Add a link."""
        given = form.words() | {"target": form.target.strip()}
        try:
            added, _ = await self.acts.change_links(add=[given], remove=[], who=who(request))
        except RulesInvalid as error:
            return await self._form(request, given, is_fixed=form.is_fixed == "1", problem=str(error))
        known = await self.acts.catalogue.known(wait_s=_PAGE_WAITS_S)
        is_doubtful = bool(known.doubt(given["to"] or "automation", given["target"]))
        raise see_other(PATH, did="linked_doubtfully" if is_doubtful else "linked", count=added)

    async def unlink(self, request: web.Request, form: LinkForm) -> web.Response:
        """Remove a link, once the person said yes."""
        question = Question(
            title="Remove this link?",
            text=f"{form.type}/{form.event} will no longer start {form.to} {form.target}. "
            "What arrives from now on and is linked to nothing else ends as unmapped, and can be replayed later.",
            act="Remove link",
            back=PATH,
            is_destructive=True,
        )
        if (asked := await self.render.ask(request, question)) is not None:
            return asked
        try:
            _, removed = await self.acts.change_links(add=[], remove=[form.words()], who=who(request))
        except RulesInvalid as error:
            raise QueryInvalid(str(error)) from None
        raise see_other(PATH, did="unlinked", count=removed)

    async def replay(self, request: web.Request, form: LinkForm) -> web.Response:
        """Replay what was unmapped of one event, once the person said yes."""
        waiting = await count(self.acts.parts, form.event, State.UNMAPPED, at_most=_ASKED_EVENTS_MAX)
        more = " or more" if waiting.has_more else ""
        shown = f"{text.number(waiting.events)}{more} unmapped event{'' if waiting.events == 1 else 's'}"
        question = Question(
            title="Replay what was unmapped?",
            text=f"{shown} {form.type}/{form.event} will start what the event is linked to now, oldest first.",
            act="Replay",
            back=PATH,
        )

        def is_meant(row: EventRow) -> bool:
            return row.labels.event == form.event and row.labels.type.lower() == form.type.lower()

        return await self.act_on_all(
            request,
            "replay",
            EventQuery(route=_INBOUND, state=State.UNMAPPED, event=form.event),
            question,
            title=f"{shown} {form.type}/{form.event}",
            total=waiting.events,
            detail=f"state=unmapped {form.type} {form.event}",
            logged="state=unmapped event=…",
            is_at_least=waiting.has_more,
            is_meant=is_meant,
        )

    async def _form(
        self, request: web.Request, given: Mapping[str, str], *, is_fixed: bool, problem: str = ""
    ) -> web.Response:
        known = await self.acts.catalogue.known(wait_s=_FORM_WAITS_S)
        return await self.render.page(
            request,
            "link.html",
            status=400 if problem else 200,
            given=given,
            is_fixed=is_fixed,
            problem=problem,
            types=LINKABLE,
            path=PATH,
            studio=STUDIO_URL,
            offered=[
                (kind, target, name)
                for kind, one in known.kinds.items()
                for target, name in list(one.names.items())[:_OFFERED_MAX]
            ],
            unchecked=known.problem,
        )


def _order(query: Mapping[str, str]) -> tuple[str, bool]:
    """Return the column to sort by, "" for mapped ones first, and whether downwards."""
    sort = query.get("sort", "")
    return (sort if sort in ("event", "time") else ""), query.get("order") == "desc"


def _sorted(rows: Sequence[Row], sort: str, *, is_down: bool) -> Sequence[Row]:
    if sort == "event":
        return sorted(rows, key=lambda row: (row.seen.event.casefold(), row.seen.event, row.type), reverse=is_down)
    if sort == "time":
        return sorted(rows, key=lambda row: row.seen.last_at_ms, reverse=is_down)
    return sorted(rows, key=lambda row: (not row.links, -row.seen.last_at_ms))
