"""Random misfortune with a seed: what hits a request, drawn once per request. Pure but for its own generator.

Absent on purpose: what a misfortune does. The stand-in that asks for one plays it.
"""

import random
from dataclasses import dataclass
from enum import StrEnum


class Misfortune(StrEnum):
    """What may hit a request to Courier."""

    NONE = "none"
    RATE_LIMITED = "rate limited"  # 429 with Retry-After: no effect, nothing stored
    ERROR = "error"  # 500 without an effect; stored under the request's key
    ERROR_AFTER_EFFECT = "error after effect"  # 500 although it took effect; stored under the key
    LOST = "lost"  # no answer, no effect: it never got there
    SILENT = "silent"  # it took effect, the answer was lost
    LATE = "late"  # the connection is lost at once, the effect comes later: a repeat meanwhile gets 409
    SILENT_ERROR = "silent error"  # no effect, a 500 is stored under the key, and the answer was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosRates:
    """How often each misfortune strikes, as shares of all requests; together at most 1."""

    rate_limited: float = 0.0
    error: float = 0.0
    error_after_effect: float = 0.0
    lost: float = 0.0
    silent: float = 0.0
    late: float = 0.0
    silent_error: float = 0.0


class Chaos:
    """Draw misfortunes. The same seed and the same number of draws give the same misfortunes."""

    def __init__(self, rates: ChaosRates, *, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a repeatable script, not a secret
        self._bounds = (
            (rates.rate_limited, Misfortune.RATE_LIMITED),
            (rates.error, Misfortune.ERROR),
            (rates.error_after_effect, Misfortune.ERROR_AFTER_EFFECT),
            (rates.lost, Misfortune.LOST),
            (rates.silent, Misfortune.SILENT),
            (rates.late, Misfortune.LATE),
            (rates.silent_error, Misfortune.SILENT_ERROR),
        )

    def draw(self) -> Misfortune:
        """Return what hits the next request."""
        at = self._random.random()
        for share, misfortune in self._bounds:
            if at < share:
                return misfortune
            at -= share
        return Misfortune.NONE
