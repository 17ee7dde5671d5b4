"""How a stand-in may misbehave, as values. A stand-in plays them; it never decides by itself.

Absent on purpose: probabilities (see `chaos`) and wall-clock schedules. Whoever scripts an outage
sets a behaviour, waits, and heals.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """Answer with exactly this, whatever was asked; nothing takes effect."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangs:
    """Give no answer for so long, then close the connection. The effect may have happened all the same."""

    seconds: float = 3600.0
    takes_effect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HangsUp:
    """Close the connection without an answer. The effect may have happened all the same."""

    takes_effect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dawdles:
    """Behave well, but only after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutsOff:
    """Do what was asked and say so, but break the connection in the middle of the answer's body."""


Behaviour = Says | Hangs | HangsUp | Dawdles | CutsOff

UNAVAILABLE = Says(status=503, body="Service Unavailable\n", headers={"Content-Type": "text/plain; charset=utf-8"})
WRONG_KEY = Says(status=401, body="invalid write key\n", headers={"Content-Type": "text/plain; charset=utf-8"})
LOGIN_PAGE = Says(status=200, body="<!doctype html><title>Sign in</title>", headers={"Content-Type": "text/html"})
MOVED = Says(status=302, headers={"Location": "http://127.0.0.1:1/v1/batch"})


class Script:
    """What the next requests meet: first what was queued for single requests, then the standing behaviour."""

    def __init__(self) -> None:
        self._once: deque[Behaviour] = deque()
        self._standing: Behaviour | None = None

    def once(self, *behaviours: Behaviour) -> None:
        """Play these for the next requests, one each, before anything that stands."""
        self._once.extend(behaviours)

    def behave(self, behaviour: Behaviour) -> None:
        """Misbehave this way from now on, until `heal`."""
        self._standing = behaviour

    def heal(self) -> None:
        """Behave well from now on; what was queued is forgotten."""
        self._once.clear()
        self._standing = None

    def take(self) -> Behaviour | None:
        """Return what the request at hand meets; None means good behaviour."""
        if self._once:
            return self._once.popleft()
        return self._standing
