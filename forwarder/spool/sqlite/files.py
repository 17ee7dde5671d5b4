"""The files beside the database, whether all are still the ones that were opened, and what faults of the disk mean."""

import contextlib
import errno
import fcntl
import os
import pwd
from pathlib import Path

import apsw

from forwarder.errors import SpoolLocked, SpoolUnusable

DISK_RETRY_AFTER_S = 10
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


LOCK_NAME = "spool.lock"
RESERVE_NAME = "spool.reserve"
_HEADROOM = 2  # times the reserve that must be free before it is rebuilt: or acceptance would flap


class FolderLock:
    """An exclusive lock on the folder, with its owner's pid for people. The kernel drops it when its owner dies."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; raises `SpoolLocked` naming the folder and the owner's pid, or `SpoolUnusable`."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise SpoolLocked(
                f"{self.path.parent} is in use by another forwarder (pid {owner}): stop it first, "
                "or give this one a FORWARDER_DATA_DIR of its own"
            ) from None
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock itself holds, only its owner's pid is not shown
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Give the lock back; the file stays, empty of an owner. Idempotent."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a disk that became read-only keeps the pid; the lock goes all the same
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None


class Reserve:
    """Disk space held back for settlements. Used by the writer thread, and while it does not run yet."""

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        self._path = folder / RESERVE_NAME
        self._folder = folder
        self._size = size_bytes

    def give_up(self) -> None:
        """Hand the space back to the disk, if it lets us (it may be read-only by now). Idempotent."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def build(self, *, is_first: bool = False) -> str:
        """Take the space; return why it cannot be taken, "" when it is held.

        Rebuilding asks for twice the size to be free; the `is_first` one does not.
        """
        try:
            if self._path.exists() and self._path.stat().st_size == self._size:
                return ""
            if not is_first and self._free_bytes() < self._size * _HEADROOM:
                return DISK_FULL
            self._allocate()
        except OSError as error:
            if is_no_room(error):
                self.give_up()
                return DISK_FULL
            remedy = foreign_owner(self._path) or "remove it, or check its mode and the folder's"
            return f"the reserve {self._path} cannot be written ({error.strerror}): {remedy}"
        return ""

    def _free_bytes(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Not a hole: the space must really be taken.
            os.posix_fallocate(descriptor, 0, self._size)
        finally:
            os.close(descriptor)


class FileWatch:
    """Tell whether the open files are still the ones with those names: what is written to others is lost at the end."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        """Note which files these are; raises OSError where one cannot be looked at."""
        self._known = [(os.fspath(path), _identity(os.fspath(path))) for path in paths]

    def fault(self) -> str:
        """Return which of them is gone or another, and what to do; "" while all is well."""
        for path, known in self._known:
            try:
                found = _identity(path)
            except OSError as error:
                return (
                    f"{path} cannot be looked at ({error.strerror}): whether a restart would find what is stored now "
                    "is not known. Check the disk, and the modes of the folders above it"
                )
            if found == known:
                continue
            what = "was deleted" if found is None else "was replaced"
            return (
                f"{path} {what} under the running daemon: what is stored now would be lost. Put the file back, or let "
                "this daemon deliver what waits, stop it and start it again; copy and move the folder only when stopped"
            )
        return ""


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - asked at every commit
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
