"""Read the files that settings name."""

from pathlib import Path

from forwarder.errors import RulesInvalid
from forwarder.mapping.link_file import LinkFile, read_link_file
from forwarder.mapping.rules import Rules
from forwarder.settings.settings import Settings


def read_rules(settings: Settings) -> Rules:
    """Return the rules of `FORWARDER_RULES`; none when it is unset. Raises `RulesInvalid`."""
    return Rules.parse(_text(settings.rules), file=str(settings.rules)) if settings.rules else Rules()


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
