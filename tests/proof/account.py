"""The account of a chaos run: what was acknowledged, what arrived, in which life of the daemon, and why again.

Pure: it is told of every acknowledgement, arrival and effect in the order in which they happen, and judges.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forwarder.demo.facts import Facts, Key, Ledger, Sighting

_SAID_MAX = 20


@dataclass(slots=True)
class Copies:
    """Why what arrived came again: each copy must have a reason.

    The daemon cannot know whether a request of its last moments was taken, nor one whose answer was cut off.
    """

    after_kill: int = 0  # what came first in one life and again in a later one
    after_cut: int = 0  # what the destination took without saying so
    unexplained: list[str] = field(default_factory=list)
    _last: dict[Key, tuple[int, bool]] = field(default_factory=dict)  # life, and whether it was answered

    def see(self, key: Key, *, life: int, is_answered: bool) -> None:
        """Hear of an arrival: in which life of the daemon its request was sent, and whether that was answered."""
        before = self._last.get(key)
        self._last[key] = (life, is_answered)
        if before is None:
            return
        if not before[1]:
            self.after_cut += 1
        elif before[0] < life:
            self.after_kill += 1
        else:
            self.unexplained.append(f"sent again in one life, although it was answered: {key}")


LAPSED_S = 20.0  # a replica that was away for so long may have lost what it leased


@dataclass(slots=True)
class ReplicaCopies:
    """Why what arrived came again, where several replicas send: each copy must have a reason that lies with the first.

    A life is one process. What a killed one had sent another must send again, and what one had sent that was stopped
    until its lease was over; never the one that was stopped itself.
    """

    after_kill: int = 0
    after_cut: int = 0
    after_lapse: int = 0
    unexplained: list[str] = field(default_factory=list)
    _last: dict[Key, tuple[str, float, bool]] = field(default_factory=dict)  # life, when, whether it was answered
    _killed: set[str] = field(default_factory=set)
    _away: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # lives to when they were stopped

    def kill(self, life: str) -> None:
        """Hear, before it happens, that a life ends."""
        self._killed.add(life)

    def away(self, life: str, *, from_s: float, until_s: float) -> None:
        """Hear, before anything follows, that a life stood still or had no database between these times."""
        self._away.setdefault(life, []).append((from_s, until_s))

    def see(self, key: Key, *, life: str, at_s: float, is_answered: bool) -> None:
        """Hear of an arrival: whose it is, and whether it was answered."""
        before = self._last.get(key)
        self._last[key] = (life, at_s, is_answered)
        if before is None:
            return
        first, first_s, was_answered = before
        if not was_answered:
            self.after_cut += 1
        elif first != life and first in self._killed:
            self.after_kill += 1
        elif first != life and any(
            from_s + LAPSED_S <= at_s and first_s <= until_s for from_s, until_s in self._away.get(first, ())
        ):
            self.after_lapse += 1
        else:
            self.unexplained.append(
                f"sent by {first}, answered, and {at_s - first_s:.2f} s later by {life}: {key}"
                f"{' (' + first + ' was killed)' if first in self._killed else ''}"
            )


class Order:
    """Per user, the order in which calls were acknowledged against the order in which they took effect.

    Memory is bounded by what is under way.
    """

    def __init__(self) -> None:
        self.compared = 0
        self._posted: dict[str, deque[Key]] = {}
        self._applied: dict[str, deque[Key]] = {}
        self._broken: set[str] = set()

    def post(self, facts: Facts) -> None:
        """Hear of a call that was acknowledged; a user's next one is posted after that."""
        if facts.name is not None:
            self._posted.setdefault(facts.user, deque()).append(facts.key)
            self._compare(facts.user)

    def apply(self, sighting: Sighting) -> None:
        """Hear of an effect that was not seen before."""
        self._applied.setdefault(sighting.user, deque()).append(sighting.key)
        self._compare(sighting.user)

    def broken(self) -> list[str]:
        """Return the users whose calls took effect in another order; at the end, when nothing is under way."""
        return sorted(self._broken | {user for user, keys in self._posted.items() if keys})

    def _compare(self, user: str) -> None:
        posted, applied = self._posted.get(user), self._applied.get(user)
        while posted and applied:
            self.compared += 1
            if posted.popleft() != applied.popleft():
                self._broken.add(user)


@dataclass(slots=True)
class Scrapes:
    """Every scrape's totals: balanced in itself, and never going back."""

    seen: int = 0
    wrong: list[str] = field(default_factory=list)
    _accepted: dict[str, int] = field(default_factory=dict)

    def see(self, totals: dict[str, dict[str, int]]) -> None:
        """Hear of one scrape."""
        for route, states in totals.items():
            self.seen += 1
            settled = sum(count for state, count in states.items() if state != "accepted")
            if states["accepted"] != settled:
                self.wrong.append(f"{route} does not balance: {states}")
            if states["accepted"] < self._accepted.get(route, 0):
                self.wrong.append(f"{route} forgot some: {states['accepted']} after {self._accepted[route]}")
            self._accepted[route] = states["accepted"]


def never_arriving(facts: Facts) -> Facts:
    """Return the facts of an event that its destination refuses for good: it must end dead, and arrive nowhere."""
    return replace(facts, name=None)


def faults(ledger: Ledger, totals: Mapping[str, int], *, dead: int) -> list[str]:
    """Return what is wrong with a route at the end, when nothing is pending any more."""
    found = [f"lost: {facts.key}" for facts in list(ledger.missing())[:_SAID_MAX]] + list(ledger.wrong)
    wanted = {
        "accepted": ledger.acknowledged,
        "pending": 0,
        "delivered": ledger.delivered,
        "dead": dead,
        "filtered or unmapped": ledger.silent - dead,
    }
    has = {name: totals.get(name, totals["filtered"] + totals["unmapped"]) for name in wanted}
    return [*found, f"the totals are {has} instead of {wanted}"] if has != wanted else found
