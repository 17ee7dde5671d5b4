"""All links in force: the pinned ones of the file, which nobody can change here, and the stored ones.

Pure but for what it holds. The store is somebody else's: whoever changes the table keeps `encoded` first, and
shows the change to the table once it is on disk.
"""

from typing import Final

import msgspec

from forwarder.errors import RulesInvalid
from forwarder.mapping.link_file import LinkFile, link_of, words_of
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
        return _checked(self.file.links, stored)

    def without(self, link: Link) -> Links:
        """Return the stored links but that one; raises `LinkPinned` for a pinned one."""
        if self.is_pinned(link) and link not in self._stored:
            raise LinkPinned("this link is pinned in the file of FORWARDER_LINKS; take it out there")
        return self._stored.without(link)

    def replace_stored(self, stored: Links) -> None:
        """Put these stored links in force; they are on disk already."""
        self._stored = stored
        self._links = self.file.links.joined(stored)


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


def _checked(pinned: Links, stored: Links) -> Links:
    pinned.joined(stored)  # raises for too many, together with the pinned ones
    return stored
