"""All links in force, the pinned ones of the file and the stored ones, and the only way to change the latter.

A change is in the words of file, command line and API (`link_of`): checked, kept, then put in force. Where it is kept
is handed in, the spool: of several replicas one changes them at a time, and each hears of it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, Self

import msgspec

from forwarder.errors import RulesInvalid
from forwarder.mapping.link_file import LinkFile, link_of, words_of, write_links
from forwarder.mapping.links import Link, LinkInvalid, Links

STORE_KEY: Final = "links"  # under which the spool keeps the stored links
ENCODED_BYTES_MAX: Final = 4_194_304  # what the spool keeps at most


class LinkPinned(RulesInvalid):
    """The link comes from the file and is changed there."""


class LinkTable:
    """The links of one daemon. Hand `links` to the mapper as a method: it is asked at every event."""

    def __init__(self, pinned: LinkFile | None = None, stored: Links | None = None) -> None:
        self.file = pinned or LinkFile()
        self._stored = stored or Links()
        self._links = self.file.links.joined(self._stored)

    def links(self) -> Links:
        """Return all links in force, pinned ones first."""
        return self._links

    @property
    def stored(self) -> Links:
        """Return the links that can be changed."""
        return self._stored

    def is_pinned(self, link: Link) -> bool:
        """Tell whether the link comes from the file."""
        return link in self.file.links

    def with_link(self, link: Link) -> Links:
        """Return the stored links and that one; a pinned one is not stored again. Raises `LinkInvalid`."""
        stored = self._stored if self.is_pinned(link) else self._stored.with_link(link)
        self.file.links.joined(stored)  # raises for too many, together with the pinned ones
        return stored

    def without(self, link: Link) -> Links:
        """Return the stored links but that one; raises `LinkPinned` for a pinned one."""
        if self.is_pinned(link) and link not in self._stored:
            raise LinkPinned("this link is pinned in the file of FORWARDER_LINKS; take it out there")
        return self._stored.without(link)

    def replace_stored(self, stored: Links) -> None:
        """Put these stored links in force; they are on disk already."""
        self._stored = stored
        self._links = self.file.links.joined(stored)


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own, durable."""

    async def get(self, key: str) -> bytes | None:
        """Return what was kept, or None."""

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace it by what `change` makes of it; see `ports.Spool.change`."""

    def watch(self, key: str, heard: Callable[[bytes], None]) -> None:
        """Have `heard` called when another replica changed it."""


class LinkStore:
    """The pinned and the stored links, and the only way to change the latter."""

    def __init__(self, table: LinkTable, memory: Memory) -> None:
        self.table = table
        self._memory = memory

    @classmethod
    async def load(cls, memory: Memory, pinned: LinkFile | None = None) -> Self:
        """Return the store as it was kept; raises `LinkInvalid` when what was kept cannot be read."""
        store = cls(LinkTable(pinned, decode_links(await memory.get(STORE_KEY))), memory)
        memory.watch(STORE_KEY, store._hear)
        return store

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
        counts = 0, 0

        def changed(kept: bytes | None) -> bytes:
            nonlocal counts
            before = decode_links(kept)
            after = LinkTable(self.table.file, before)
            for words in remove:
                link = link_of(words)
                if link not in after.links():
                    raise LinkInvalid("link", "there is no such link; `links list` shows them all")
                after.replace_stored(after.without(link))
            for words in add:
                after.replace_stored(after.with_link(link_of(words)))
            counts = len(set(after.stored) - set(before)), len(set(before) - set(after.stored))
            return encode_links(after.stored)

        self.table.replace_stored(decode_links(await self._memory.change(STORE_KEY, changed)))
        return counts

    def _hear(self, kept: bytes) -> None:
        """Take what another replica made of the stored links; what a later version keeps is left alone."""
        with suppress(LinkInvalid):
            self.table.replace_stored(decode_links(kept))


def encode_links(links: Links) -> bytes:
    """Return what the spool keeps; raises `LinkInvalid` when it would be too much."""
    encoded = msgspec.json.encode([words_of(link) for link in links])
    if len(encoded) > ENCODED_BYTES_MAX:
        raise LinkInvalid("link", "too many links with long names to be stored")
    return encoded


def decode_links(encoded: bytes | None) -> Links:
    """Return what `encode_links` encoded; no links for None. Raises `LinkInvalid` for anything else."""
    if not encoded:
        return Links()
    try:
        return Links(link_of(words) for words in msgspec.json.decode(encoded, type=list[dict[str, str]]))
    except msgspec.MsgspecError as error:
        raise LinkInvalid("link", "the stored links cannot be read") from error
