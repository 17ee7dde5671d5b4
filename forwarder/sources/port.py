"""What the worker asks of a bus, and what it promises in return: it acknowledges after the spool's commit only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came. No repr of what it holds (law 8)."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)  # names in lower case; empty where the bus has none
    token: object = field(repr=False)  # the bus' own: what it acknowledges the message by


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came, in the bus' order; `lost` is how many it had dropped (its own limits) before we could take them."""

    messages: Sequence[Message]
    lost: int = 0


class Bus(Protocol):
    """A consumer of one bus, used by one task.

    Every method but `close` raises `SourceAway` when the bus cannot be reached or refuses us; the caller then closes,
    waits, and calls `fetch` again, which connects anew. A `Fetched` is acknowledged before the next is fetched, or the
    bus is closed in between. Foreign errors never get out.
    """

    async def fetch(self, *, messages_max: int, bytes_max: int) -> Fetched:
        """Return what is there now, else wait about a second for it and return nothing.

        Connects when it is not connected. What was delivered and not acknowledged comes again after a `SourceAway`, a
        cancelled fetch or a restart: redelivered is always right, lost never. `bytes_max` is aimed at, for a bus that
        can bound the number alone. Where messages are in order, those of one `Fetched` are.
        """

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the bus that these are kept: all of a `Fetched` at once. Those it has given to others are left alone."""

    async def keep(self, messages: Sequence[Message]) -> None:
        """Tell the bus that these are still in hand, so that it gives them to nobody else; fetches nothing.

        Called every few seconds while the spool cannot take them.
        """

    async def lag(self) -> int | None:
        """Return how many messages the bus holds for us that are not acknowledged; None when it does not know."""

    async def prove(self) -> str:
        """Prove that all is there to fetch and acknowledge, and that we may; takes no message. Return what was found.

        As `fetch` does it makes its group, durable or the like where that is missing.
        """

    async def send(self, body: bytes) -> str:
        """Put one message where `fetch` would take it from; return where, once the bus has it."""

    async def close(self) -> None:
        """Close the connection; what was not acknowledged comes again. Never raises. Idempotent."""
