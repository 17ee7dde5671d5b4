"""Move a spool: part after part, in steps that are each one transaction of the target, with a mark of how far it is.

Killed at any moment, it goes on from the last step when it is run again. The order at the end matters: counted, then
the source is put away, then the target is opened. So at no moment could daemons start on both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from forwarder.spool.migration.two_ends import PARTS, Counts, Mark, MigrationFailed, Source, Target, differences


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved (empty where that was told before), and what the source is called now."""

    counts: Counts
    retired: str


async def move(source: Source, target: Target, *, tell: Callable[[str, int], None]) -> Moved:
    """Move all of it; `tell` hears of each step the part and how many rows. Raises `MigrationFailed`."""
    counts: Counts = {}
    if not await target.is_counted():
        counts = await _copied(source, target, tell)
        await target.note_counted()
    retired = await source.retire()
    await target.publish()
    return Moved(counts, retired)


async def _copied(source: Source, target: Target, tell: Callable[[str, int], None]) -> Counts:
    mark = await target.begin(await source.shape())
    while mark.part < len(PARTS):
        part = PARTS[mark.part]
        rows, cursor = await source.read(part, mark.cursor)
        mark = Mark(mark.part + 1, None) if cursor is None else Mark(mark.part, cursor)
        await target.write(part, rows, mark)
        tell(part, len(rows))
    counts = await source.counts()
    if wrong := differences(counts, await target.counts()):
        raise MigrationFailed(
            f"what was copied does not agree ({'; '.join(wrong)}): nothing was changed at the source, and a daemon may "
            "start on it. If one ran on it meanwhile, remove what was copied and begin anew; else please report it"
        )
    return counts
