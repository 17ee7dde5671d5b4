"""Read every source once and return `Settings`, or every problem at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from forwarder.errors import SettingsInvalid
from forwarder.settings.names import unknown
from forwarder.settings.otel import read_tracing
from forwarder.settings.proxies import read_proxies
from forwarder.settings.settings import GATHERED, Reading, Settings
from forwarder.settings.sources import SECRETS_DIR, Found, Gathered, Place, gather
from forwarder.settings.together import conflicts


def load(environ: Mapping[str, str], directory: Path, *, is_for_daemon: bool = True) -> Settings:
    """Return the settings of this environment and working directory; see `read`."""
    return read(Place(environ, directory), is_for_daemon=is_for_daemon)


def read(place: Place, *, is_for_daemon: bool = True) -> Settings:
    """Return the settings of a place.

    With `is_for_daemon` False what only the daemon needs (whole routes, a token) may be missing, so that
    commands work from a shell that knows the operator's address alone.

    Raises `SettingsInvalid` with every problem together, one a line, each naming its variable, what is
    wrong (never a secret's value) and what to do.
    """
    return judged(gather(place), place, is_for_daemon=is_for_daemon)


def judged(gathered: Gathered, place: Place, *, is_for_daemon: bool = True) -> Settings:
    """Return the settings that these texts make; raises `SettingsInvalid`."""
    known = Settings.variables()
    ours = {variable: found for variable, found in gathered.found.items() if variable in known}
    settings, wrong = _validated(gathered.sources)
    strangers = unknown(gathered.found.values(), (*known, SECRETS_DIR))
    tracing, untraceable = read_tracing(gathered.found)
    reading = Reading(
        origins=MappingProxyType({variable: found.origin for variable, found in ours.items()}),
        notices=strangers.notices,
        proxies=read_proxies(place.environ),
        tracing=tracing,
        place=place,
    )
    settings = settings.as_read(reading)
    problems = [*gathered.problems, *strangers.problems, *wrong.values()]
    if is_for_daemon:
        problems += [*conflicts(settings, given=ours.keys(), wrong=wrong.keys()), *untraceable]
    if problems:
        raise SettingsInvalid(_report(problems, strangers.notices))
    return settings


def _validated(sources: Sequence[Mapping[str, Found]]) -> tuple[Settings, dict[str, str]]:
    """Return the settings with the wrong ones left at their defaults, and what is wrong with those."""
    try:
        return Settings.model_validate({GATHERED: sources}), {}
    except ValidationError as error:
        wrong = {
            str(detail["loc"][0]): _problem(str(detail["loc"][0]), detail["msg"])
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        }
    right = [{variable: found for variable, found in one.items() if variable not in wrong} for one in sources]
    return Settings.model_validate({GATHERED: right}), wrong


def _problem(variable: str, message: str) -> str:
    field = Settings.model_fields[Settings.variables()[variable]]
    what = message.removeprefix("Value error, ").replace("Input should", "it should", 1)
    return f"{variable}: {what[:1].lower()}{what[1:]}. {field.description}"


def _report(problems: list[str], notices: tuple[str, ...]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    meant = [f"  note: {text}" for text in notices if "did you mean" in text]
    return "\n".join([f"{count} in the settings:", *(f"  - {problem}" for problem in problems), *meant])
