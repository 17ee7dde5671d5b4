"""The settings that a systemd unit would give the daemon: its environment, its files, its credentials.

Reads the unit's text (`systemctl cat`, or a file), not the running process: what is checked is the next start.
"""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from forwarder.errors import SettingsInvalid
from forwarder.settings import Place

_TIMEOUT_S = 10
# Where a credential without an absolute path is looked for (systemd.exec(5)).
_CREDENTIAL_STORES = (Path("/etc/credstore"), Path("/run/credstore"), Path("/usr/lib/credstore"))


def place_of(unit: str) -> Place:
    """Return where the daemon of this unit (a name, or the path of a unit file) finds its settings.

    Raises `SettingsInvalid` when there is no such unit, or when a file that it needs is missing or cannot be read.
    """
    environ: dict[str, str] = {}
    of_files: dict[str, str] = {}  # which override the others, wherever they stand
    credentials: dict[str, Path] = {}
    fallbacks: set[str] = set()  # credentials that count as unset when their files are not there
    directory = Path("/")
    for key, value in _assignments(_text_of(unit)):
        match key:
            case "Environment":
                environ = environ | _pairs(_words(unit, value)) if value else {}
            case "EnvironmentFile" if value:
                of_files |= _environment_file(value)
            case "LoadCredential" if value:
                name, _, path = value.partition(":")
                credentials[name.upper()] = _credential(path or name)
            case "SetCredential" if value.partition(":")[2].replace("\\n", "").strip() == "":
                fallbacks.add(value.partition(":")[0].upper())
            case "LoadCredentialEncrypted" | "SetCredentialEncrypted" | "SetCredential" if value:
                raise SettingsInvalid(f"{unit}: {key} cannot be read here. Check it from inside the unit.")
            case "WorkingDirectory" if value:
                directory = Path(value.lstrip("-"))
    given = {name: path for name, path in credentials.items() if name not in fallbacks or not _is_missing(path)}
    return Place(environ | of_files, directory, given)


def _text_of(unit: str) -> str:
    try:
        if "/" in unit:
            return Path(unit).read_text("utf-8")
        asked = subprocess.run(  # noqa: S603  no shell, and the name follows "--"
            ["systemctl", "cat", "--no-pager", "--", unit],  # noqa: S607  wherever this system has it
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        raise SettingsInvalid(f"{unit}: the unit cannot be read ({type(error).__name__})") from None
    if asked.returncode:
        raise SettingsInvalid(f"{unit}: systemd does not know the unit: {asked.stderr.strip()}")
    return asked.stdout


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of the [Service] sections, drop-ins included, in their order."""
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped
        elif section == "[Service]" and not stripped.startswith(("#", ";")):
            key, separator, value = stripped.partition("=")
            if separator:
                yield key.strip(), value.strip()


def _words(unit: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        raise SettingsInvalid(f"{unit}: a line Environment= has a quote that is not closed") from None


def _environment_file(value: str) -> dict[str, str]:
    """Read a file of variables; a minus before its path says that it may be missing."""
    path = Path(value.lstrip("-"))
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if value.startswith("-"):
            return {}
        raise SettingsInvalid(f"{path}: the unit's EnvironmentFile is missing. Write it, or the unit fails.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"{path}: the unit's EnvironmentFile cannot be read ({type(error).__name__}): try it with sudo"
        ) from None
    lines = (line.strip() for line in text.replace("\\\n", "").splitlines())
    return _pairs([_unquoted(line) for line in lines if line and not line.startswith(("#", ";"))])


def _unquoted(line: str) -> str:
    """Take the quotes off a value as systemd does; what is behind an unquoted one stays."""
    name, _, value = line.partition("=")
    quoted = value.strip()
    if quoted[:1] in ("'", '"'):
        try:
            quoted = "".join(shlex.split(quoted))
        except ValueError:
            quoted = quoted[1:]
    return f"{name.strip()}={quoted}"


def _pairs(words: list[str]) -> dict[str, str]:
    return {name: value for name, separator, value in (word.partition("=") for word in words) if separator}


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except PermissionError:
        return False  # what cannot be looked at is told when it is read: "try it with sudo"


def _credential(path: str) -> Path:
    if path.startswith("/"):
        return Path(path)
    return next((store / path for store in _CREDENTIAL_STORES if (store / path).exists()), _CREDENTIAL_STORES[0] / path)
