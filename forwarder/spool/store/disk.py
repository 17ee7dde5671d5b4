"""The reserve: a file of a few MiB that is given up first when the disk is full, so that settling goes on."""

import contextlib
import os
from pathlib import Path

RESERVE_NAME = "spool.reserve"
_HEADROOM = 2  # times the reserve that must be free before it is rebuilt: or the doors would flap


class Reserve:
    """Disk space held back for settlements. Used by the writer thread only."""

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        self._path = folder / RESERVE_NAME
        self._folder = folder
        self._size = size_bytes

    def give_up(self) -> None:
        """Hand the space back to the disk, if it lets us (it may be read-only by now). Idempotent."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def build(self, *, is_first: bool = False) -> bool:
        """Take the space; False where the disk has too little for it. True at once when it is held already.

        Rebuilding asks for twice the size to be free; the `is_first` one does not.
        """
        try:
            if self._path.exists() and self._path.stat().st_size == self._size:
                return True
            if not is_first and self._free_bytes() < self._size * _HEADROOM:
                return False
            self._allocate()
        except OSError:
            self.give_up()
            return False
        return True

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
