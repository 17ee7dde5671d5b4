"""What replicas tell each other of the acts of which more is to come: the next step may meet another one.

An act's selection is not among it, for that may name somebody: it stands in the audit log alone, where it is erased.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from forwarder.ports import Clock, Spool

OPEN_MAX: Final = 256
_MOVED_MAX: Final = 5_000  # of an act's events whose outcome is looked at: what the next replica hears of
_KEY: Final = "open acts"

Key = tuple[str, ...]  # the act's name, who, what


class OpenAct(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. `number`, `at_ms` and `count` are those of its line in the audit log."""

    replica: str  # that met its last step
    until_ms: int  # wall clock: it is forgotten then, whatever became of that replica
    number: int
    at_ms: int
    count: int | None
    detail: str  # "" where every step knows it
    tally: Mapping[str, int]
    moved: Sequence[int]


class SharedActs:
    """Keep them in the spool; where there are no replicas, nowhere."""

    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._clock = clock
        self._replica = secrets.token_hex(8)

    def is_own(self, act: OpenAct) -> bool:
        """Tell whether this replica met its last step."""
        return act.replica == self._replica

    async def take(self, key: Key) -> OpenAct | None:
        """Return what is kept of an act, which is then no longer kept. Raises `SpoolAway`."""
        return await self._change(key, None, own=False) if self._spool.has_replicas else None

    async def is_left(self, key: Key) -> bool:
        """Tell whether no other replica went on with our act, which is no longer kept then. Raises `SpoolAway`."""
        return not self._spool.has_replicas or await self._change(key, None, own=True) is not None

    async def keep(
        self,
        key: Key,
        *,
        number: int,
        at_ms: int,
        count: int | None,
        detail: str,
        tally: Mapping[str, int],
        moved: Sequence[int],
        for_s: float,
    ) -> None:
        """Keep an act whose step was done here. Raises `SpoolAway`."""
        if not self._spool.has_replicas:
            return
        act = OpenAct(
            replica=self._replica,
            until_ms=self._clock.wall_ms() + round(for_s * 1_000),
            number=number,
            at_ms=at_ms,
            count=count,
            detail=detail,
            tally=tally,
            moved=[*moved[:_MOVED_MAX]],
        )
        await self._change(key, act, own=False)

    async def _change(self, key: Key, new: OpenAct | None, *, own: bool) -> OpenAct | None:
        """Replace what is kept, if `own` only where it is ours, and return what that was."""
        before: OpenAct | None = None
        name, now_ms = msgspec.json.encode(key).decode(), self._clock.wall_ms()

        def changed(kept: bytes | None) -> bytes:
            nonlocal before
            acts = msgspec.json.decode(kept, type=dict[str, OpenAct]) if kept else {}
            before = acts.get(name)
            if before is not None and own and not self.is_own(before):
                before = None
            elif before is not None:
                del acts[name]
            living = [(name, act) for name, act in acts.items() if act.until_ms >= now_ms]
            added = [] if new is None else [(name, new)]
            return msgspec.json.encode(dict([*living[len(added) - OPEN_MAX :], *added]))

        await self._spool.change(_KEY, changed)
        return before
