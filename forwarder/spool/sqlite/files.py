"""The files beside the database: lock and reserve, and whether all are still the ones that were opened."""

import contextlib
import fcntl
import os
from pathlib import Path

from forwarder.errors import SpoolLocked
from forwarder.spool.sqlite.faults import DISK_FULL, foreign_owner, is_no_room, unusable

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
        self._known = [(path, _identity(path)) for path in paths]

    def fault(self) -> str:
        """Return which of them is gone or another, and what to do; "" while all is well."""
        for path, known in self._known:
            found = _identity(path)
            if found == known:
                continue
            what = "was deleted" if found is None else "was replaced"
            return (
                f"{path} {what} under the running daemon: what is stored now would be lost. Put the file back, or let "
                "this daemon deliver what waits, stop it and start it again; copy and move the folder only when stopped"
            )
        return ""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - asked at every commit
    except OSError:
        return None
    return status.st_dev, status.st_ino
