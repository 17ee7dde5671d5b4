"""What a spool promises about other replicas, for an engine that has none."""

from abc import ABC, abstractmethod
from collections.abc import Callable


class Alone(ABC):
    """The part of `ports.Spool` that needs nobody else; the engine adds `change`."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep a small value; see `ports.Spool.put`. Raises ValueError above the limit."""
        await self.change(key, lambda _: value)

    @abstractmethod
    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a small value by what `change` makes of it; see `ports.Spool.change`."""

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:  # noqa: ARG002 - the port's signature
        """Do nothing: nobody else changes a value."""
        return

    @property
    def has_replicas(self) -> bool:
        """Say no: nobody else is at work on them."""
        return False

    def may_send(self) -> bool:
        """Say yes: nobody takes anything over."""
        return True

    def leads(self) -> bool:
        """Say yes: it is the only one."""
        return True
