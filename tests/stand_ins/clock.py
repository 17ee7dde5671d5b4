"""A clock that stands until a test moves it: the only one that tests give to what waits and stamps."""

NOW_MS = 1_800_000_000_000


class HandClock:
    """`ports.Clock` whose wall time and monotonic time are one: set `now_ms`, or `now_s`."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    @property
    def now_s(self) -> float:
        """The same in seconds."""
        return self.now_ms / 1000

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        self.now_ms = round(now_s * 1000)

    def wall_ms(self) -> int:
        """Return the time it was set to."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """Return the same in seconds."""
        return self.now_s
