"""What people may do, each written down with who did it: one line in the audit log and one in the log. API and pages.

A line of the audit log is written with the first step of its act and kept up to date until its outcome is known, so
that a crash in between leaves what was done until then. In the log is nothing that may come out of a payload.
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from forwarder.archive_port import AuditRow
from forwarder.courier.catalogue import Catalogue
from forwarder.errors import ForwarderError
from forwarder.model import State
from forwarder.operator.parameters import ACTION_EVENTS_MAX, PauseOf
from forwarder.operator.parts import OperatedRoute, Parts
from forwarder.operator.shared_acts import OPEN_MAX, SharedActs
from forwarder.operator.text import clock_time

FOLLOWED_MAX: Final = 50_000  # events of one act whose outcome is looked at
FOLLOWED_S: Final = 60.0  # then what is still pending is told as that
STEP_WITHIN_S: Final = 60.0  # an act whose next step does not come within this was given up
_ERASED_KEY: Final = "erased"
_FOLLOWING: Final = "an act is followed"
_LINKS_SHOWN_MAX: Final = 20  # in one line of the audit log


@dataclass(slots=True, kw_only=True)
class Line:
    """One line of the audit log while its act goes on; `logged` is the detail as the log may have it."""

    at_ms: int
    who: str
    action: str
    detail: str
    logged: str
    number: int | None = None  # in the audit log, once it is written
    count: int | None = None
    moved: "array[int]" = field(default_factory=lambda: array("q"))
    tally: Counter[str] = field(default_factory=Counter)  # what else is told of it at its end
    has_own_detail: bool = False  # that no other step could say; it names nobody


@dataclass(frozen=True, kw_only=True)
class Acts:
    """Do and write down. One for API and pages together: changes of the links take turns here.

    Whoever serves them closes it before the spool. `on_erased`: who keeps events, or what they were found by, in
    memory, and forgets it when some were erased.
    """

    parts: Parts
    catalogue: Catalogue
    look_every_s: float = 0.5
    on_erased: list[Callable[[], None]] = field(default_factory=list)
    _shared: SharedActs = field(init=False)
    _links_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _open: dict[tuple[str, ...], tuple[Line, asyncio.TimerHandle]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Know of the open acts at other replicas, and hear of what is erased there."""
        object.__setattr__(self, "_shared", SharedActs(self.parts.spool, self.parts.clock))
        self.parts.spool.watch(_ERASED_KEY, lambda _: self._forget())

    # --- acting on events ---

    def line(self, who: str, action: str, detail: str, *, logged: str | None = None) -> Line:
        """Begin an act; it is written down with its first step. Without `logged` the log has the detail."""
        at_ms = self.parts.clock.wall_ms()
        return Line(at_ms=at_ms, who=who, action=action, detail=detail, logged=detail if logged is None else logged)

    async def replay(self, sequences: Sequence[int], *, line: Line, everything: bool = False) -> int:
        """Make settled events pending again; return how many.

        Calls to Courier that were done are not made again, except with `everything`.
        """
        return await self.note(line, await self.parts.spool.requeue(sequences, everything=everything), sequences)

    async def discard(self, sequences: Sequence[int], *, line: Line) -> int:
        """Mark dead events as discarded; return how many."""
        return await self.note(line, await self.parts.spool.discard(sequences))

    async def note(self, line: Line, count: int, moved: Sequence[int] = ()) -> int:
        """Write down what one more step of an act did; return that."""
        line.count = (line.count or 0) + count
        line.moved.extend(moved[: FOLLOWED_MAX - len(line.moved)])
        await self._write(line)
        return count

    async def end(self, line: Line, outcome: str) -> None:
        """Write down what came of it; in the log, too."""
        await self._write(line, outcome)
        self.parts.reporter.operator_acted(
            who=line.who, action=line.action, selection=line.logged, count=line.count, outcome=outcome
        )

    def follow(self, line: Line) -> None:
        """Look in the background what becomes of the events of a replay, then end its line."""
        self._start(self._followed(line), name=_FOLLOWING)

    async def close(self) -> None:
        """End every line with what is known of it. Idempotent."""
        for key in [*self._open]:
            self._give_up(key)
        for task in [*self._tasks]:
            if task.get_name() == _FOLLOWING:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def erased(self) -> None:
        """Have what is kept in memory of events forgotten, now that some were erased; at every replica."""
        self._forget()
        if self.parts.spool.has_replicas:
            await self.parts.spool.put(_ERASED_KEY, b"")

    def _forget(self) -> None:
        for forget in self.on_erased:
            forget()

    # --- acts of programs, a request for each step, which may meet another replica than the one before ---

    async def step(self, name: str, line: Line) -> Line:
        """Return the line of the act that this is a step of: `line`, or the one with which it began."""
        key = (name, line.who, line.action)
        begun, timer = self._open.pop(key, (line, None))
        if timer is not None:
            timer.cancel()
        kept = await self._shared.take(key)
        if kept is not None and not self._shared.is_own(kept):
            begun.number, begun.at_ms, begun.count = kept.number, kept.at_ms, kept.count
            begun.detail = kept.detail or begun.detail
            begun.tally, begun.moved = Counter(kept.tally), array("q", kept.moved)
        return begun

    async def await_step(self, name: str, line: Line) -> None:
        """Keep the line open for the next step of its act, for a while."""
        while len(self._open) >= OPEN_MAX:
            self._give_up(next(iter(self._open)))
        key = (name, line.who, line.action)
        if line.number is not None:
            await self._shared.keep(
                key,
                number=line.number,
                at_ms=line.at_ms,
                count=line.count,
                detail=line.detail if line.has_own_detail else "",
                tally=line.tally,
                moved=line.moved,
                for_s=2 * STEP_WITHIN_S,
            )
        timer = asyncio.get_running_loop().call_later(STEP_WITHIN_S, self._give_up, key)
        self._open[key] = line, timer

    def _give_up(self, key: tuple[str, ...]) -> None:
        line, timer = self._open.pop(key)
        timer.cancel()
        self._start(self._end_given_up(key, line))

    async def _end_given_up(self, key: tuple[str, ...], line: Line) -> None:
        if await self._shared.is_left(key):
            await self.end(line, "interrupted")

    # --- other acts ---

    async def pause(self, route: OperatedRoute, given: PauseOf, *, who: str) -> None:
        """Pause a route."""
        until_ms = given.until_ms(now_ms=self.parts.clock.wall_ms())
        await route.pause(who=who, reason=given.reason, until_ms=until_ms)
        logged = f"{route.name}{f' until {clock_time(until_ms)}' if until_ms is not None else ''}"
        detail = f"{logged}: {given.reason}" if given.reason else logged
        await self.audit(who, "pause", detail, logged=logged)

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
            logged = f"{added} added, {removed} removed"
            await self.audit(who, "links", f"{logged}: {shown}", logged=logged, count=added + removed)
        return added, removed

    async def audit(
        self, who: str, action: str, detail: str, *, logged: str | None = None, count: int | None = None
    ) -> None:
        """Write down an act that is done."""
        line = self.line(who, action, detail, logged=logged)
        line.count = count
        await self.end(line, "done")

    # --- its own ---

    async def _write(self, line: Line, outcome: str = "") -> None:
        row = AuditRow(
            at_ms=line.at_ms, who=line.who, action=line.action, detail=line.detail, count=line.count, outcome=outcome
        )
        line.number = await self.parts.archive.write_audit(row, number=line.number)

    async def _followed(self, line: Line) -> None:
        found: Mapping[State, int] = {}
        try:
            async for counts in outcomes(self.parts, line.moved, look_every_s=self.look_every_s):
                found = counts
        finally:
            await self.end(line, outcome_words(found, of=line.count or 0))

    def _start(self, work: Coroutine[None, None, None], name: str = "") -> None:
        async def done() -> None:
            with suppress(ForwarderError):  # the spool is shut: what was written so far stands
                await work

        task = asyncio.create_task(done(), name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def outcomes(
    parts: Parts, sequences: Sequence[int], *, look_every_s: float
) -> AsyncIterator[Mapping[State, int]]:
    """Count, again and again, in which states these events are, until none is pending, for at most a while.

    What was purged is left out.
    """
    until_s = parts.clock.monotonic_s() + FOLLOWED_S
    while True:
        counts: Counter[State] = Counter()
        for start in range(0, len(sequences), ACTION_EVENTS_MAX):
            chunk = sequences[start : start + ACTION_EVENTS_MAX]
            counts.update((await parts.archive.states(chunk)).values())
        yield counts
        if not counts.get(State.PENDING) or parts.clock.monotonic_s() >= until_s:
            return
        await asyncio.sleep(look_every_s)


def outcome_words(found: Mapping[State, int], *, of: int) -> str:
    """Say what became of replayed events; `of` so many, where not all were looked at."""
    if not found:
        return "nothing to do" if not of else "not known"
    words = [
        f"{count} {state.value}{' again' if state in (State.DEAD, State.UNMAPPED) else ''}"
        for state, count in sorted(found.items())
    ]
    return ", ".join(words) + (f", of the first {sum(found.values())}" if sum(found.values()) < of else "")


def _link_name(words: Mapping[str, str]) -> str:
    kind, target = words.get("to", "automation"), words.get("target", "")
    return f"{words.get('type', 'track')} {words.get('event', '')} to {kind} {target}"
