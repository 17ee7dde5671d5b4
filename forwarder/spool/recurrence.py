"""Tell a resend from a new occurrence of an event that carries neither id nor time.

Pure. An equal event within `resend_s` of its last copy is a resend (the vendor's longest gap between
two attempts is shorter). A later one, within `resend_max_s`, is a resend too unless the opposite event
of the same subject came in since this occurrence began: a user who entered an audience must have left
it before entering again.
"""

from dataclasses import dataclass
from hashlib import blake2b

from forwarder.model import Recurrence

_SET_BACK_MS = 60_000  # what requests that overtake each other, and a clock that is corrected, may differ by


@dataclass(slots=True)
class Occurrence:
    """The newest occurrence of one base key."""

    first_sequence: int
    last_copy_ms: int


def is_resend(
    recurrence: Recurrence, known: Occurrence | None, *, opposite_sequence: int | None, received_at_ms: int
) -> bool:
    """Tell whether an arrival is another copy of the known occurrence.

    `opposite_sequence` is the first arrival of the newest opposite occurrence of the same subject.
    """
    if known is None:
        return False
    age_ms = received_at_ms - known.last_copy_ms
    if age_ms < -_SET_BACK_MS:
        return False  # the clock was set back since: how long ago the last copy came is not known
    if age_ms <= recurrence.resend_s * 1000:
        return True
    if recurrence.subject is None or age_ms > recurrence.resend_max_s * 1000:
        return False
    return opposite_sequence is None or opposite_sequence < known.first_sequence


def occurrence_key(base_key: bytes, first_sequence: int) -> bytes:
    """Return the true 16-byte key of the occurrence that began with this sequence."""
    return blake2b(base_key + first_sequence.to_bytes(8, "big"), digest_size=16).digest()
