"""One event's page, the page of its message's journey, and its replay.

What was sent is not kept; it is what the mapping makes of the event now, and the page says so. Deliberately absent:
lists (`events`), and the order of a journey (`journey`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from forwarder.flow.plans import Fate, Plan
from forwarder.model import RouteName, State
from forwarder.operator.desk import OperatorDesk
from forwarder.operator.explain import EXPLAINED_BYTES_MAX, Explained
from forwarder.operator.pages.acts import ask, fields_of, operator_name
from forwarder.operator.pages.edited_copy import edits_of
from forwarder.operator.pages.journey import Station, journey_of
from forwarder.operator.pages.json_text import Readable, readable
from forwarder.operator.pages.render import Question, Renderer, see_other
from forwarder.operator.query import sequence_of
from forwarder.ports import EventDetail, EventRow

_JOURNEY_MAX: Final = 200
_BESIDE_MAX: Final = 25
_ANSWER_SHOWN_MAX: Final = 2_048
_CALL_SHOWN_MAX: Final = 32_768
_CALLS_SHOWN_MAX: Final = 20

_plan = msgspec.json.Decoder(Plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the destination, as the page shows it."""

    operation: str
    body: Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPages:
    """What the pages about one event or one message are made of."""

    desk: OperatorDesk
    render: Renderer

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the pages and the act on them."""
        return (
            web.get("/events/{sequence}", self.show),
            web.get("/events/{sequence}/payload", self.download),
            web.post("/events/{sequence}/replay", self.replay),
            web.get("/messages/{message:.+}", self.journey),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show everything that is known of one event."""
        sequence = sequence_of(request.match_info["sequence"])
        found = await self.desk.archive.event(sequence)
        plan = _planned(found)
        explained = await self._explain(found)
        return self.render.page(
            request,
            "event.html",
            row=found.row,
            found=found,
            replay_text=replay_text(found.row),
            payload=readable(found.payload) if found.payload is not None else None,
            explained=explained,
            calls=_calls(explained),
            attempts=[(one, readable(one.answer, shown_max=_ANSWER_SHOWN_MAX)) for one in reversed(found.attempts)],
            plan=plan,
            beside=await self._beside(found.row),
            edits=await edits_of(self.desk.archive, sequence),
            everything_text=everything_text(found, plan),
        )

    async def download(self, request: web.Request) -> web.Response:
        """Hand out the payload as it arrived, never to be shown by a browser as anything."""
        found = await self.desk.archive.event(sequence_of(request.match_info["sequence"]))
        if found.payload is None:
            raise web.HTTPNotFound(reason="The payload is no longer kept.")
        name = f'attachment; filename="event-{found.row.sequence}.json"'
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": name}
        return web.Response(body=found.payload, headers=headers)

    async def replay(self, request: web.Request) -> web.StreamResponse:
        """Make the event pending again, once the person said yes."""
        sequence = sequence_of(request.match_info["sequence"])
        back = f"/events/{sequence}"
        found = await self.desk.archive.event(sequence)
        everything = (await fields_of(request)).get("everything") == "1"
        again = everything_text(found, _planned(found)) if everything else None
        question = Question(
            title=f"Replay event {sequence}{', everything again' if again else ''}?",
            text=again or replay_text(found.row),
            act="Replay everything" if again else "Replay",
            back=back,
            is_destructive=again is not None,
        )
        if (asking := await ask(request, self.render, question)) is not None:
            return asking
        who = operator_name(request)
        count = await self.desk.replay([sequence], who=who, detail=str(sequence), everything=again is not None)
        raise see_other(back, did="replayed", count=count)

    async def journey(self, request: web.Request) -> web.Response:
        """Show every event of one message on one time line."""
        message = request.match_info["message"]
        journey = await journey_of(self.desk, message, events_max=_JOURNEY_MAX)
        status = 200 if journey.stations else 404
        return self.render.page(request, "journey.html", status=status, message=message, journey=journey)

    async def _explain(self, found: EventDetail) -> Explained | None:
        explain = self.desk.explain.get(found.row.route)
        if explain is None or found.payload is None or len(found.payload) > EXPLAINED_BYTES_MAX:
            return None
        return await asyncio.to_thread(explain, found)

    async def _beside(self, row: EventRow) -> Sequence[Station]:
        """Return the events of the same message, in the order in which they happened."""
        if not row.labels.message_id:
            return ()
        return (await journey_of(self.desk, row.labels.message_id, events_max=_BESIDE_MAX)).stations


def replay_text(row: EventRow) -> str:
    """Say what a replay of this event does."""
    if row.state is State.PENDING:
        return "It waits for delivery already: a replay changes nothing."
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
    return [Call(operation=one.operation, body=readable(one.body, shown_max=_CALL_SHOWN_MAX)) for one in shown]


def _planned(found: EventDetail) -> Plan | None:
    """Read the plan that an inbound event keeps; None when there is none, or another version's."""
    if not found.progress or found.row.route is not RouteName.RUDDERSTACK_TO_COURIER:
        return None
    try:
        return _plan.decode(found.progress)
    except msgspec.DecodeError:
        return None
