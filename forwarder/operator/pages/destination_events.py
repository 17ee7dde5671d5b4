"""Destination events: what arrives from RudderStack and Segment, and what each event starts at Courier.

As on Courier's own integration page: one row per type and name, mapped ones first, a "+" that links. Names match
exactly, case included. Deliberately absent: making automations, for which Courier has no public call: its Studio does.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from forwarder.errors import RulesInvalid
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.desk import LABEL_CHARACTERS_MAX, OperatorDesk
from forwarder.operator.pages.acts import ask, fields_of, operator_name
from forwarder.operator.pages.jobs import Jobs
from forwarder.operator.pages.overview import door_urls
from forwarder.operator.pages.render import Question, Renderer, see_other
from forwarder.operator.pages.sweeps import Sweep
from forwarder.operator.query import QueryInvalid
from forwarder.ports import EventQuery, EventRow, EventTypeRow

PATH: Final = "/destination-events"
STUDIO_URL: Final = "https://app.courier.com/automations"
LINKABLE: Final = ("track", "identify", "group")
_TYPES_MAX: Final = 500
_COUNTING_S: Final = 0.05  # for the counts of all rows together: the page must not wait for them
_COUNTED_EVENTS_MAX: Final = 200  # per row of the page
_ASKED_EVENTS_MAX: Final = 1_000  # before a replay
_WORDS: Final = ("type", "event", "to", "target", "source")
_MODE_VARIABLE: Final = "FORWARDER_INBOUND_MODE"
_INBOUND: Final = RouteName.RUDDERSTACK_TO_COURIER

Link = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One event type: how often it came, what it is linked to, and how many of it wait for a replay."""

    seen: EventTypeRow
    links: Sequence[Link]
    unmapped: int | None = None  # None: not counted
    has_more_unmapped: bool = False

    @property
    def type(self) -> str:
        """Return the call in lower case: what a link goes by."""
        return self.seen.type.lower()

    @property
    def link_event(self) -> str:
        """Return the name that a link goes by: of identify and group it is the type."""
        return self.seen.event if self.type == "track" else self.type

    @property
    def applies_to(self) -> str:
        """Say what this call changes at Courier without any link; "" for nothing."""
        return {"identify": "profile", "group": "tenant"}.get(self.type, "")

    @property
    def why_not_linkable(self) -> str:
        """Say why this event cannot be linked here; "" when it can."""
        if self.type not in LINKABLE:
            return "Only track, identify and group can be linked."
        if len(self.link_event) >= LABEL_CHARACTERS_MAX:
            return "Its name is cut here: link it with forwarder links add."
        return "" if self.link_event.strip() else "It has no name."


def destination_event_routes(desk: OperatorDesk, render: Renderer, jobs: Jobs) -> Sequence[web.RouteDef]:
    """Return the page and its acts."""
    page = _DestinationEvents(desk, render, jobs)
    return (
        web.get(PATH, page.show),
        web.get(f"{PATH}/link", page.ask_link),
        web.post(f"{PATH}/link", page.link),
        web.post(f"{PATH}/unlink", page.unlink),
        web.post(f"{PATH}/replay", page.replay),
    )


class _DestinationEvents:
    def __init__(self, desk: OperatorDesk, render: Renderer, jobs: Jobs) -> None:
        self._desk = desk
        self._render = render
        self._jobs = jobs

    async def show(self, request: web.Request) -> web.Response:
        inbound = await self._desk.archive.event_types(_INBOUND, limit=_TYPES_MAX)
        outbound = await self._desk.archive.event_types(RouteName.COURIER_TO_RUDDERSTACK, limit=_TYPES_MAX)
        links = self._links()
        sort, is_down = _order(request.query)
        rows = [Row(seen=seen, links=links.pop(_key_of(seen), ())) for seen in inbound]
        return self._render.page(
            request,
            "destination_events.html",
            rows=await self._counted(_sorted(rows, sort, is_down=is_down)),
            waiting=[link for same in links.values() for link in same],
            outbound=outbound,
            sort=sort,
            is_down=is_down,
            running=self._jobs.running(),
            is_cut=len(inbound) == _TYPES_MAX,
            has_links=self._desk.links is not None,
            is_relay=any(
                row["variable"] == _MODE_VARIABLE and row["value"] == "relay" for row in self._desk.settings_rows
            ),
            types=LINKABLE,
            doors=door_urls(self._desk, request),
            path=PATH,
            studio=STUDIO_URL,
        )

    async def ask_link(self, request: web.Request) -> web.Response:
        given = {word: request.query.get(word, "") for word in _WORDS}
        return self._form(request, given, is_fixed=bool(given["event"]))

    async def link(self, request: web.Request) -> web.Response:
        fields = await fields_of(request)
        given = {word: fields.get(word, "").strip() if word == "target" else fields.get(word, "") for word in _WORDS}
        try:
            added, _ = await self._desk.change_links(add=[given], remove=[], who=operator_name(request))
        except RulesInvalid as error:
            return self._form(request, given, is_fixed=fields.get("is_fixed") == "1", problem=str(error))
        raise see_other(PATH, did="linked", count=added)

    async def unlink(self, request: web.Request) -> web.Response:
        fields = await fields_of(request)
        words = {word: fields.get(word, "") for word in _WORDS}
        question = Question(
            title="Remove this link?",
            text=f"{words['type']}/{words['event']} will no longer start {words['to']} {words['target']}. "
            "What arrives from now on and is linked to nothing else ends as unmapped, and can be replayed later.",
            act="Remove link",
            back=PATH,
            is_destructive=True,
        )
        if (asked := await ask(request, self._render, question)) is not None:
            return asked
        try:
            _, removed = await self._desk.change_links(add=[], remove=[words], who=operator_name(request))
        except RulesInvalid as error:
            raise QueryInvalid(str(error)) from None
        raise see_other(PATH, did="unlinked", count=removed)

    async def replay(self, request: web.Request) -> web.Response:
        fields = await fields_of(request)
        kind, event = fields.get("type", ""), fields.get("event", "")
        count, has_more = await self._unmapped(event, at_most=_ASKED_EVENTS_MAX)
        shown = f"{text.number(count)}{' or more' if has_more else ''} unmapped event{'' if count == 1 else 's'}"
        question = Question(
            title="Replay what was unmapped?",
            text=f"{shown} {kind}/{event} will start what the event is linked to now, oldest first.",
            act="Replay",
            back=PATH,
        )
        if (asked := await ask(request, self._render, question)) is not None:
            return asked
        who = operator_name(request)

        async def act(sequences: Sequence[int]) -> int:
            return await self._desk.replay(sequences, who=who, detail=f"state=unmapped {kind} {event}")

        def is_meant(row: EventRow) -> bool:
            return row.labels.event == event and row.labels.type.lower() == kind.lower()

        # Along all that is unmapped, not by name: a search that hardly ever hits is cut, this one never is.
        sweep = Sweep(query=EventQuery(route=_INBOUND, state=State.UNMAPPED), takes=is_meant)
        job = self._jobs.start(
            sweep.steps(self._desk.archive, act),
            title=f"Replaying {shown} {kind}/{event}",
            did="replayed",
            back=PATH,
            total=count,
            is_at_least=has_more,
        )
        raise see_other(job.path)

    def _links(self) -> dict[tuple[str, str], list[Link]]:
        by_event: defaultdict[tuple[str, str], list[Link]] = defaultdict(list)
        for link in self._desk.links.rows() if self._desk.links is not None else ():
            by_event[str(link["type"]), str(link["event"])[:LABEL_CHARACTERS_MAX]].append(link)
        return dict(by_event)

    async def _counted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Count what waits for a replay, as far as time allows; nothing waits where nothing is unmapped at all."""
        if not await self._desk.archive.reasons(_INBOUND, State.UNMAPPED, limit=1):
            return [replace(row, unmapped=0) for row in rows]
        until_s = self._desk.clock.monotonic_s() + _COUNTING_S
        counted: list[Row] = []
        for row in rows:
            if not row.links or self._desk.clock.monotonic_s() > until_s:
                counted.append(row)
                continue
            count, has_more = await self._unmapped(row.seen.event, at_most=_COUNTED_EVENTS_MAX)
            counted.append(replace(row, unmapped=count, has_more_unmapped=has_more))
        return counted

    async def _unmapped(self, event: str, *, at_most: int) -> tuple[int, bool]:
        query = EventQuery(route=_INBOUND, state=State.UNMAPPED, event=event, limit=at_most)
        found = await self._desk.archive.events(query)
        return len(found.rows), found.next_before is not None or found.is_cut

    def _form(
        self, request: web.Request, given: Mapping[str, str], *, is_fixed: bool, problem: str = ""
    ) -> web.Response:
        return self._render.page(
            request,
            "link.html",
            status=400 if problem else 200,
            given=given,
            is_fixed=is_fixed,
            problem=problem,
            types=LINKABLE,
            path=PATH,
            studio=STUDIO_URL,
        )


def _key_of(seen: EventTypeRow) -> tuple[str, str]:
    kind = seen.type.lower()
    return kind, seen.event if kind == "track" else kind


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
