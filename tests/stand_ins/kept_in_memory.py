"""The small values that a spool keeps for the daemon, in a dict that several replicas may share."""

from collections import defaultdict
from collections.abc import Callable

from forwarder.errors import SpoolFull
from forwarder.spool.alone import Alone


class KeptInMemory(Alone):
    """One replica's access to them; made `beside` another, it shares that one's. Nothing is kept while it is full."""

    def __init__(self, beside: "KeptInMemory | None" = None) -> None:
        self.values: dict[str, bytes] = {} if beside is None else beside.values
        self.is_full = False
        self.changes = 0
        self.listeners = defaultdict[str, list[Callable[[bytes], None]]](list)
        self.replicas: list[KeptInMemory] = [] if beside is None else beside.replicas
        self.replicas.append(self)

    async def get(self, key: str) -> bytes | None:
        """Return a value, or None."""
        return self.values.get(key)

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a value, and tell the other replicas."""
        if self.is_full:
            raise SpoolFull("the disk is full", retry_after_s=1)
        self.values[key] = value = change(self.values.get(key) or None)
        self.changes += 1
        for other in self.replicas:
            for heard in other.listeners[key] if other is not self else ():
                heard(value)
        return value

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called when another replica changes the value."""
        self.listeners[key].append(heard)

    @property
    def has_replicas(self) -> bool:
        """Tell whether it was made beside another, or another beside it."""
        return len(self.replicas) > 1

    def leads(self) -> bool:
        """Tell whether it is the first of the replicas."""
        return self.replicas[0] is self
