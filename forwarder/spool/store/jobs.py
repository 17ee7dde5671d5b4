"""What is handed to the writer thread, and what it tells in return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from forwarder.model import Envelope, Receipt
from forwarder.spool.store.intake import Intake
from forwarder.spool.store.transaction import Transaction


@dataclass(slots=True)
class AppendJob:
    """Envelopes to store; `done` hears the receipt, or why not."""

    envelopes: Sequence[Envelope]
    done: Callable[[Receipt], None]
    failed: Callable[[Exception], None]


@dataclass(slots=True)
class Job:
    """Any other work inside a transaction. Both callbacks run on the event loop's thread.

    `must_succeed`: a settlement, kept and tried again while the disk is full. `is_read`: it writes only
    what it finds damaged, so a full disk does not turn it away.
    """

    work: Callable[[Transaction], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    must_succeed: bool = False
    is_read: bool = False


@dataclass(slots=True)
class Notice:
    """What the event loop hears of one commit, in the order to take it in."""

    intake: Intake = field(default_factory=Intake)
    last_sequence: int = 0
    quarantined: list[int] = field(default_factory=list)
    calls: list[tuple[Callable[[Any], None], Any]] = field(default_factory=list)
    yielded: int = 0
    is_damaged: bool = False  # a page that no row can be blamed for could not be read
    is_unsettling: bool = False  # rows were set aside: who followed them must be looked for


@dataclass(frozen=True, slots=True)
class Condition:
    """How the writer is. Replaced whole, read from any thread."""

    refusal: str = ""
    owed: int = 0  # settlements that wait for the disk
