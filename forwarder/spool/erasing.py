"""Erase while routes lease and deliver; take ids out of the audit log. What erasing comes to is the engine's matter."""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from forwarder.ports import Erased
from forwarder.spool.claims import Moves
from forwarder.spool.leasing import Leasing

ERASED = "erased"  # the reason of what was
_CHUNK = 250  # events in one commit
_NOBODY = "(erased)"
_NAMES = "route|state|period|event|user_id|user|message_id|message|reason|text|status|attempts|from|to"
_WORDS = re.compile(rf"\b((?:text|reason)[= ])(.*?)(?= (?:{_NAMES})=|, (?:{_NAMES}) |, with what |$)", re.DOTALL)


class Emptied(NamedTuple):
    """What an erasure met: how many events, which of them were pending, per route, and who is leased in their place."""

    events: int
    waited: tuple[set[int], set[int]]
    moves: Moves
    left: Sequence[int] = ()  # another replica may have them in hand


class EraseThese(Protocol):
    """How the engine erases events, none of which is leased here, in one commit."""

    async def __call__(
        self, sequences: Sequence[int], *, on_commit: Callable[[Emptied], None], on_rollback: Callable[[], None]
    ) -> Emptied:
        """Erase them; one of the two is called, in the order of the commits."""


class Eraser:
    """Erase while routes lease and deliver. Lives on the event loop's thread."""

    def __init__(self, erase: EraseThese, leasing: Leasing) -> None:
        self._erase = erase
        self._leasing = leasing

    async def erase(self, sequences: Sequence[int]) -> Erased:
        """Erase these events but for those that are leased; see `ports.Spool.erase`."""
        events = pending = leased = 0
        for start in range(0, len(sequences), _CHUNK):
            chunk = sequences[start : start + _CHUNK]
            taken = set(self._leasing.claims.leased_of(chunk))
            free = [sequence for sequence in chunk if sequence not in taken]
            leased += len(taken)
            if free:
                met = await self._erased(free)
                events, pending = events + met.events, pending + sum(map(len, met.waited))
                leased += len(met.left)
        return Erased(events=events, pending=pending, leased=leased)

    async def _erased(self, sequences: Sequence[int]) -> Emptied:
        def admit() -> None:
            for queue in self._leasing.queues:
                queue.barred.difference_update(sequences)

        def on_commit(met: Emptied) -> None:
            admit()
            for queue, waited in zip(self._leasing.queues, met.waited, strict=True):
                if waited:
                    queue.erased(waited)
            self._leasing.moved(met.moves)

        def on_rollback() -> None:
            admit()
            self._leasing.reset()  # who was barred may have been passed over

        # Nobody is leased what is being erased: not between the commit and the moment it is heard of here, either.
        for queue in self._leasing.queues:
            queue.barred.update(sequences)
        return await self._erase(sequences, on_commit=on_commit, on_rollback=on_rollback)


def without_ids(detail: str, users: Collection[str]) -> str:
    """Return a line of the audit log without these ids: as the user that was selected, and in text and reason.

    Names are the API's (`user_id=…`); earlier versions' page wrote `user …, text …`.
    """
    for user in users:
        detail = re.sub(rf"\b(user_id=|user ){re.escape(user)}(?= \w+=|,|$)", rf"\1{_NOBODY}", detail)
        word = re.compile(rf"(?<![\w@.+-]){re.escape(user)}(?![\w@+-]|\.\w)", re.IGNORECASE)
        detail = _WORDS.sub(partial(_blanked, word), detail)
    return detail


def _blanked(word: re.Pattern[str], found: re.Match[str]) -> str:
    return found[1] + word.sub(_NOBODY, found[2])
