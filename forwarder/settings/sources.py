"""Where settings come from, in order of precedence, and which of them spoke.

The environment, then `.env` in the working directory, then files of the secrets directory
(`FORWARDER_SECRETS_DIR`), then systemd's credentials (`CREDENTIALS_DIRECTORY`). An empty text is unset.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

PREFIXES = ("FORWARDER_", "COURIER_", "RUDDERSTACK_")
OTEL_PREFIX = "OTEL_"  # OpenTelemetry's own names: read with ours, judged by `otel` alone
SECRETS_DIR = "FORWARDER_SECRETS_DIR"
CREDENTIALS_DIR = "CREDENTIALS_DIRECTORY"
_FILE_BYTES_MAX = 1_048_576


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: `kind` is environment, .env, secrets, credentials or default."""

    kind: str
    path: str = ""

    def __str__(self) -> str:
        """Name the source as people know it."""
        return f"{self.kind} ({self.path})" if self.path else self.kind


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Found:
    """One text that a source gave. No repr of the text: it may be a secret."""

    variable: str
    text: str
    origin: Origin

    def __repr__(self) -> str:
        """Show the variable and its source alone."""
        return f"Found({self.variable} from {self.origin})"


@dataclass(frozen=True, slots=True)
class Place:
    """What a process reads its settings from. No repr of the environment: it may hold secrets.

    `credentials` are files by variable, beside those of CREDENTIALS_DIRECTORY: what a unit would be given.
    """

    environ: Mapping[str, str] = field(repr=False)
    directory: Path
    credentials: Mapping[str, Path] = field(default_factory=dict)


class TextSource(PydanticBaseSettingsSource):
    """A source as pydantic-settings asks for it: the text of each field that one place gave."""

    def __init__(self, settings_cls: type[BaseSettings], found: Mapping[str, Found]) -> None:
        super().__init__(settings_cls)
        self._found = found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the field's text (None: not given) and its variable; see pydantic-settings."""
        variable = field.alias or field_name
        return (self._found[variable].text if variable in self._found else None), variable, False

    def __call__(self) -> dict[str, Any]:
        """Return what is given, by variable."""
        asked = (self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items())
        return {variable: text for text, variable, _ in asked if text is not None}


@dataclass(frozen=True, slots=True)
class Gathered:
    """What each source gave, the first to win, and which sources failed."""

    sources: tuple[Mapping[str, Found], ...]
    problems: tuple[str, ...]

    @property
    def found(self) -> Mapping[str, Found]:
        """Return the text that wins for each variable."""
        return ChainMap(*map(dict, self.sources))


def gather(place: Place) -> Gathered:
    """Read every source; names are compared without regard to case in files, exactly in the environment."""
    problems: list[str] = []
    environment = _by_variable(_of_environment(place.environ))
    dotenv = _by_variable(_of_dotenv(place.directory / ".env", problems))
    folder = (environment.pop(SECRETS_DIR, None), dotenv.pop(SECRETS_DIR, None))
    secrets_dir = next((one.text for one in folder if one), None)
    credentials_dir = place.environ.get(CREDENTIALS_DIR)
    files = (
        _of_folder(place.directory, secrets_dir, "secrets", SECRETS_DIR, problems),
        _of_folder(place.directory, credentials_dir, "credentials", CREDENTIALS_DIR, problems),
        _of_files(place.credentials.items(), "credentials", "LoadCredential", problems),
    )
    return Gathered((environment, dotenv, *map(_by_variable, files)), tuple(problems))


def _by_variable(found: Iterable[Found]) -> dict[str, Found]:
    return {one.variable: one for one in found}


def _of_environment(environ: Mapping[str, str]) -> Iterator[Found]:
    for variable, text in environ.items():
        if text.strip():
            yield Found(variable, text.strip(), Origin("environment"))


def _of_dotenv(path: Path, problems: list[str]) -> Iterator[Found]:
    try:
        if not path.is_file():
            return
        # No interpolation: a secret may contain a dollar sign. An editor's byte order mark would hide the first name.
        read = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f".env: it cannot be read ({type(error).__name__}). Make it a UTF-8 file this user may read.")
        return
    for variable, text in read.items():
        if text and text.strip():
            yield Found(variable, text.strip(), Origin(".env", str(path)))


def _of_folder(base: Path, folder: str | None, kind: str, variable: str, problems: list[str]) -> Iterator[Found]:
    if not folder:
        return
    try:
        files = [file for file in sorted((base / folder).iterdir()) if _is_ours(file.name) and file.is_file()]
    except OSError as error:
        problems.append(
            f"{variable}: the folder cannot be listed ({type(error).__name__}). Name a folder this user may read."
        )
        return
    yield from _of_files([(file.name.upper(), file) for file in files], kind, variable, problems)


def _is_ours(name: str) -> bool:
    return name.upper().startswith((*PREFIXES, OTEL_PREFIX))


def _of_files(files: Iterable[tuple[str, Path]], kind: str, where: str, problems: list[str]) -> Iterator[Found]:
    for variable, file in files:
        try:
            with file.open("rb") as stream:
                text = stream.read(_FILE_BYTES_MAX).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(
                f"{variable}: its file in {where} cannot be read ({type(error).__name__}: {file}). "
                "Make it a UTF-8 file that this user may read."
            )
            continue
        if text:
            yield Found(variable, text, Origin(kind, str(file)))
