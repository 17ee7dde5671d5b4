"""What errors of SQLite and of the disk mean, and what people are told of them."""

import errno
import os
import pwd
from pathlib import Path

import apsw

from forwarder.errors import SpoolUnusable

RETRY_AFTER_S = 10
# Busy: somebody else's tool holds the database; read-only: the disk was remounted. Both may pass.
DISK_ERRORS = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.BusyError, apsw.LockedError, apsw.ReadOnlyError)
DAMAGE_ERRORS = (apsw.CorruptError, apsw.NotADBError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL = "the disk is full"


def words(error: Exception) -> str:
    """Say why nothing can be written, with the remedy where it is not room on the disk."""
    if isinstance(error, apsw.FullError):
        return DISK_FULL
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return "another process has locked the database: end the sqlite3 shell or the backup that reads spool.db"
    if isinstance(error, DISK_ERRORS):
        return "the disk cannot be written"
    if isinstance(error, DAMAGE_ERRORS):
        return (
            "the database is damaged: stop the daemon, keep a copy of its folder, then restore it from a backup "
            "or recover it with `sqlite3 spool.db .recover`"
        )
    return f"a settlement cannot be written ({type(error).__name__}): please report it; a restart may help"


def is_no_room(error: OSError) -> bool:
    """Tell whether there is no room on the disk, or in the quota."""
    return error.errno in _NO_ROOM


def unusable(path: Path, error: Exception) -> SpoolUnusable:
    """Say what to do about a file or a folder that cannot be opened."""
    if isinstance(error, (*DAMAGE_ERRORS, TypeError, ValueError)):  # damage can change a value's type, too
        return SpoolUnusable(
            f"{path} is damaged ({error}): keep a copy, restore it from a backup or recover it with "
            "`sqlite3 spool.db .recover`, or move the folder away to start empty"
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return SpoolUnusable(f"{path} cannot be opened: {words(error)}")
    if isinstance(error, apsw.FullError) or (isinstance(error, OSError) and is_no_room(error)):
        return SpoolUnusable(f"{path} cannot be opened: {DISK_FULL}, and no reserve is left in the folder: make room")
    foreign = foreign_owner(path)
    if foreign:
        return SpoolUnusable(f"{path} cannot be used ({_short(error)}): {foreign}")
    return SpoolUnusable(
        f"{path} cannot be opened ({_short(error)}): check its mode, the folder's and the disk, or give "
        "FORWARDER_DATA_DIR a folder that this user may write"
    )


def foreign_owner(path: Path) -> str:
    """Name the owner of a file or of the folder that it would be made in, and the remedy, if it is not us."""
    for place in (path, *path.parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        us = os.geteuid()
        if us in (owner, 0):
            return ""
        return (
            f"{place} belongs to {_name(owner)} and this process runs as {_name(us)}: "
            f"`chown -R {us} {place if place != path or place.is_dir() else place.parent}`, or run it as its owner"
        )
    return ""


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _short(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
