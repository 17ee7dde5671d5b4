"""What there is at Courier for an event to start: its own lists of automations, journeys, templates and lists.

Asked for people, never for an event. What is not listed may still be right (an automation's alias is not listed, a list
is made by its first subscription), so that what is found out here warns and blocks nothing. Paths and fields are those
of Courier's SDK: `automations.list`, `journeys.list`, `notifications.list`, `lists.list`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from forwarder.courier.client import CourierClient
from forwarder.errors import NoAnswer
from forwarder.ports import Clock

# Kind of a link's target → path of its listing, and the field of the answer that holds the items.
_LISTINGS: Final = {
    "automation": ("/automations", "templates"),
    "journey": ("/journeys", "templates"),
    "template": ("/notifications", "results"),
    "list": ("/lists", "items"),
}
_AGE_MAX_S: Final = 60.0
_PAGES_MAX: Final = 50
_ITEMS_MAX: Final = 5_000  # of one kind
_NAME_MAX: Final = 200  # characters
_ABSENT: Final = {
    "automation": "Courier lists no published automation of this id; an alias is not listed",
    "journey": "Courier lists no published journey of this id",
    "template": "Courier lists no notification template of this id",
    "list": "Courier has no list of this id yet; the first subscription makes it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What Courier lists of one kind: names by id. `problem` says why that is not all; "" when it is."""

    names: Mapping[str, str]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of each kind."""

    kinds: Mapping[str, Listed]

    def doubt(self, kind: str, target: str) -> str:
        """Say what speaks against a link's target; "" when nothing does, or nothing is known of its kind."""
        listed = self.kinds[kind]
        if target in listed.names:
            return ""
        if other := next((name for name, one in self.kinds.items() if target in one.names), ""):
            return f"Courier lists this id as {'an' if other == 'automation' else 'a'} {other}"
        return "" if listed.problem else _ABSENT[kind]

    @property
    def problem(self) -> str:
        """Say which kinds could not be looked up, and why; "" when all could."""
        why: dict[str, list[str]] = {}
        for kind, one in self.kinds.items():
            if one.problem:
                why.setdefault(one.problem, []).append(f"{kind}s")
        return "; ".join(f"{', '.join(kinds)}: {problem}" for problem, kinds in why.items())


def _unknown(problem: str) -> Known:
    return Known({kind: Listed(names={}, problem=problem) for kind in _LISTINGS})


class Catalogue:
    """Courier's lists, asked for again once they are older than a minute. `client` None: there is nobody to ask."""

    def __init__(self, client: CourierClient | None, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known = _unknown("Courier was not asked yet" if client else "the route to Courier does not run")
        self._asked_at_s: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def known(self, *, wait_s: float) -> Known:
        """Return what is known within `wait_s`; what takes longer is known the next time."""
        now_s = self._clock.monotonic_s()
        is_old = self._asked_at_s is None or now_s - self._asked_at_s > _AGE_MAX_S
        if self._client is not None and is_old and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(self._client))
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=wait_s)
        return self._known

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self, client: CourierClient) -> None:
        found = await asyncio.gather(*(_listed(client, *listing) for listing in _LISTINGS.values()))
        self._known = Known(dict(zip(_LISTINGS, found, strict=True)))
        self._asked_at_s = self._clock.monotonic_s()


async def _listed(client: CourierClient, path: str, field: str) -> Listed:
    names: dict[str, str] = {}
    cursor = ""
    for _ in range(_PAGES_MAX):
        query = f"?{urlencode({'cursor': cursor})}" if cursor else ""
        try:
            answer = await client.call(f"GET {path}{query}", b"")
        except NoAnswer as error:
            return Listed(names=names, problem=str(error))
        page = _page(answer.body) if answer.status == 200 else None  # noqa: PLR2004  the only status with a page in it
        if page is None:
            return Listed(names=names, problem=_refusal(answer.status))
        names |= _names(page.get(field))
        paging = page.get("paging")
        cursor = str((paging if isinstance(paging, dict) else page).get("cursor") or "")
        if not cursor:
            return Listed(names=names)
        if len(names) >= _ITEMS_MAX:
            break
    return Listed(names=names, problem=f"only the first {len(names)} were read")


def _refusal(status: int) -> str:
    return {401: "the API key is not accepted", 403: "the API key may not list them"}.get(
        status, f"Courier answered {status}"
    )


def _page(body: bytes) -> dict[str, Any] | None:
    try:
        page = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return page if isinstance(page, dict) else None


def _names(items: object) -> dict[str, str]:
    """Return the names by id; a template's is its title or, in the newer form, its name."""
    found = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    return {
        str(one["id"]): str(one.get("name") or one.get("title") or "")[:_NAME_MAX] for one in found if one.get("id")
    }
