"""What must come out at the other end of an event that was posted, and the account of whether it did. Pure.

`Facts` is what the sender knows; a `Sighting` is what the destination got. The ledger compares them
while both happen: it is given every acknowledgement and every arrival, in any order. Absent: any
knowledge of either vendor's payloads.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

Key = tuple[str, ...]

_WRONGS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One event: `key` finds it at the destination, the rest is what must be true of it there."""

    key: Key
    name: str | None  # None: it must never arrive (it ends filtered or unmapped)
    user: str
    at_ms: int | None = None  # None: the payload carries no time


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One arrival. `message_id` is what the destination would deduplicate by."""

    key: Key
    name: str
    user: str
    at_ms: int | None
    message_id: str


@dataclass(slots=True, kw_only=True)
class _Open:
    """An event that was posted, until it is both acknowledged and seen."""

    facts: Facts
    is_acknowledged: bool = False
    sighting: Sighting | None = None


class Ledger:
    """Compare what was acknowledged with what arrived.

    Memory is bounded by what is under way plus `kept_max` events that are done.
    """

    def __init__(self, *, kept_max: int = 200_000) -> None:
        self.acknowledged = 0  # distinct events whose post was answered 2xx
        self.delivered = 0  # distinct events that arrived
        self.duplicates = 0  # further arrivals of the same event
        self.resent = 0  # acknowledgements of events that were acknowledged before
        self.silent = 0  # acknowledged events that rightly never arrive
        self.wrong: deque[str] = deque(maxlen=_WRONGS_MAX)  # what is not as it must be, in words
        self._open: dict[Key, _Open] = {}
        self._done: OrderedDict[Key, Sighting | None] = OrderedDict()
        self._owners: OrderedDict[str, Key] = OrderedDict()  # messageId → the event that uses it
        self._kept_max = kept_max

    def post(self, facts: Facts) -> None:
        """Note an event before it is posted; again for a resend."""
        if facts.key not in self._done:
            self._open.setdefault(facts.key, _Open(facts=facts))

    def acknowledge(self, key: Key) -> None:
        """Note that a post of the event was answered 2xx; further ones count as resends."""
        found = self._open.get(key)
        if found is None or found.is_acknowledged:
            self.resent += 1
            return
        found.is_acknowledged = True
        self.acknowledged += 1
        if found.facts.name is None:
            self.silent += 1
        self._close_if_done(found)

    def see(self, sighting: Sighting) -> None:
        """Note an arrival and judge it."""
        self._check_owner(sighting)
        found = self._open.get(sighting.key)
        earlier = found.sighting if found else self._done.get(sighting.key)
        if earlier is not None:
            self.duplicates += 1
            if earlier != sighting:
                self.wrong.append(f"a copy differs: {earlier} and {sighting}")
            return
        if found is None:
            self.wrong.append(f"nobody posted {sighting}")
            return
        self.delivered += 1
        found.sighting = sighting
        self._judge(found.facts, sighting)
        self._close_if_done(found)

    def missing(self) -> Sequence[Facts]:
        """Return what was acknowledged and has not arrived (yet), oldest first."""
        return [
            entry.facts
            for entry in self._open.values()
            if entry.is_acknowledged and entry.sighting is None and entry.facts.name is not None
        ]

    def _judge(self, facts: Facts, sighting: Sighting) -> None:
        if facts.name is None:
            self.wrong.append(f"it should not have arrived: {sighting}")
        elif (facts.name, facts.user) != (sighting.name, sighting.user):
            self.wrong.append(f"name or user: {facts} arrived as {sighting}")
        elif facts.at_ms is not None and facts.at_ms != sighting.at_ms:
            self.wrong.append(f"time: {facts} arrived as {sighting}")

    def _close_if_done(self, entry: _Open) -> None:
        is_silent = entry.facts.name is None
        if entry.is_acknowledged and (entry.sighting is not None or is_silent):
            del self._open[entry.facts.key]
            self._done[entry.facts.key] = entry.sighting
            if len(self._done) > self._kept_max:
                self._done.popitem(last=False)

    def _check_owner(self, sighting: Sighting) -> None:
        if not sighting.message_id:
            return
        owner = self._owners.setdefault(sighting.message_id, sighting.key)
        if owner != sighting.key:
            self.wrong.append(f"two events share a messageId: {owner} and {sighting.key}")
        if len(self._owners) > self._kept_max:
            self._owners.popitem(last=False)
