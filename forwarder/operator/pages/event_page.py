"""One event's page, the page of its message's timeline, and its replay.

What was sent is not kept; it is what the mapping makes of the event now, and the page says so.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from forwarder.archive_port import EventDetail, EventRow
from forwarder.delivery.plan import Fate, Plan
from forwarder.model import RouteName, State
from forwarder.operator.acts import Acts
from forwarder.operator.edits import edits_of
from forwarder.operator.explain import EXPLAINED_BYTES_MAX, Explained, Likeness, Sent, sent_by_plan
from forwarder.operator.incidents.traffic import rejected_within_hour
from forwarder.operator.operation import FORM, Operation, sequence_of
from forwarder.operator.pages.render import Question, Renderer, see_other
from forwarder.operator.people import who
from forwarder.operator.readable import Readable, readable, words_of
from forwarder.operator.timeline import Moment, timeline_of

_TIMELINE_MAX: Final = 200
_BESIDE_MAX: Final = 25
_ANSWER_SHOWN_MAX: Final = 2_048
_CALL_SHOWN_MAX: Final = 32_768
_CALLS_SHOWN_MAX: Final = 20

_plan = msgspec.json.Decoder(Plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the destination, as the page shows it."""

    operation: str
    head: str
    body: Readable


class ReplayForm(Struct, frozen=True, kw_only=True):
    """With `everything`=1 the calls that were made already are made again. Without `confirmed`=1 the answer asks."""

    everything: str = ""
    confirmed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPages:
    """The pages about one event and about one message."""

    acts: Acts
    render: Renderer

    def operations(self) -> Sequence[Operation]:
        """Return the pages and the act on them."""
        return (
            Operation("GET", "/events/{sequence}", "One event", self.show),
            Operation("GET", "/events/{sequence}/payload", "An event's payload", self.download),
            Operation("POST", "/events/{sequence}/replay", "Replay one event (the page's form)", self.replay, FORM),
            Operation("GET", "/messages/{message:.+}", "A message's timeline", self.timeline),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show everything that is known of one event."""
        archive = self.acts.parts.archive
        found = await archive.event(sequence_of(request))
        plan = _planned(found)
        sent, changed = await self._sent(found, plan)
        explained = sent.explained if sent else None
        return await self.render.page(
            request,
            "event.html",
            row=found.row,
            found=found,
            replay_text=replay_text(found.row),
            payload=readable(found.payload) if found.payload is not None else None,
            explained=explained,
            sent=sent,
            changed=changed,
            calls=_calls(explained),
            attempts=[
                (one, readable(one.answer, shown_max=_ANSWER_SHOWN_MAX), words_of(one.answer))
                for one in reversed(found.attempts)
            ],
            said=words_of(found.attempts[-1].answer) if found.attempts else "",
            plan=plan,
            beside=await self._beside(found.row),
            edits=await edits_of(archive, found.row.sequence),
            everything_text=everything_text(found, plan),
        )

    async def download(self, request: web.Request) -> web.Response:
        """Hand out the payload as it arrived, never to be shown by a browser as anything."""
        found = await self.acts.parts.archive.event(sequence_of(request))
        if found.payload is None:
            raise web.HTTPNotFound(reason="The payload is no longer kept.")
        name = f'attachment; filename="event-{found.row.sequence}.json"'
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": name}
        return web.Response(body=found.payload, headers=headers)

    async def replay(self, request: web.Request, form: ReplayForm) -> web.StreamResponse:
        """Make the event pending again, once the person said yes."""
        sequence = sequence_of(request)
        back = f"/events/{sequence}"
        found = await self.acts.parts.archive.event(sequence)
        again = everything_text(found, _planned(found)) if form.everything == "1" else None
        question = Question(
            title=f"Replay event {sequence}{', everything again' if again else ''}?",
            text=again or replay_text(found.row),
            act="Replay everything" if again else "Replay",
            back=back,
            is_destructive=again is not None,
        )
        if (asked := await self.render.ask(request, question)) is not None:
            return asked
        detail = f"{sequence}{', with what was done before' if again else ''}"
        line = self.acts.line(who(request), "replay", detail)
        count = await self.acts.replay([sequence], line=line, everything=again is not None)
        self.acts.follow(line)
        raise see_other(back, did="replayed", count=count)

    async def timeline(self, request: web.Request) -> web.Response:
        """Show every event of one message on one time line."""
        message = request.match_info["message"]
        timeline = await timeline_of(self.acts.parts, message, events_max=_TIMELINE_MAX)
        status = 200 if timeline.moments else 404
        rejected = 0 if timeline.moments else rejected_within_hour(self.acts.parts.by_time)
        given = {"message": message, "timeline": timeline, "rejected": rejected}
        return await self.render.page(request, "timeline.html", status=status, **given)

    async def _sent(self, found: EventDetail, plan: Plan | None) -> tuple[Sent | None, frozenset[tuple[str, int]]]:
        """Return what was sent, or would be, and which calls of the plan are not what they were."""
        explain, past = self.acts.parts.explain.get(found.row.route), self.acts.parts.past
        if explain is None or found.payload is None or len(found.payload) > EXPLAINED_BYTES_MAX:
            return None, frozenset()
        if found.row.route is RouteName.COURIER_TO_RUDDERSTACK and found.attempts and past is not None:
            return await asyncio.to_thread(past.sent, found, explain), frozenset()
        explained = await asyncio.to_thread(explain, found)
        if not found.attempts:
            return Sent(likeness=Likeness.NOTHING, explained=explained), frozenset()
        return sent_by_plan(plan, explained)

    async def _beside(self, row: EventRow) -> Sequence[Moment]:
        """Return the events of the same message, in the order in which they happened."""
        if not row.labels.message_id:
            return ()
        return (await timeline_of(self.acts.parts, row.labels.message_id, events_max=_BESIDE_MAX)).moments


def replay_text(row: EventRow) -> str:
    """Say what a replay of this event does."""
    if row.state is State.PENDING:
        return "It is pending already: a replay changes nothing."
    again = "It goes through the mapping as it is now and is sent again under the same key"
    if row.route is RouteName.RUDDERSTACK_TO_COURIER:
        return f"{again}. Calls that were done are not repeated."
    return f"{again}, so that RudderStack recognises a repetition."


def everything_text(found: EventDetail, plan: Plan | None) -> str | None:
    """Warn of a replay that repeats the calls that were made; None where there are none to repeat."""
    row = found.row
    if row.route is not RouteName.RUDDERSTACK_TO_COURIER or row.state is State.PENDING or found.payload is None:
        return None
    made = [call for call in (*plan.calls, *plan.former) if call.fate is Fate.DONE] if plan is not None else []
    if not made and row.state is not State.DELIVERED:
        return None
    return (
        "Calls to Courier that were made already are made again and take effect again: automations start and "
        "messages go out a second time. Replay alone makes only those that are missing."
    )


def _calls(explained: Explained | None) -> Sequence[Call]:
    if explained is None:
        return ()
    shown = explained.deliveries[:_CALLS_SHOWN_MAX]
    heads = explained.heads or [""] * len(shown)
    return [
        Call(operation=one.operation, head=head, body=readable(one.body, shown_max=_CALL_SHOWN_MAX))
        for one, head in zip(shown, heads, strict=False)
    ]


def _planned(found: EventDetail) -> Plan | None:
    """Read the plan that an inbound event keeps; None when there is none, or another version's."""
    if not found.progress or found.row.route is not RouteName.RUDDERSTACK_TO_COURIER:
        return None
    try:
        return _plan.decode(found.progress)
    except msgspec.DecodeError:
        return None
