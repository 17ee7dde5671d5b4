"""Dead letters: what no destination will take, grouped by why, and what people can do about each group.

Beside them what waits for a link (unmapped), because it is looked after in the same way. A group is acted on whole, as
a job.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from aiohttp import web
from msgspec import Struct

from forwarder.archive_port import EventDetail, EventQuery, ReasonGroup
from forwarder.errors import NoSuchEvent
from forwarder.model import RouteName, State
from forwarder.operator import text
from forwarder.operator.edits import (
    EDIT_BYTES_MAX,
    Preview,
    changed_envelope,
    editable_text,
    preview,
    store_edited,
)
from forwarder.operator.linking import unmapped_rows
from forwarder.operator.operation import FORM, MULTIPART, Operation, QueryInvalid, sequence_of
from forwarder.operator.pages.bulk import BulkPages, Verb
from forwarder.operator.pages.export import export
from forwarder.operator.pages.render import Question, see_other
from forwarder.operator.parameters import Narrowed
from forwarder.operator.people import who

PATH: Final = "/dead-letters"
_GROUPS_MAX: Final = 100  # shown, per route
_GROUPS_LOOKED_AT_MAX: Final = 1_000  # their order may change between a page and its forms
_SAMPLES_MAX: Final = 20  # read with their payload; the other groups link to theirs
_EXCERPT_CHARACTERS: Final = 1_200


class GroupForm(Struct, frozen=True, kw_only=True):
    """Which group is meant: `group` names the reason, as the page's forms do. Without `confirmed` the answer asks."""

    route: RouteName | None = None
    group: str = ""
    confirmed: str = ""


class EditForm(Struct, frozen=True, kw_only=True):
    """The edited payload: one JSON object. Only what was shown before is stored: `seen` is the preview's mark."""

    payload: str = ""
    seen: str = ""


class Confirmed(Struct, frozen=True, kw_only=True):
    """Without `confirmed`=1 the answer asks first."""

    confirmed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Dead events of one route and one reason, with the newest of them as a sample."""

    route: RouteName
    seen: ReasonGroup
    sample: EventDetail | None = None
    excerpt: str = ""

    @property
    def mark(self) -> str:
        """Name the reason in forms: its text may hold what a form does not send back as it was."""
        return reason_mark(self.seen.reason)

    @property
    def selection(self) -> Narrowed:
        """Select it."""
        return Narrowed(route=self.route, state=State.DEAD, reason=self.seen.reason)

    def count_words(self) -> str:
        """Say how many events it holds."""
        return text.plural(self.seen.count, "event")


def reason_mark(reason: str) -> str:
    """Return a short name of a reason."""
    return blake2b(reason.encode("utf-8", "replace"), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters(BulkPages):
    """The page of the dead letters, its acts and its export."""

    def operations(self) -> Sequence[Operation]:
        """Return the page and its acts."""
        one = f"{PATH}/{{sequence}}"
        edited = "Store an edited copy of a dead event as a new one, and discard the event"
        return (
            Operation("GET", PATH, "Dead letters", self.show),
            Operation("GET", f"{PATH}/export", "Dead letters as NDJSON", self.export),
            Operation("POST", f"{PATH}/replay", "Replay a group", self.replay, form=FORM),
            Operation("POST", f"{PATH}/discard", "Discard a group of dead events", self.discard, form=FORM),
            Operation("GET", f"{one}/edit", "Edit a dead event", self.edit, is_act=True),
            Operation("POST", f"{one}/edit", edited, self.store, form=MULTIPART),
            Operation("POST", f"{one}/discard", "Discard one dead event", self.discard_one, form=FORM),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show every group."""
        return await self.render.page(
            request,
            "dead_letters.html",
            dead=await self._groups(),
            unmapped=await unmapped_rows(self.acts.parts),
            path=PATH,
            running=self.jobs.running(),
        )

    async def export(self, request: web.Request, chosen: GroupForm) -> web.StreamResponse:
        """Hand out a group, or all."""
        query = (await self._chosen(chosen)).selection.query() if chosen.group else EventQuery(state=State.DEAD)
        return await export(request, self.acts.parts.archive, query)

    # --- acting on a group ---

    async def replay(self, request: web.Request, chosen: GroupForm) -> web.StreamResponse:
        """Replay a group, once the person said yes."""
        then = "What has not been put right will fail again."
        return await self._act(request, chosen, "replay", "will be tried again", then)

    async def discard(self, request: web.Request, chosen: GroupForm) -> web.StreamResponse:
        """Discard a group, once the person said yes."""
        then = "They stay in the totals as dead, and in the log until the retention ends."
        return await self._act(request, chosen, "discard", "will be put aside", then)

    async def _act(self, request: web.Request, chosen: GroupForm, verb: Verb, will: str, then: str) -> web.Response:
        one = await self._chosen(chosen)
        question = Question(
            title=f"{verb.capitalize()} this group?",
            text=f"{one.count_words()} on {text.ROUTE_LABELS[one.route]} {will}: “{one.seen.reason}”. {then}",
            act=f"{verb.capitalize()} {one.count_words()}",
            back=PATH,
            is_destructive=verb == "discard",
        )
        return await self.act_on_all(
            request,
            verb,
            one.selection.query(),
            question,
            title=f"{one.count_words()}: {one.seen.reason}",
            total=one.seen.count,
            detail=str(one.selection),
            logged=one.selection.logged(),
        )

    async def _chosen(self, chosen: GroupForm) -> Group:
        """Return the group that a form or a link names; raises `QueryInvalid`."""
        if chosen.route is None:
            raise QueryInvalid("name the group: route and group, as the page's forms do")
        groups = await self.acts.parts.archive.reasons(chosen.route, State.DEAD, limit=_GROUPS_LOOKED_AT_MAX)
        for seen in groups:
            if reason_mark(seen.reason) == chosen.group:
                return Group(route=chosen.route, seen=seen)
        raise QueryInvalid("this group is empty by now: its events were replayed or discarded meanwhile")

    async def _groups(self) -> Sequence[Group]:
        archive = self.acts.parts.archive
        groups = [
            (route, seen) for route in RouteName for seen in await archive.reasons(route, State.DEAD, limit=_GROUPS_MAX)
        ]
        groups.sort(key=lambda one: (-one[1].count, one[1].reason))
        return [
            await self._group(route, seen, is_sampled=index < _SAMPLES_MAX)
            for index, (route, seen) in enumerate(groups)
        ]

    async def _group(self, route: RouteName, seen: ReasonGroup, *, is_sampled: bool) -> Group:
        sample = None
        if is_sampled:
            try:
                sample = await self.acts.parts.archive.event(seen.sample_sequence)
            except NoSuchEvent:
                sample = None  # it was replayed or purged since the groups were read
        payload = sample.payload if sample is not None else None
        return Group(route=route, seen=seen, sample=sample, excerpt=_excerpt(payload))

    # --- one event ---

    async def discard_one(self, request: web.Request, _: Confirmed) -> web.StreamResponse:
        """Discard an event, once the person said yes."""
        sequence = sequence_of(request)
        question = Question(
            title=f"Discard event {sequence}?",
            text="It stays in the totals as dead, and in the log until the retention ends.",
            act="Discard",
            back=f"/events/{sequence}",
            is_destructive=True,
        )
        if (asked := await self.render.ask(request, question)) is not None:
            return asked
        line = self.acts.line(who(request), "discard", str(sequence))
        count = await self.acts.discard([sequence], line=line)
        await self.acts.end(line, "done")
        raise see_other(f"/events/{sequence}", did="discarded", count=count)

    async def edit(self, request: web.Request) -> web.Response:
        """Show the form."""
        found = await self.acts.parts.archive.event(sequence_of(request))
        return await self._form(request, found, editable_text(found))

    async def store(self, request: web.Request, form: EditForm) -> web.Response:
        """Show what would be sent; what was shown is stored."""
        found = await self.acts.parts.archive.event(sequence_of(request))
        try:
            envelope = changed_envelope(found, form.payload, now_ms=self.acts.parts.clock.wall_ms())
            if form.seen != envelope.event_key.hex():
                explain = self.acts.parts.explain.get(found.row.route)
                shown = await asyncio.to_thread(preview, found, envelope, explain)
                return await self._form(request, found, form.payload, preview=shown, seen=envelope.event_key.hex())
            copy = await store_edited(self.acts, found, form.payload, who=who(request))
        except QueryInvalid as error:
            return await self._form(request, found, form.payload, problem=str(error))
        raise see_other(PATH if copy is None else f"/events/{copy}", did="edited", count=1)

    async def _form(
        self,
        request: web.Request,
        found: EventDetail,
        given: str,
        *,
        problem: str = "",
        preview: Preview | None = None,
        seen: str = "",
    ) -> web.Response:
        return await self.render.page(
            request,
            "dead_letter_edit.html",
            status=400 if problem else 200,
            found=found,
            given=given,
            problem=problem,
            preview=preview,
            seen=seen,
            path=PATH,
            bytes_max=EDIT_BYTES_MAX,
        )


def _excerpt(payload: bytes | None) -> str:
    if payload is None:
        return ""
    shown = payload[: _EXCERPT_CHARACTERS * 4].decode("utf-8", "replace")
    return shown[:_EXCERPT_CHARACTERS] + ("…" if len(shown) > _EXCERPT_CHARACTERS else "")
