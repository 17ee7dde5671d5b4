"""Dead letters: what no destination will take, grouped by why, and what people can do about each group.

Beside them what waits for a link (unmapped), because it is looked after in the same way. A group is acted on whole,
oldest first, in steps; a big one becomes a job with a page of its own. Deliberately absent: one event's page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NoReturn

from aiohttp import web

from forwarder.errors import NoSuchEvent
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.desk import ACTION_EVENTS_MAX, OperatorDesk
from forwarder.operator.pages.acts import ask, fields_of, operator_name
from forwarder.operator.pages.edited_copy import EDIT_BYTES_MAX, editable_text, store_edited
from forwarder.operator.pages.export import export
from forwarder.operator.pages.jobs import Jobs
from forwarder.operator.pages.render import ROUTE_LABELS, Question, Renderer, see_other
from forwarder.operator.pages.sweeps import Act, Sweep, of_group
from forwarder.operator.query import QueryInvalid, member, sequence_of
from forwarder.ports import EventDetail, EventQuery, ReasonGroup

PATH: Final = "/dead-letters"
_GROUPS_MAX: Final = 100  # shown, per route and state
_GROUPS_LOOKED_AT_MAX: Final = 1_000  # their order may change between a page and its forms
_SAMPLES_MAX: Final = 20  # read with their payload; the other groups link to theirs
_EXCERPT_CHARACTERS: Final = 1_200
STATES: Final = (State.DEAD, State.UNMAPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Events of one route that ended for one reason, with the newest of them as a sample."""

    route: RouteName
    state: State
    seen: ReasonGroup
    sample: EventDetail | None = None
    excerpt: str = ""

    @property
    def mark(self) -> str:
        """Name the reason in forms: its text may hold what a form does not send back as it was."""
        return reason_mark(self.seen.reason)

    def __str__(self) -> str:
        """Name it for the audit log."""
        return of_group(self.state, route=self.route.value, reason=self.seen.reason)

    def query(self) -> EventQuery:
        """Select it."""
        return EventQuery(route=self.route, state=self.state, reason=self.seen.reason)

    def count_words(self) -> str:
        """Say how many events it holds."""
        return f"{text.number(self.seen.count)} event{'' if self.seen.count == 1 else 's'}"


def reason_mark(reason: str) -> str:
    """Return a short name of a reason."""
    return blake2b(reason.encode("utf-8", "replace"), digest_size=8).hexdigest()


def dead_letter_routes(desk: OperatorDesk, render: Renderer, jobs: Jobs) -> Sequence[web.RouteDef]:
    """Return the page of the dead letters, its acts and its export."""
    page = _DeadLetters(desk, render, jobs)
    return (
        web.get(PATH, page.show),
        web.post(f"{PATH}/replay", page.replay),
        web.post(f"{PATH}/discard", page.discard),
        web.get(f"{PATH}/export", page.export, allow_head=False),
        web.get(f"{PATH}/{{sequence}}/edit", page.edit),
        web.post(f"{PATH}/{{sequence}}/edit", page.store),
        web.post(f"{PATH}/{{sequence}}/discard", page.discard_one),
    )


class _DeadLetters:
    def __init__(self, desk: OperatorDesk, render: Renderer, jobs: Jobs) -> None:
        self._desk = desk
        self._render = render
        self._jobs = jobs

    async def show(self, request: web.Request) -> web.Response:
        groups = {state: await self._groups(state) for state in STATES}
        return self._render.page(
            request,
            "dead_letters.html",
            dead=groups[State.DEAD],
            unmapped=groups[State.UNMAPPED],
            path=PATH,
            running=self._jobs.running(),
        )

    async def export(self, request: web.Request) -> web.StreamResponse:
        state = member(request.query, "state", State)
        if state not in STATES:
            raise QueryInvalid("state is missing: use dead or unmapped")
        one = await self._chosen(request.query) if "group" in request.query else None
        query = one.query() if one is not None else EventQuery(state=state)
        return await export(request, self._desk.archive, query)

    # --- acting on a group ---

    async def replay(self, request: web.Request) -> web.StreamResponse:
        one = await self._chosen(await fields_of(request))
        question = Question(
            title="Replay this group?",
            text=f"{one.count_words()} on {ROUTE_LABELS[one.route]} will be tried again: “{one.seen.reason}”. "
            "What has not been put right will fail again.",
            act=f"Replay {one.count_words()}",
            back=PATH,
        )
        if (asked := await ask(request, self._render, question)) is not None:
            return asked
        who = operator_name(request)

        async def act(sequences: Sequence[int]) -> int:
            return await self._desk.replay(sequences, who=who, detail=str(one))

        return await self._act(one, act, did="replayed", doing="Replaying")

    async def discard(self, request: web.Request) -> web.StreamResponse:
        one = await self._chosen(await fields_of(request))
        if one.state is not State.DEAD:
            raise QueryInvalid("only dead events can be discarded")
        question = Question(
            title="Discard this group?",
            text=f"{one.count_words()} on {ROUTE_LABELS[one.route]} will be put aside: “{one.seen.reason}”. "
            "They stay in the books as dead, and in the log until the retention ends.",
            act=f"Discard {one.count_words()}",
            back=PATH,
            is_destructive=True,
        )
        if (asked := await ask(request, self._render, question)) is not None:
            return asked
        who = operator_name(request)

        async def act(sequences: Sequence[int]) -> int:
            return await self._desk.discard(sequences, who=who, detail=str(one))

        return await self._act(one, act, did="discarded", doing="Discarding")

    async def _act(self, one: Group, act: Act, *, did: str, doing: str) -> NoReturn:
        steps = Sweep(query=one.query()).steps(self._desk.archive, act)
        if one.seen.count <= ACTION_EVENTS_MAX:
            moved = sum([step async for step in steps])
            raise see_other(PATH, did=did, count=moved)
        title = f"{doing} {one.count_words()}: {one.seen.reason}"
        raise see_other(self._jobs.start(steps, title=title, did=did, back=PATH, total=one.seen.count).path)

    async def _chosen(self, fields: Mapping[str, str]) -> Group:
        """Return the group that a form or a link names; raises `QueryInvalid`."""
        state, route = member(fields, "state", State), member(fields, "route", RouteName)
        if state not in STATES or route is None:
            raise QueryInvalid("name the group: state (dead or unmapped), route and group, as the page's forms do")
        for seen in await self._desk.archive.reasons(route, state, limit=_GROUPS_LOOKED_AT_MAX):
            if reason_mark(seen.reason) == fields.get("group"):
                return Group(route=route, state=state, seen=seen)
        raise QueryInvalid("this group is empty by now: its events were replayed or discarded meanwhile")

    async def _groups(self, state: State) -> Sequence[Group]:
        groups = [
            (route, seen)
            for route in RouteName
            for seen in await self._desk.archive.reasons(route, state, limit=_GROUPS_MAX)
        ]
        groups.sort(key=lambda one: (-one[1].count, one[1].reason))
        return [
            await self._group(route, state, seen, is_sampled=index < _SAMPLES_MAX)
            for index, (route, seen) in enumerate(groups)
        ]

    async def _group(self, route: RouteName, state: State, seen: ReasonGroup, *, is_sampled: bool) -> Group:
        sample = None
        if is_sampled:
            try:
                sample = await self._desk.archive.event(seen.sample_sequence)
            except NoSuchEvent:
                sample = None  # it was replayed or purged since the groups were read
        payload = sample.payload if sample is not None else None
        return Group(route=route, state=state, seen=seen, sample=sample, excerpt=_excerpt(payload))

    # --- one event ---

    async def discard_one(self, request: web.Request) -> web.StreamResponse:
        sequence = sequence_of(request.match_info["sequence"])
        question = Question(
            title=f"Discard event {sequence}?",
            text="It stays in the books as dead, and in the log until the retention ends.",
            act="Discard",
            back=f"/events/{sequence}",
            is_destructive=True,
        )
        if (asked := await ask(request, self._render, question)) is not None:
            return asked
        count = await self._desk.discard([sequence], who=operator_name(request), detail=str(sequence))
        raise see_other(f"/events/{sequence}", did="discarded", count=count)

    async def edit(self, request: web.Request) -> web.Response:
        found = await self._desk.archive.event(sequence_of(request.match_info["sequence"]))
        return self._form(request, found, editable_text(found))

    async def store(self, request: web.Request) -> web.Response:
        found = await self._desk.archive.event(sequence_of(request.match_info["sequence"]))
        given = (await fields_of(request)).get("payload", "")
        try:
            edited = await store_edited(self._desk, found, given, who=operator_name(request))
        except QueryInvalid as error:
            return self._form(request, found, given, problem=str(error))
        raise see_other(f"/events/{edited.sequence}" if edited.sequence is not None else PATH, did="edited", count=1)

    def _form(self, request: web.Request, found: EventDetail, given: str, *, problem: str = "") -> web.Response:
        return self._render.page(
            request,
            "dead_letter_edit.html",
            status=400 if problem else 200,
            found=found,
            given=given,
            problem=problem,
            path=PATH,
            bytes_max=EDIT_BYTES_MAX,
        )


def _excerpt(payload: bytes | None) -> str:
    if payload is None:
        return ""
    shown = payload[: _EXCERPT_CHARACTERS * 4].decode("utf-8", "replace")
    return shown[:_EXCERPT_CHARACTERS] + ("…" if len(shown) > _EXCERPT_CHARACTERS else "")
