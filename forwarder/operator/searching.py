"""Searches that take longer than a page may: gone on with in steps while somebody looks, and counted to the end.

A search is known by the words that a person gave, so whoever asks the same looks on at the same one, though "the last
hour" begins later by then. It rests between its steps as
long as they took: pages, the writer and the deliveries never wait for more than one. Kept in memory, few at a time; one
that nobody looks at stops, and goes on when it is asked for again.
"""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Final

from forwarder.archive_port import EventQuery, EventRow
from forwarder.errors import ForwarderError
from forwarder.operator.parts import Parts

SEARCHES_KEPT_MAX: Final = 16
_RUNNING_MAX: Final = 2
_STEP_S: Final = 0.06  # of the reading thread, which the pages share
_STEP_EVENTS: Final = 50_000
_REST_S_MAX: Final = 0.5
_LOOKED_AT_S: Final = 15.0  # since it was last asked for
_FIRST_S: Final = 0.1  # a page waits so long for what a short search finds
_STALE_S: Final = 10.0  # a count that is older is made anew when it is asked for
_STALE_TIMES: Final = 20  # or so often as long as it took


@dataclass(slots=True, kw_only=True)
class Search:
    """How far a search is: `rows` are its first page, and what lies behind is only counted."""

    words: Hashable
    query: EventQuery
    began_s: float
    asked_at_s: float
    rows: list[EventRow] = field(default_factory=list)
    next_before: int | None = None  # of the page that follows, once the first one is full
    position: int | None = None
    matched: int = 0
    scanned: int = 0
    reached_ms: int | None = None
    ended_s: float | None = None
    is_stopped: bool = False  # by a person
    earlier: int | None = None  # how many matched when it was made before
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Tell whether it goes on."""
        return self.ended_s is None and not self.is_stopped

    @property
    def is_full(self) -> bool:
        """Tell whether its first page is."""
        return len(self.rows) >= self.query.limit

    def is_stale(self, query: EventQuery, now_s: float) -> bool:
        """Tell whether what it found may have changed since, or was left behind while its time went on."""
        if self.is_running and self.query != query and now_s - self.asked_at_s > _LOOKED_AT_S:
            return True
        return self.ended_s is not None and now_s - self.ended_s > max(
            _STALE_S, _STALE_TIMES * (self.ended_s - self.began_s)
        )


class Searches:
    """The searches under way and what they found. `close` stops them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: dict[Hashable, Search] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(_RUNNING_MAX)

    def __repr__(self) -> str:
        """Show how many run."""
        return f"Searches({len(self._tasks)} running, {len(self._known)} known)"

    async def look(self, words: Hashable, query: EventQuery) -> Search:
        """Return how far the search for these words is, which begins with this query or goes on by being looked at."""
        now_s = self._parts.clock.monotonic_s()
        known = self._known.pop(words, None)
        search = known
        if search is None or search.is_stale(query, now_s):
            before = query.before_sequence
            search = Search(words=words, query=query, began_s=now_s, asked_at_s=now_s, position=before)
            search.earlier = known.matched if known is not None else None
        self._known[words] = search  # at the end: who was not asked for longest goes first
        search.asked_at_s = now_s
        while len(self._known) > SEARCHES_KEPT_MAX:
            oldest = next(iter(self._known))
            self._known.pop(oldest).is_stopped = True
        if search.is_running:
            if words not in self._tasks:
                self._tasks[words] = asyncio.create_task(self._run(search), name="search")
            await asyncio.wait([self._tasks[words]], timeout=_FIRST_S if search is not known else 0)
        return search

    def stop(self, words: Hashable) -> None:
        """Stop a search, as a person asks for."""
        if search := self._known.get(words):
            search.is_stopped = True

    def go_on(self, words: Hashable) -> None:
        """Let a search that was stopped go on when it is looked at."""
        if search := self._known.get(words):
            search.is_stopped, search.asked_at_s = False, self._parts.clock.monotonic_s()

    def forget(self) -> None:
        """Forget what was found, for some of it was erased; who looks on begins anew."""
        for task in self._tasks.values():
            task.cancel()
        self._known.clear()
        self._tasks.clear()

    async def close(self) -> None:
        """Stop all of them. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, search: Search) -> None:
        clock = self._parts.clock
        try:
            while search.is_running and clock.monotonic_s() - search.asked_at_s < _LOOKED_AT_S:
                async with self._turn:
                    rested_s = await self._step(search)
                await asyncio.sleep(rested_s)
        except ForwarderError as error:
            search.error, search.ended_s = str(error), clock.monotonic_s()
        finally:
            if self._tasks.get(search.words) is asyncio.current_task():
                del self._tasks[search.words]

    async def _step(self, search: Search) -> float:
        """Go one step; return how long it took."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        limit = max(0, search.query.limit - len(search.rows))
        page = await self._parts.archive.events(
            replace(search.query, before_sequence=search.position, limit=limit, budget_s=_STEP_S, scan_max=_STEP_EVENTS)
        )
        search.rows += page.rows
        search.matched += page.matched
        search.scanned += page.scanned
        search.reached_ms = page.reached_ms if page.reached_ms is not None else search.reached_ms
        search.position = page.next_before
        if limit and search.is_full:
            search.next_before = page.next_before
        if page.next_before is None:
            search.ended_s = self._parts.clock.monotonic_s()
        return min(loop.time() - began_s, _REST_S_MAX)
