"""Does what the data folder lies on outlive the process? Acknowledged events are lost with it otherwise."""

import re
from pathlib import Path

from forwarder.settings.settings import Settings
from forwarder.settings.together import cap_doubts
from forwarder.spool.sqlite.database import DATABASE_NAME

MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
_ANONYMOUS = re.compile(r"/volumes/[0-9a-f]{64}(/_data)?$")  # how Docker and Podman name what nobody named
_OCTAL = re.compile(r"\\([0-7]{3})")


def start_doubts(settings: Settings) -> list[str]:
    """Return what the daemon says at its start: names not read, a cap without room, a data folder that may vanish."""
    is_asked = settings.reading.place is not None and settings.spool == "sqlite"
    volume = volume_doubt(settings.data_dir) if is_asked else None
    left = left_behind(settings.data_dir) if settings.spool == "postgres" else None
    return [*settings.reading.notices, *cap_doubts(settings), *(doubt for doubt in (volume, left) if doubt)]


def left_behind(folder: Path) -> str | None:
    """Return that a spool on SQLite lies there, of no use to a daemon on Postgres, with the remedy; None for none."""
    try:
        if not (folder / DATABASE_NAME).exists():
            return None
    except OSError:  # not ours to look into
        return None
    return (
        f"FORWARDER_DATA_DIR ({folder}) holds a spool that FORWARDER_SPOOL=postgres does not read: what waits in it is "
        "not delivered. Into an empty database `forwarder migrate --to postgres` moves it; else let a daemon with "
        f"FORWARDER_SPOOL=sqlite deliver it. Then move {DATABASE_NAME} away."
    )


def volume_doubt(folder: Path) -> str | None:
    """Return why events in the folder may vanish, with the remedy; None when nothing speaks for that."""
    root, kind = _mount_of(folder.absolute())
    if kind in ("tmpfs", "ramfs"):
        where, when = f"in memory ({kind})", "when the machine or the container stops"
    elif kind == "overlay":
        where, when = "in the container's own layer", "when the container is removed"
    elif _ANONYMOUS.search(root):
        where, when = "an anonymous volume", "with `docker run --rm` and `docker rm -v`"
    else:
        return None
    return (
        f"FORWARDER_DATA_DIR ({folder}) is {where}: acknowledged events that wait are lost {when}. "
        "Put it on a disk, or on a volume with a name (-v forwarder-data:/data)."
    )


def _mount_of(folder: Path) -> tuple[str, str]:
    """Return the root within its file system, and the file system's kind, of the mount that holds the folder."""
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux
        return "", ""
    deepest, found = -1, ("", "")
    for line in lines:
        mounted, _, file_system = line.partition(" - ")
        root, point = (_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), text) for text in mounted.split(" ")[3:5])
        # Of several mounts on one point the last one shows.
        if folder.is_relative_to(point) and len(Path(point).parts) >= deepest:
            deepest, found = len(Path(point).parts), (root, file_system.partition(" ")[0])
    return found
