"""Settings whose text is one word of a few, several of many, or the path of a file.

Each parser says what is wrong; where a word is nearly right it says which one was meant.
"""

import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler

from forwarder.mapping.selection import unknown_events
from forwarder.model import RouteName
from forwarder.settings.names import did_you_mean
from forwarder.settings.values import names


def word(text: str, judge: ValidatorFunctionWrapHandler) -> Any:
    """Judge a `Literal` in whatever case it is written; say which word was meant."""
    asked = text.strip().casefold()
    try:
        return judge(asked)
    except ValidationError as error:
        words = re.findall(r"'([^']+)'", error.errors()[0]["ctx"]["expected"])
        raise ValueError(f"it is none of {', '.join(words)}{did_you_mean(asked, words)}") from None


def route_names(text: str) -> tuple[RouteName, ...]:
    """Read the names of the routes that shall run, each once, in the order of the house."""
    known = [route.value for route in RouteName]
    asked = [part.strip().casefold() for part in text.split(",") if part.strip()]
    if not asked:
        raise ValueError("it holds no name between its commas")
    for name in asked:
        if name not in known:
            raise ValueError(f"it names an unknown route{did_you_mean(name, known)}")
    return tuple(route for route in RouteName if route.value in asked)


def event_words(text: str) -> tuple[str, ...]:
    """Read which events go out: words that the outbound mapping knows."""
    words = names(text)
    if problems := unknown_events(words):
        raise ValueError("; ".join(problems))
    return words


def readable_file(path: Path) -> Path:
    """Return the path if there is a file that can be read."""
    if not path.is_file():
        raise ValueError("there is no such file")
    if not os.access(path, os.R_OK):
        raise ValueError("the file cannot be read by this user")
    return path
