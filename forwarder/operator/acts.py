"""What people may do, each written down in the audit log with who did it. The API and the pages do the same."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from forwarder.courier.catalogue import Catalogue
from forwarder.operator.parts import OperatedRoute, Parts
from forwarder.ports import AuditRow

_LINKS_SHOWN_MAX: Final = 20  # in one line of the audit log


@dataclass(frozen=True, kw_only=True)
class Acts:
    """Do and write down. One for API and pages together: changes of the links take turns here."""

    parts: Parts
    catalogue: Catalogue
    _links_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def replay(self, sequences: Sequence[int], *, who: str, detail: str, everything: bool = False) -> int:
        """Make settled events pending again; return how many.

        Calls to Courier that were done are not made again, except with `everything`.
        """
        count = await self.parts.spool.requeue(sequences, everything=everything)
        again = ", with what was done before" if everything else ""
        await self.audit(who, "replay", f"{count} events{again}: {detail}")
        return count

    async def discard(self, sequences: Sequence[int], *, who: str, detail: str) -> int:
        """Mark dead events as discarded; return how many."""
        count = await self.parts.spool.discard(sequences)
        await self.audit(who, "discard", f"{count} events: {detail}")
        return count

    async def pause(self, route: OperatedRoute, *, who: str, reason: str = "") -> None:
        """Pause a route."""
        await route.pause(who=who)
        await self.audit(who, "pause", f"{route.name}: {reason}" if reason else route.name)

    async def resume(self, route: OperatedRoute, *, who: str) -> None:
        """Resume a route."""
        await route.resume(who=who)
        await self.audit(who, "resume", route.name)

    async def change_links(
        self, *, add: Sequence[Mapping[str, str]], remove: Sequence[Mapping[str, str]], who: str
    ) -> tuple[int, int]:
        """Change the links, all or none; return how many came and went. Raises `RulesInvalid` for what cannot be."""
        async with self._links_turn:
            added, removed = await self.parts.links.change(add=add, remove=remove)
        if added or removed:
            named = [f"{sign}{_link_name(words)}" for sign, many in (("+", add), ("-", remove)) for words in many]
            shown = ", ".join(named[:_LINKS_SHOWN_MAX]) + (", …" if len(named) > _LINKS_SHOWN_MAX else "")
            await self.audit(who, "links", f"{added} added, {removed} removed: {shown}")
        return added, removed

    async def audit(self, who: str, action: str, detail: str) -> None:
        """Add one line to the audit log."""
        at_ms = self.parts.clock.wall_ms()
        await self.parts.archive.write_audit(AuditRow(at_ms=at_ms, who=who, action=action, detail=detail))


def _link_name(words: Mapping[str, str]) -> str:
    kind, target = words.get("to", "automation"), words.get("target", "")
    return f"{words.get('type', 'track')} {words.get('event', '')} to {kind} {target}"
