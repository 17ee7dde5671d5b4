"""The reading half of a spool: every call goes on to its archive, as long as the spool is open."""

from collections.abc import Mapping, Sequence

from forwarder.errors import SpoolClosed
from forwarder.model import RouteName, State
from forwarder.ports import Archive, AuditRow, EventDetail, EventPage, EventQuery, EventTypeRow, ReasonGroup, SpoolFacts


class ArchiveFront:
    """Hand the reading calls of `ports.Archive` to `_archive`, which whoever inherits this sets."""

    _archive: Archive
    _is_closed: bool

    async def facts(self) -> SpoolFacts:
        """Return the spool's state; see `ports.Archive.facts`."""
        self._refuse_closed()
        return await self._archive.facts()

    async def events(self, query: EventQuery) -> EventPage:
        """List events; see `ports.Archive.events`."""
        self._refuse_closed()
        return await self._archive.events(query)

    async def states(self, sequences: Sequence[int]) -> Mapping[int, State]:
        """Return the state of each of these events; see `ports.Archive.states`."""
        self._refuse_closed()
        return await self._archive.states(sequences)

    async def event(self, sequence: int) -> EventDetail:
        """Return one event; see `ports.Archive.event`."""
        self._refuse_closed()
        return await self._archive.event(sequence)

    async def event_types(self, route: RouteName | None, *, limit: int) -> Sequence[EventTypeRow]:
        """List the event types seen; see `ports.Archive.event_types`."""
        self._refuse_closed()
        return await self._archive.event_types(route, limit=limit)

    async def reasons(self, route: RouteName | None, state: State, *, limit: int) -> Sequence[ReasonGroup]:
        """Group events by reason; see `ports.Archive.reasons`."""
        self._refuse_closed()
        return await self._archive.reasons(route, state, limit=limit)

    async def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """List the audit log; see `ports.Archive.audit`."""
        self._refuse_closed()
        return await self._archive.audit(limit=limit)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise SpoolClosed("the spool is closed")
