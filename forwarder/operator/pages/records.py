"""Pages to look things up: the settings in effect with the findings of `forwarder check`, incidents, the audit log.

The quick checks run with every look; the one that reads the whole database runs when somebody asks for it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from forwarder.operator.checks import Finding
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.incidents.watch import KEPT_MAX
from forwarder.operator.operation import FORM, Operation, QueryInvalid
from forwarder.operator.pages.render import Renderer
from forwarder.operator.parameters import OfLog
from forwarder.operator.parts import Parts

_LINES_MORE: Final = 500


class Check(Protocol):
    """The checks that need no network. Called on a thread of its own; may take long when thorough."""

    def __call__(self, *, is_thorough: bool) -> Sequence[Finding]:
        """Look; `is_thorough` also reads the whole spool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What these pages are made of."""

    parts: Parts
    render: Renderer
    check: Check
    incidents: Incidents
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def operations(self) -> Sequence[Operation]:
        """Return the pages, and the check that has to be asked for."""
        about = "Changes nothing; takes long."
        thorough = "Check settings, files and the whole spool (the page's form)"
        return (
            Operation("GET", "/settings", "Settings", self.settings),
            Operation("POST", "/settings/check", thorough, self.look_closely, FORM, about, is_act=False),
            Operation("GET", "/incidents", "Incidents", self.list_incidents),
            Operation("GET", "/audit", "Audit log", self.audit),
        )

    async def settings(self, request: web.Request) -> web.Response:
        """Show what is in effect and where it came from, secrets masked."""
        return await self._settings(request, is_thorough=False)

    async def look_closely(self, request: web.Request) -> web.Response:
        """Check everything, one at a time."""
        if self._turn.locked():
            raise QueryInvalid("this check is under way already: wait until it has ended")
        async with self._turn:
            return await self._settings(request, is_thorough=True)

    async def list_incidents(self, request: web.Request) -> web.Response:
        """Show what went wrong, newest first."""
        has_alerts = any(self.parts.setting(f"FORWARDER_ALERT_{name}") for name in ("URL", "TEMPLATE"))
        known = self.incidents.watch.newest(KEPT_MAX)
        return await self.render.page(request, "incidents.html", incidents=known, has_alerts=has_alerts)

    async def audit(self, request: web.Request, given: OfLog) -> web.Response:
        """Show who did what, when; newest first."""
        rows = await self.parts.archive.audit(limit=given.limit)
        more = _LINES_MORE if len(rows) == given.limit < _LINES_MORE else 0
        return await self.render.page(request, "audit.html", rows=rows, more=more)

    async def _settings(self, request: web.Request, *, is_thorough: bool) -> web.Response:
        findings = await asyncio.to_thread(self.check, is_thorough=is_thorough)
        rows = self.parts.settings_rows
        return await self.render.page(
            request,
            "settings.html",
            given=[row for row in rows if row["origin"] != "default"],
            defaults=[row for row in rows if row["origin"] == "default"],
            findings=findings,
            is_thorough=is_thorough,
        )
