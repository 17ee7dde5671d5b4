"""A message's timeline: its events in the order in which they happened, which is not the order of their arrival.

Only small payloads are read, and only so many: a page must not grow with what strangers send. Where in
a payload its time is, the parts tell.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from forwarder.errors import NoSuchEvent
from forwarder.model import RouteName
from forwarder.operator.explain import TimeOf
from forwarder.operator.parts import LABEL_CHARACTERS_MAX, Parts
from forwarder.ports import Archive, EventQuery, EventRow

_READ_BYTES_MAX: Final = 65_536  # a webhook event has a few thousand
_APART_MS: Final = 1_000  # less than that between happening and arriving is no news


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One event on the way. `happened_at_ms` is the arrival where the event does not say when it happened."""

    row: EventRow
    happened_at_ms: int

    @property
    def late_ms(self) -> int | None:
        """Return how long after it happened it arrived, negative for clocks that differ; None when hardly."""
        late_ms = self.row.received_at_ms - self.happened_at_ms
        return late_ms if abs(late_ms) >= _APART_MS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What is known of one message, first things first. `is_cut`: there are older events than these."""

    moments: Sequence[Moment]
    is_cut: bool


async def timeline_of(parts: Parts, message_id: str, *, events_max: int) -> Timeline:
    """Return the timeline of a message; of very many events the newest arrivals."""
    query = EventQuery(message_id=message_id[:LABEL_CHARACTERS_MAX], limit=events_max)
    page = await parts.archive.events(query)
    payloads = {row.sequence: await _payload(parts.archive, row) for row in page.rows if row.route in parts.time_of}
    moments = await asyncio.to_thread(_ordered, page.rows, payloads, parts.time_of)
    return Timeline(moments=moments, is_cut=page.next_before is not None)


async def _payload(archive: Archive, row: EventRow) -> bytes | None:
    if row.size_bytes > _READ_BYTES_MAX:
        return None
    try:
        return (await archive.event(row.sequence)).payload
    except NoSuchEvent:
        return None  # purged since it was listed


def _ordered(
    rows: Sequence[EventRow], payloads: Mapping[int, bytes | None], time_of: Mapping[RouteName, TimeOf]
) -> Sequence[Moment]:
    moments = []
    for row in rows:
        payload = payloads.get(row.sequence)
        stated_ms = time_of[row.route](payload) if payload is not None else None
        moments.append(Moment(row=row, happened_at_ms=stated_ms or row.received_at_ms))
    return sorted(moments, key=lambda one: (one.happened_at_ms, one.row.sequence))
