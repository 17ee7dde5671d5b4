"""Settings: what is in effect and where it came from, secrets masked, and the findings of `forwarder check`.

The quick checks run with every look; the one that reads the whole database runs when somebody asks for it. What is
checked is handed in: it knows settings, which nothing on this floor does.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from aiohttp import web

from forwarder.operator.desk import OperatorDesk
from forwarder.operator.pages.render import Renderer
from forwarder.operator.query import QueryInvalid

PATH: Final = "/settings"


class Finding(Protocol):
    """One thing that was looked at."""

    @property
    def level(self) -> str:
        """One of ok, warn, fail."""

    @property
    def name(self) -> str:
        """Return what was looked at."""

    @property
    def text(self) -> str:
        """Say how it is and, unless ok, what to do."""


class Check(Protocol):
    """The checks that need no network. Called on a thread of its own; may take long when thorough."""

    def __call__(self, *, is_thorough: bool) -> Sequence[Finding]:
        """Look; `is_thorough` also reads the whole spool."""


def settings_routes(desk: OperatorDesk, render: Renderer, check: Check) -> Sequence[web.RouteDef]:
    """Return the page of the settings, and the check that has to be asked for."""
    turn = asyncio.Lock()

    async def page(request: web.Request, *, is_thorough: bool) -> web.Response:
        findings = await asyncio.to_thread(check, is_thorough=is_thorough)
        rows = desk.settings_rows
        return render.page(
            request,
            "settings.html",
            given=[row for row in rows if row["origin"] != "default"],
            defaults=[row for row in rows if row["origin"] == "default"],
            findings=findings,
            is_thorough=is_thorough,
            path=PATH,
        )

    async def show(request: web.Request) -> web.Response:
        return await page(request, is_thorough=False)

    async def look_closely(request: web.Request) -> web.Response:
        if turn.locked():
            raise QueryInvalid("this check is under way already: wait until it has ended")
        async with turn:
            return await page(request, is_thorough=True)

    return (web.get(PATH, show), web.post(f"{PATH}/check", look_closely))
