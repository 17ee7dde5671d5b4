"""Keep a second daemon out of the data folder. The kernel drops the lock when its owner dies."""

import contextlib
import fcntl
import os
from pathlib import Path

from forwarder.errors import SpoolLocked

LOCK_NAME = "spool.lock"


class FolderLock:
    """An exclusive lock on the folder, with the owner's pid in it for people."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise `SpoolLocked` naming the folder and the owner's pid."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise SpoolLocked(
                f"{self._path.parent} is in use by another forwarder (pid {owner}): stop it first, "
                "or give this one a FORWARDER_DATA_DIR of its own"
            ) from None
        self._descriptor = descriptor
        self._write_pid(descriptor)

    def release(self) -> None:
        """Give the lock back; the file stays, empty of an owner. Idempotent."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a disk that became read-only keeps the pid; the lock goes all the same
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None

    @staticmethod
    def _write_pid(descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError:
            # A full disk: the lock itself holds, only its owner's pid is not shown.
            return
