"""Say a repeated warning a few times, then count it. Pure: the time is given."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(slots=True)
class _Window:
    ends_at_s: float
    said: int = 0
    suppressed: int = 0


class Repeats(Generic[KeyT]):
    """Allow each key at most `said_max` times in `window_s` seconds, and count how many were not said.

    At most `keys_max` keys are told apart; beyond that new ones are always said, so that a flood of
    different warnings costs log lines and not memory.
    """

    def __init__(self, *, said_max: int, window_s: float, keys_max: int = 1_024) -> None:
        self._said_max = said_max
        self._window_s = window_s
        self._keys_max = keys_max
        self._windows: dict[KeyT, _Window] = {}

    def may_say(self, key: KeyT, *, now_s: float) -> bool:
        """Tell whether this one is said; count it as suppressed if not."""
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._keys_max:
                return True
            window = self._windows[key] = _Window(now_s + self._window_s)
        if window.said < self._said_max:
            window.said += 1
            return True
        window.suppressed += 1
        return False

    def take_ended(self, *, now_s: float) -> list[tuple[KeyT, int]]:
        """Forget the windows that ended and return what they suppressed, zeros left out."""
        ended = [(key, window) for key, window in self._windows.items() if window.ends_at_s <= now_s]
        for key, _ in ended:
            del self._windows[key]
        return [(key, window.suppressed) for key, window in ended if window.suppressed]

    def take_all(self) -> list[tuple[KeyT, int]]:
        """Forget every window and return what was suppressed: the last words before the end."""
        return self.take_ended(now_s=float("inf"))
