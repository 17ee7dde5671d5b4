"""How large a batch may be just now: the set limit, or less for a while after a 413. Pure: times are arguments.

A proxy in front of the destination may take less than the destination does (1 MB is a common default, counted
on packed bytes, so nobody can know it beforehand). Without a memory every batch would be refused and cut anew.
"""

from typing import Final

_REMEMBERED_S: Final = 600.0


class SizeCeiling:
    """The largest batch, in bytes of its bodies."""

    def __init__(self, bytes_max: int) -> None:
        self._set_max = bytes_max
        self._learnt_max = bytes_max
        self._until_s = 0.0

    def __repr__(self) -> str:
        """Show what was set and what was learnt."""
        return f"SizeCeiling({self._learnt_max} of {self._set_max} bytes)"

    def refused(self, size_bytes: int, *, now_s: float) -> None:
        """Learn that a batch of several deliveries was too large: those that follow are at most half of it."""
        self._learnt_max = max(1, min(self.bytes_max(now_s=now_s), size_bytes // 2))
        self._until_s = now_s + _REMEMBERED_S

    def bytes_max(self, *, now_s: float) -> int:
        """Return the limit that holds now; what was learnt is tried anew after ten minutes."""
        return self._learnt_max if now_s < self._until_s else self._set_max
