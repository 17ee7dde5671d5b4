"""Steps of time in a ring: what came and went in each, and how what several replicas counted adds up."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from forwarder.model import RouteName
from forwarder.ports import Spool
from forwarder.telemetry.reporter import OTHERS

NETWORKS_MAX: Final = 32  # of one step; a stranger makes as many as he likes
_LATE_MS: Final = 180_000

Rejections = dict[tuple[str, str, str], int]  # by endpoint, reason and network


class Flow(msgspec.Struct, array_like=True, omit_defaults=True):
    """One route in one step. `pending`: the most at once; `dead`: the durable total at its end, `died`: its growth.

    `erased`: what grew it, too, but did not die; see `erased_between`.
    """

    came: int = 0
    went: int = 0
    pending: int = 0
    dead: int = 0
    died: int = 0
    erased: int = 0

    def plus(self, more: "Flow") -> "Flow":
        """Return the flow of the same step with what another one counted of it."""
        is_told = more.pending or more.dead or more.died or more.erased
        return Flow(
            came=self.came + more.came,
            went=self.went + more.went,
            pending=max(self.pending, more.pending),
            dead=more.dead if is_told else self.dead,
            died=self.died + more.died,
            erased=self.erased + more.erased,
        )


class Step(msgspec.Struct, array_like=True, omit_defaults=True):
    """Everything in one step. `senders`: requests that were accepted, by endpoint."""

    flows: dict[RouteName, Flow] = {}
    senders: dict[str, int] = {}
    rejected: Rejections = {}


Slot = tuple[int, dict[int, Step]]  # its number, its steps by number


class Series:
    """Steps of one length in a ring of slots; memory and disk hold `slots` times `per_slot` of them at most.

    What is seen of a slot is what was kept at the last save, of all replicas, and what this one has added since.
    """

    def __init__(self, name: str, *, step_ms: int, per_slot: int, slots: int) -> None:
        self.step_ms = step_ms
        self._name, self._per_slot, self._slots = name, per_slot, slots
        self._ring: dict[int, Slot] = {}  # by the slot's place
        self._added: dict[int, Slot] = {}

    def at(self, at_ms: int) -> Step:
        """Return the step of that moment as it is seen."""
        return self._step(self._ring, at_ms // self.step_ms)

    def both(self, at_ms: int) -> tuple[Step, Step]:
        """Return it as it is seen, and as it is to be kept: what is added goes into both."""
        return self.at(at_ms), self._step(self._added, at_ms // self.step_ms)

    def get(self, at_ms: int) -> Step | None:
        """Return the step of that moment, if anything is known of it."""
        number = at_ms // self.step_ms
        slot, steps = self._ring.get(number // self._per_slot % self._slots, (None, {}))
        return steps.get(number) if slot == number // self._per_slot else None

    def between(self, from_ms: int, to_ms: int) -> Iterator[tuple[int, Step]]:
        """Yield the steps that begin in there, oldest first, with their beginnings."""
        for slot, steps in sorted(self._ring.values(), key=lambda one: one[0]):
            if slot * self._per_slot * self.step_ms >= to_ms or (slot + 1) * self._per_slot * self.step_ms <= from_ms:
                continue
            for number in sorted(steps):
                if from_ms <= number * self.step_ms < to_ms:
                    yield number * self.step_ms, steps[number]

    async def save(self, spool: Spool, *, now_ms: int) -> None:
        """Keep what was added, beside what other replicas keep; see what they have added."""
        begun = now_ms // self.step_ms // self._per_slot
        is_early = now_ms - begun * self._per_slot * self.step_ms < _LATE_MS  # others end the slot before only now
        looked = {slot % self._slots for slot in ((begun, begun - 1) if is_early else (begun,))}
        for place, added in list(self._added.items()):
            looked.discard(place)
            del self._added[place]
            try:
                kept = await spool.change(self._key(place), partial(_joined, added=added))
            except BaseException:
                self._added[place] = _merged(added, self._added.get(place))
                raise
            self._see(place, kept)
        for place in looked:
            self._see(place, await spool.get(self._key(place)))

    async def load(self, spool: Spool) -> None:
        """Read what was kept; what cannot be read is left behind."""
        for place in range(self._slots):
            self._see(place, await spool.get(self._key(place)))

    def _see(self, place: int, kept: bytes | None) -> None:
        slot = _slot(kept)
        if slot is not None:
            self._ring[place] = _merged(slot, self._added.get(place))

    def _step(self, ring: dict[int, Slot], number: int) -> Step:
        slot = number // self._per_slot
        place = slot % self._slots
        if place not in ring or ring[place][0] != slot:
            ring[place] = slot, {}
        return ring[place][1].setdefault(number, Step())

    def _key(self, place: int) -> str:
        return f"totals {self._name} {place}"


def _slot(kept: bytes | None) -> Slot | None:
    """Read a slot that was kept; None for one that cannot be read."""
    try:
        return msgspec.msgpack.decode(kept, type=Slot) if kept else None
    except msgspec.MsgspecError:
        return None


def _joined(kept: bytes | None, *, added: Slot) -> bytes:
    return msgspec.msgpack.encode(_merged(_slot(kept), added))


def _merged(slot: Slot | None, added: Slot | None) -> Slot:
    """Return a slot with what was added to it; of two different slots the added one."""
    if added is None or slot is None or slot[0] != added[0]:
        return added or slot or (0, {})
    steps = dict(slot[1])
    for number, more in added[1].items():
        step = steps.get(number) or Step()
        flows = {route: step.flows.get(route, Flow()).plus(flow) for route, flow in more.flows.items()}
        senders = Counter(step.senders)
        senders.update(more.senders)
        rejected = dict(step.rejected)
        add_rejections(rejected, more.rejected, keys_max=NETWORKS_MAX)
        steps[number] = Step(flows=step.flows | flows, senders=dict(senders), rejected=rejected)
    return slot[0], steps


def add_rejections(to: Rejections, more: Rejections, *, keys_max: int | None = None) -> None:
    """Add counts; of networks that would be too many, all together."""
    for key, count in more.items():
        is_kept = key in to or keys_max is None or len(to) < keys_max or not key[2]
        kept = key if is_kept else (*key[:2], OTHERS)
        to[kept] = to.get(kept, 0) + count
