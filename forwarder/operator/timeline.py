"""A message's timeline: its events in the order in which they happened, which is not the order of their arrival.

Only small payloads are read, and only so many: a page must not grow with what strangers send. How the message fares at
Courier and what became of each event here are two things.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from forwarder.archive_port import Archive, EventQuery, EventRow
from forwarder.errors import NoSuchEvent
from forwarder.mapping.event_time import Stated, stated
from forwarder.model import RouteName, State
from forwarder.operator.parts import LABEL_CHARACTERS_MAX, Parts

_WAY: Final = ("Enqueued", "Sent", "Delivered", "Opened", "Clicked")
_READ_BYTES_MAX: Final = 65_536  # a webhook event has a few thousand
_APART_MS: Final = 1_000  # less than that between happening and arriving is no news


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One event on the way. `happened_at_ms` is the arrival where the event does not say when it happened."""

    row: EventRow
    happened_at_ms: int
    stated: Stated | None = None  # of Courier's events

    @property
    def late_ms(self) -> int | None:
        """Return how long after it happened it arrived, negative for clocks that differ; None when hardly."""
        late_ms = self.row.received_at_ms - self.happened_at_ms
        return late_ms if abs(late_ms) >= _APART_MS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One station of a message at Courier, and when it was reached; None: no event told of it."""

    status: str
    at_ms: int | None

    @property
    def is_aside(self) -> bool:
        """Tell whether it is none of the usual way: undeliverable, unroutable and the like."""
        return self.status not in _WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What is known of one message, first things first. `is_cut`: there are older events than these."""

    moments: Sequence[Moment]
    is_cut: bool

    @property
    def arrived(self) -> int:
        """Return how many of the events arrived in RudderStack."""
        return sum(one.row.state is State.DELIVERED for one in self.moments if one.stated)

    @property
    def steps(self) -> Sequence[Step]:
        """Return the usual way of a message with what was reached of it, then what it met aside."""
        reached: dict[str, int] = {}
        for one in self.moments:
            if one.stated and one.stated.status:
                reached.setdefault(one.stated.status, one.happened_at_ms)
        aside = [status for status in reached if status not in _WAY]
        return [Step(status=status, at_ms=reached.get(status)) for status in (*_WAY, *aside)]

    @property
    def latest(self) -> Stated | None:
        """Return what Courier said last of the message; None where it said nothing."""
        return next((one.stated for one in reversed(self.moments) if one.stated and one.stated.status), None)


async def timeline_of(parts: Parts, message_id: str, *, events_max: int) -> Timeline:
    """Return the timeline of a message; of very many events the newest arrivals."""
    query = EventQuery(message_id=message_id[:LABEL_CHARACTERS_MAX], limit=events_max)
    page = await parts.archive.events(query)
    payloads = {
        row.sequence: await _payload(parts.archive, row)
        for row in page.rows
        if row.route is RouteName.COURIER_TO_RUDDERSTACK
    }
    moments = await asyncio.to_thread(_ordered, page.rows, payloads)
    return Timeline(moments=moments, is_cut=page.next_before is not None)


async def _payload(archive: Archive, row: EventRow) -> bytes | None:
    if row.size_bytes > _READ_BYTES_MAX:
        return None
    try:
        return (await archive.event(row.sequence)).payload
    except NoSuchEvent:
        return None  # purged since it was listed


def _ordered(rows: Sequence[EventRow], payloads: Mapping[int, bytes | None]) -> Sequence[Moment]:
    moments = []
    for row in rows:
        payload = payloads.get(row.sequence)
        said = stated(payload) if payload is not None else None
        happened_at_ms = said.at_ms if said is not None and said.at_ms else row.received_at_ms
        moments.append(Moment(row=row, happened_at_ms=happened_at_ms, stated=said))
    return sorted(moments, key=lambda one: (one.happened_at_ms, one.row.sequence))
