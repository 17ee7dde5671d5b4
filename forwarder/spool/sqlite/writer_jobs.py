"""What is handed to the writer thread, and what it tells in return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, Receipt
from forwarder.spool.sqlite.appends import Intake
from forwarder.spool.sqlite.transaction import Transaction


@dataclass(slots=True)
class AppendJob:
    """Envelopes to store. One of the two is called on the event loop's thread."""

    envelopes: Sequence[Envelope]
    on_commit: Callable[[Receipt], None]
    on_rollback: Callable[[SpoolFull | SpoolClosed], None]


@dataclass(slots=True)
class Job:
    """Any other work inside a transaction. Both callbacks run on the event loop's thread.

    `is_settlement`: it is deferred and tried again while the disk is full.
    """

    work: Callable[[Transaction], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    is_settlement: bool = False


@dataclass(slots=True)
class Commit:
    """What the event loop hears of one commit, in the order to take it in."""

    answers: list[tuple[Callable[[Any], None], Any]] = field(default_factory=list)  # to those who appended
    intake: Intake | None = None
    calls: list[tuple[Callable[[Any], None], Any]] = field(default_factory=list)  # to those who asked for other work
    last_sequence: int = 0
    quarantined: list[int] = field(default_factory=list)
    evicted: int = 0
    is_damaged: bool = False  # a page that no event can be blamed for could not be read


@dataclass(frozen=True, slots=True)
class Condition:
    """How the writer is. Replaced whole, read from any thread."""

    refusal: str = ""
    deferred: int = 0  # settlements that wait for the disk
