"""Change the links of a daemon: check, keep, then put in force.

In the words of file, command line and API (`link_of`). Where they are kept is handed in, the spool's
`put` and `get`. Not safe for concurrent changes: the one that serves people takes turns.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from forwarder.mapping.link_file import LinkFile, link_of, words_of, write_links
from forwarder.mapping.link_table import STORE_KEY, LinkTable, decode_links, encode_links
from forwarder.mapping.links import LinkInvalid, Links


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own, durable."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep the value under the key."""

    async def get(self, key: str) -> bytes | None:
        """Return what was kept, or None."""


class LinkStore:
    """The pinned and the stored links, and the only way to change the latter."""

    def __init__(self, table: LinkTable, memory: Memory) -> None:
        self.table = table
        self._memory = memory

    @classmethod
    async def load(cls, memory: Memory, pinned: LinkFile | None = None) -> Self:
        """Return the store as it was kept; raises `LinkInvalid` when what was kept cannot be read."""
        return cls(LinkTable(pinned, decode_links(await memory.get(STORE_KEY))), memory)

    def rows(self) -> Sequence[Mapping[str, object]]:
        """Return every link in force, in order, each saying whether it is `pinned`."""
        return [{**words_of(link), "pinned": self.table.is_pinned(link)} for link in self.table.links()]

    def export(self) -> str:
        """Return every link in force as a file for `FORWARDER_LINKS`."""
        return write_links(self.table.links())

    async def change(
        self, *, add: Sequence[Mapping[str, str]] = (), remove: Sequence[Mapping[str, str]] = ()
    ) -> tuple[int, int]:
        """Take links out and put links in, all or none, durable; return how many were added and removed.

        What is there already is not added again. Raises `LinkInvalid` for a link that cannot be or is not
        there, `LinkPinned` for one that the file holds.
        """
        before = self.table.stored
        changed = LinkTable(self.table.file, before)
        for words in remove:
            link = link_of(words)
            if link not in changed.links():
                raise LinkInvalid("link", "there is no such link; `links list` shows them all")
            changed.replace_stored(changed.without(link))
        for words in add:
            changed.replace_stored(changed.with_link(link_of(words)))
        await self._keep(changed.stored)
        after = changed.stored
        return len(set(after) - set(before)), len(set(before) - set(after))

    async def _keep(self, stored: Links) -> None:
        if stored != self.table.stored:
            await self._memory.put(STORE_KEY, encode_links(stored))
            self.table.replace_stored(stored)
