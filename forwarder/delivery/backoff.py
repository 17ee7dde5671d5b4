"""How long to wait after failures. Pure: the random number is passed in, nobody sleeps here."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential with full jitter: the n-th wait is anywhere between nothing and `first_s * 2**(n-1)`.

    Full jitter spreads many daemons best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    first_s: float = 1.0
    max_s: float = 300.0

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row (at least 1)."""
        doublings = min(failures - 1, 62)  # beyond it the power is above any cap anyway
        return min(self.max_s, self.first_s * 2.0**doublings)

    def delay_s(self, failures: int, rng: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row; `rng` gives a number in [0, 1)."""
        return self.ceiling_s(failures) * rng()
