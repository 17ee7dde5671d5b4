"""The first instructions of the process: standard streams that are open, and no signal that is lost.

Loads nothing else of ours: what comes after takes a second to load, and a container's manager may end us in it.
"""

import codecs
import io
import os
import signal
import sys
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_ESCAPING = "forwarder.escaping"
_DAEMON_VERBS = ("run", "demo")


class EarlyStop:
    """What TERM, INT and QUIT do until the daemon takes them over: the first is kept, a second one ends it."""

    def __init__(self) -> None:
        self.is_asked = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if self.is_asked:
            os._exit(128 + number)
        self.is_asked = True


def begin(arguments: list[str]) -> None:
    """Prepare the process that was called with these arguments. To be called once, before anything else is loaded."""
    open_standard_streams()
    if arguments[:1] and arguments[0] in _DAEMON_VERBS:
        # Process 1 of a container does not even get a signal that it has no handler for.
        early = EarlyStop()
        for number in _STOPPING:
            signal.signal(number, early)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def is_asked(early: object) -> bool:
    """Tell whether this handler, which was there before anybody listened, kept a signal that stops."""
    return isinstance(early, EarlyStop) and early.is_asked


def open_standard_streams() -> None:
    """Open /dev/null where 0, 1 or 2 is closed, or a socket or the spool would be opened there and written to.

    What a stream's encoding lacks is written as JSON would escape it, so that a name in an event ends no command.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it stays open for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  it stays open for good
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  it stays open for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPING)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end


codecs.register_error(_ESCAPING, _escaped)
