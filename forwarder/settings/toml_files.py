"""Read the files that settings name."""

from pathlib import Path

from forwarder import __version__
from forwarder.errors import RulesInvalid
from forwarder.mapping.link_file import LinkFile, read_link_file
from forwarder.mapping.outbound import OutboundMapping
from forwarder.settings.settings import Settings


def read_mapping(settings: Settings) -> OutboundMapping:
    """Return the outbound mapping, with the rules of `FORWARDER_RULES`. Raises `RulesInvalid`."""
    read = OutboundMapping(
        version=__version__,
        event_names=settings.event_names,
        events=settings.events,
        rules=_text(settings.rules) if settings.rules else "",
    )
    read.mapper(file=str(settings.rules))  # raises for what is wrong in them
    return read


def read_links(settings: Settings) -> LinkFile:
    """Return the pinned links of `FORWARDER_LINKS`; none when it is unset. Raises `RulesInvalid`."""
    return read_link_file(_text(settings.links), file=str(settings.links)) if settings.links else LinkFile()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # editors put a byte order mark before it
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RulesInvalid(f"{path}: line {line} is no UTF-8 text. Save the file as UTF-8.") from None
    except OSError as error:
        raise RulesInvalid(f"{path}: it cannot be read ({type(error).__name__})") from None
