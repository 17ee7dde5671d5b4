"""Which events go out at all: `native`, `all`, or a list of names, statuses and types.

Nothing is dropped by it in silence: what it does not admit ends `filtered`, with the reason.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from forwarder.courier import vocabulary
from forwarder.mapping.channel_names import ALL_NAMES

NOT_SELECTED = "not among FORWARDER_EVENTS"

_NATIVE_TYPES = frozenset({vocabulary.AUDIENCE_MATCHED, vocabulary.AUDIENCE_UNMATCHED})
# Named by older documentation of Courier's only.
_OLDER_STATUSES = ("FAILED", "PROCESSED")
_KNOWN = (
    "native",
    "all",
    *vocabulary.STATUSES,
    *_OLDER_STATUSES,
    vocabulary.MESSAGE_UPDATED,
    *vocabulary.TYPE_NAMES,
    *vocabulary.TYPE_NAMES.values(),
    *(vocabulary.message_name(status) for status in (*vocabulary.STATUSES, *_OLDER_STATUSES)),
    *sorted(ALL_NAMES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSelection:
    """What FORWARDER_EVENTS admits. Words are compared without regard to case."""

    is_all: bool
    is_native: bool  # the six statuses and two audience events that Courier itself exports
    words: frozenset[str]  # folded

    @classmethod
    def of(cls, words: Sequence[str]) -> "EventSelection":
        """Make the selection out of the setting's words; raises `ValueError` that lists every unknown one."""
        if problems := unknown_events(words):
            raise ValueError("; ".join(problems))
        folded = frozenset(word.casefold() for word in words)
        return cls(is_all="all" in folded, is_native="native" in folded, words=folded - {"all", "native"})

    def admits(self, *, kind: str, status: str, names: Sequence[str]) -> bool:
        """Tell whether an event goes out; `names` are what it is called, by either set of names."""
        if self.is_all:
            return True
        is_message = kind == vocabulary.MESSAGE_UPDATED
        if self.is_native and (status in vocabulary.NATIVE_STATUSES if is_message else kind in _NATIVE_TYPES):
            return True
        if not self.words:
            return False
        asked = (kind, status if is_message else "", *names)
        return any(word.casefold() in self.words for word in asked)


def unknown_events(words: Sequence[str]) -> list[str]:
    """Return what is wrong with the words, each with what was probably meant; empty when all are known."""
    known = {word.casefold(): word for word in _KNOWN}
    return [_problem(word, known) for word in words if word.casefold() not in known]


def _problem(word: str, known: dict[str, str]) -> str:
    near = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.6)
    remedy = f"did you mean {known[near[0]]}?" if near else "give native, all, or event names, statuses or types"
    return f"unknown event {word} ({remedy})"
