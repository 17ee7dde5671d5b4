"""What can go wrong, named for what happened.

Every error that crosses a room's border is one of these. Foreign exceptions are turned into ours
where the foreign library is called, and nowhere else.
"""

from typing import Final

_AWAY_S: Final = 5


class ForwarderError(Exception):
    """The base of every error of ours; its text never contains a secret or a payload."""


class SettingsInvalid(ForwarderError):
    """The settings cannot be run with; the text lists every problem with its remedy. Exit code 78."""


class RulesInvalid(ForwarderError):
    """A rules or links file is wrong; the text names file, line and key."""


class SpoolLocked(ForwarderError):
    """Another daemon owns the data folder; the text names the folder and the owner's pid."""


class SpoolFull(ForwarderError):
    """The spool's cap or the disk is reached: the sender must come back. Nothing was stored."""

    def __init__(self, reason: str, *, retry_after_s: int) -> None:
        """Keep how long the sender should stay away, in whole seconds."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class SpoolClosed(ForwarderError):
    """The spool is shut or shutting: nothing was stored."""


class SpoolUnusable(ForwarderError):
    """The data folder cannot be opened or is damaged beyond serving; the text says what to do."""


class SpoolTooNew(SpoolUnusable):
    """The spool was made by a version that this one cannot work beside; the text says which to run. Exit code 78."""


class SpoolAway(SpoolFull):
    """The database of the spool cannot be used now; the text names each host and why, never a secret.

    To be treated like a full disk. `is_lasting`: waiting alone does not help; settings or a server must be put right.
    """

    def __init__(self, reason: str, *, is_lasting: bool = False) -> None:
        """Keep whether somebody must do something."""
        super().__init__(reason, retry_after_s=_AWAY_S)
        self.is_lasting = is_lasting


class NoSuchEvent(ForwarderError):
    """No event with that sequence is known to the spool (never was, or its history was purged)."""


class NoAnswer(ForwarderError):
    """An HTTP exchange ended without a whole answer.

    `request_left` tells whether the other side may have seen the request: False (refused
    connection, no DNS, TLS failure) means that it has certainly not taken effect; True (time-out,
    reset, cut-off answer) means that the outcome is unknown. `is_lasting`: something did answer, but not in a
    form that can be read, or a proxy lets nobody through; sent again, the request would be answered so again.
    """

    def __init__(self, reason: str, *, request_left: bool, is_lasting: bool = False) -> None:
        """Keep the reason (a short fixed vocabulary, no payload) and what is known of the effect."""
        super().__init__(reason)
        self.request_left = request_left
        self.is_lasting = is_lasting


class TakenOver(NoAnswer):
    """The exchange was not begun: another replica may have taken over what it is about. That alone is given back."""

    def __init__(self) -> None:
        """Nothing left."""
        super().__init__("another replica may have taken this over", request_left=False)


class SourceAway(ForwarderError):
    """A bus cannot be reached or refuses us: later. The text says why, without a secret; nothing was acknowledged."""


class Unmappable(ForwarderError):
    """This event can never become a call; the text is the reason that is shown with the dead event.

    It may name fields and types, never a value out of the payload.
    """


class WorkerEnded(ForwarderError):
    """A worker returned though nobody drained it: a bug, and the end of the daemon; the text names the worker."""


class DaemonUnreachable(ForwarderError):
    """A command needs the running daemon's operator API and it did not answer; the text says what to do."""
