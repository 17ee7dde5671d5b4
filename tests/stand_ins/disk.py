"""A disk with behaviour under SQLite: it can fill up, break, lie about a sync, and lose its power."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

_SECTOR = 512
_LUCKY = 0.5  # chance that a write which nobody synced reached the disk all the same
_TORN = 0.3  # chance that only a part of it did


class DiskFile(apsw.VFSFile):
    """A file of a `Disk`."""

    def __init__(self, disk: "Disk", name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        filename = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(filename).name

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write, unless the disk is full."""
        if self._disk.is_full or not self._disk.spend(len(data)):
            raise apsw.FullError("injected")
        if self._disk.is_broken:
            raise apsw.IOError("injected")
        self._disk.acts()
        super().xWrite(data, offset)
        self._disk.wrote(self._name, bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        """Truncate."""
        super().xTruncate(newsize)
        self._disk.truncated(self._name, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Make what was written durable, unless the disk lies."""
        self._disk.acts()
        written = self._disk.begin_sync(self._name)
        super().xSync(flags)
        self._disk.synced(self._name, written)


class Disk(apsw.VFS):
    """A disk that keeps apart what was synced. It can be full, and its power can be cut."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.vfs_name = name
        self.is_full = False
        self.is_broken = False
        self.is_lying = False  # says that it synced, but did not
        self.budget_bytes: int | None = None
        self.is_out_of_power = False
        self.on_power_lost: Callable[[], None] | None = None
        self._acts_left: int | None = None
        self._durable: dict[str, bytearray] = {}
        self._unsynced: dict[str, list[tuple[int, bytes | None]]] = {}
        self._done: dict[str, int] = {}  # writes that were synced

    def xOpen(self, name: Any, flags: list[int]) -> DiskFile:  # noqa: N802 - SQLite's name
        """Open a file of this disk."""
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's name
        """Delete a file, for good."""
        super().xDelete(filename, syncdir)
        self._durable.pop(Path(filename).name, None)
        self._unsynced.pop(Path(filename).name, None)

    def spend(self, size: int) -> bool:
        """Take from the budget; False when it is used up."""
        if self.budget_bytes is None:
            return True
        self.budget_bytes -= size
        return self.budget_bytes >= 0

    def wrote(self, name: str, data: bytes, offset: int) -> None:
        """Hear of a write that a power cut would lose."""
        self._unsynced.setdefault(name, []).append((offset, data))

    def truncated(self, name: str, size: int) -> None:
        """Hear of a truncation."""
        self._unsynced.setdefault(name, []).append((size, None))

    def begin_sync(self, name: str) -> int:
        """Return up to which write a sync that begins now makes durable: other threads may write and sync meanwhile."""
        return 0 if self.is_lying else self._done.get(name, 0) + len(self._unsynced.get(name, ()))

    def synced(self, name: str, written: int) -> None:
        """Hear of a sync: what was written before it began is durable now."""
        changes = self._unsynced.get(name, [])
        image = self._durable.setdefault(name, bytearray())
        fresh = max(0, written - self._done.get(name, 0))
        for offset, data in changes[:fresh]:
            _apply(image, offset, data)
        del changes[:fresh]
        self._done[name] = self._done.get(name, 0) + fresh

    def adopt(self, folder: Path) -> None:
        """Take what lies in a folder as synced: a disk that comes back after a cut."""
        files = [file for file in folder.iterdir() if file.is_file()] if folder.exists() else []
        self._durable = {file.name: bytearray(file.read_bytes()) for file in files}

    def lose_power_after(self, acts: int) -> None:
        """Call `on_power_lost` once, on the thread that writes, right before its so-manieth write or sync."""
        self._acts_left = acts

    def acts(self) -> None:
        """Hear that something is about to be written or synced."""
        if self._acts_left is None:
            return
        self._acts_left -= 1
        if self._acts_left <= 0:
            self._acts_left = None
            if self.on_power_lost is not None:
                self.on_power_lost()

    def cut_power(self, folder: Path, dice: random.Random | None = None) -> None:
        """Put what a power cut would have left into a folder: what was synced.

        With dice, also some of what was not, in any choice and cut off at any sector, as a real disk may.
        """
        self.is_out_of_power = True
        folder.mkdir(mode=0o700, parents=True)
        for name in {*list(self._durable), *list(self._unsynced)}:
            if name.endswith("-shm"):
                continue
            image = bytearray(self._durable.get(name, b""))
            for change in list(self._unsynced.get(name, ())) if dice is not None else ():
                if dice is not None and dice.random() < _LUCKY:
                    offset, data = change
                    if data is not None and dice.random() < _TORN:
                        data = data[: dice.randrange(0, len(data) + 1, _SECTOR) or len(data)]
                    _apply(image, offset, data)
            if image or name in self._durable:
                (folder / name).write_bytes(bytes(image))


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    image.extend(bytes(max(0, offset + len(data) - len(image))))
    image[offset : offset + len(data)] = data
