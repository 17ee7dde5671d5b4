"""Where settings come from, in order of precedence, and which of them spoke.

The environment, then `.env` in the working directory, then files of the secrets directory
(`FORWARDER_SECRETS_DIR`), then systemd's credentials (`CREDENTIALS_DIRECTORY`). An empty text is unset.
Absent: what the values mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

PREFIXES = ("FORWARDER_", "COURIER_", "RUDDERSTACK_")
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
class Gathered:
    """What all sources gave together: the winning text of each variable, and which sources failed."""

    found: Mapping[str, Found]
    problems: tuple[str, ...]


def gather(environ: Mapping[str, str], directory: Path) -> Gathered:
    """Read every source; names are compared without regard to case in files, exactly in the environment."""
    problems: list[str] = []
    winners: dict[str, Found] = {}
    own = [*_of_environment(environ), *_of_dotenv(directory / ".env", problems)]
    for found in own:
        winners.setdefault(found.variable, found)
    secrets_dir = winners.pop(SECRETS_DIR, None)
    for kind, variable, folder in (
        ("secrets", SECRETS_DIR, secrets_dir.text if secrets_dir else ""),
        ("credentials", CREDENTIALS_DIR, environ.get(CREDENTIALS_DIR, "")),
    ):
        if folder:
            for found in _of_folder(directory / folder, kind, variable, problems):
                winners.setdefault(found.variable, found)
    return Gathered(winners, tuple(problems))


def _of_environment(environ: Mapping[str, str]) -> Iterator[Found]:
    for variable, text in environ.items():
        if variable.startswith(PREFIXES) and text.strip():
            yield Found(variable, text.strip(), Origin("environment"))


def _of_dotenv(path: Path, problems: list[str]) -> Iterator[Found]:
    if not path.is_file():
        return
    try:
        # No interpolation: a secret may contain a dollar sign.
        read = dotenv_values(path, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f".env: it cannot be read ({type(error).__name__}). Make it a UTF-8 file this user may read.")
        return
    for variable, text in read.items():
        if variable.startswith(PREFIXES) and text and text.strip():
            yield Found(variable, text.strip(), Origin(".env", str(path)))


def _of_folder(folder: Path, kind: str, variable: str, problems: list[str]) -> Iterator[Found]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        problems.append(
            f"{variable}: the folder cannot be listed ({type(error).__name__}). Name a folder this user may read."
        )
        return
    for file in files:
        if not file.name.upper().startswith(PREFIXES) or not file.is_file():
            continue
        try:
            with file.open("rb") as stream:
                text = stream.read(_FILE_BYTES_MAX).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(
                f"{file.name.upper()}: its file in {variable} cannot be read ({type(error).__name__}). "
                "Make it a UTF-8 file this user may read."
            )
            continue
        if text:
            yield Found(file.name.upper(), text, Origin(kind, str(file)))
