"""Links between events and what they start at Courier: an immutable, ordered set.

Names match exactly, case included, as Courier's integration page does. Several links may share an
event; all of them run.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from forwarder.errors import RulesInvalid

EVENT_LENGTH_MAX = 1_024  # characters
TARGET_LENGTH_MAX = 256  # characters
LINKS_MAX = 5_000
LINKS_PER_EVENT_MAX = 20  # all of them run, one call each

# Segment's older name for a track call's event, as Courier's event map has it.
_SEGMENT_TRACK = "Segment-TrackEvent:"


class LinkType(StrEnum):
    """The calls that can be linked."""

    TRACK = "track"
    IDENTIFY = "identify"
    GROUP = "group"


class TargetKind(StrEnum):
    """What an event can start. A list is subscribed to."""

    AUTOMATION = "automation"
    JOURNEY = "journey"
    TEMPLATE = "template"
    LIST = "list"


class LinkSource(StrEnum):
    """Whose events a link is for. What SDKs send to `/v1` counts as RudderStack's."""

    BOTH = ""
    RUDDERSTACK = "rudderstack"
    SEGMENT = "segment"


class LinkInvalid(RulesInvalid):
    """A link cannot be; `field` names what is wrong with it, the text says what and why."""

    def __init__(self, field: str, problem: str) -> None:
        """Keep the field's name beside the problem."""
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link. `event` is a track call's name; for the other types it is the type itself.

    A list may also be linked to identify under a trait's name: the subscription follows that boolean
    trait (or, for a computation of Segment Engage, the flag of its `computation_key`).
    """

    type: LinkType = LinkType.TRACK
    event: str
    target_kind: TargetKind = TargetKind.AUTOMATION
    target: str
    source: LinkSource = LinkSource.BOTH

    def __post_init__(self) -> None:
        """Refuse what could never match or never be sent, with `LinkInvalid`."""
        _check_name("event", self.event, EVENT_LENGTH_MAX)
        _check_name("target", self.target, TARGET_LENGTH_MAX)
        if self.target in {".", ".."}:
            raise LinkInvalid("target", "consists of dots and cannot be part of a path")
        follows_trait = self.type is LinkType.IDENTIFY and self.target_kind is TargetKind.LIST
        if self.type is not LinkType.TRACK and self.event != self.type.value and not follows_trait:
            raise LinkInvalid("event", f'{self.type.value} calls have no event names; write "{self.type.value}"')

    def is_for(self, source: LinkSource) -> bool:
        """Tell whether the link concerns events of this source."""
        return self.source in {LinkSource.BOTH, source}


class Links:
    """A set of links in the order they were given; equal links are one."""

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._links = tuple(dict.fromkeys(links))
        if len(self._links) > LINKS_MAX:
            raise LinkInvalid("link", f"more than {LINKS_MAX} links")
        by_event: defaultdict[tuple[LinkType, str], list[Link]] = defaultdict(list)
        for link in self._links:
            by_event[link.type, link.event].append(link)
        if any(len(found) > LINKS_PER_EVENT_MAX for found in by_event.values()):
            raise LinkInvalid("event", f"has more than {LINKS_PER_EVENT_MAX} links")
        self._by_event = {key: tuple(found) for key, found in by_event.items()}

    def __iter__(self) -> Iterator[Link]:
        """Walk over the links in order."""
        return iter(self._links)

    def __len__(self) -> int:
        """Return how many links there are."""
        return len(self._links)

    def __contains__(self, link: object) -> bool:
        """Tell whether this very link is among them."""
        return link in self._links

    def __eq__(self, other: object) -> bool:
        """Tell whether both hold the same links in the same order."""
        return isinstance(other, Links) and self._links == other._links

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self._links)

    def __repr__(self) -> str:
        """Say how many; the names are the customer's."""
        return f"Links({len(self._links)})"

    def of(self, type_: LinkType, event: str, source: LinkSource) -> tuple[Link, ...]:
        """Return every link of the event, in order.

        A track event of Segment also finds the links made under `Segment-TrackEvent:<event>`.
        """
        found = self._by_event.get((type_, event), ())
        if type_ is LinkType.TRACK and source is LinkSource.SEGMENT:
            found += self._by_event.get((type_, f"{_SEGMENT_TRACK}{event}"), ())
        return tuple(link for link in found if link.is_for(source))

    def lists_by_trait(self, source: LinkSource) -> dict[str, tuple[Link, ...]]:
        """Return the list links that follow a trait of an identify, by the trait's name."""
        found: dict[str, tuple[Link, ...]] = {}
        for (type_, event), links in self._by_event.items():
            if type_ is LinkType.IDENTIFY and event != LinkType.IDENTIFY.value:
                concerned = tuple(link for link in links if link.is_for(source))
                if concerned:
                    found[event] = concerned
        return found

    def with_link(self, link: Link) -> "Links":
        """Return these links and that one."""
        return Links((*self._links, link))

    def without(self, link: Link) -> "Links":
        """Return these links but that one."""
        return Links(kept for kept in self._links if kept != link)

    def joined(self, others: "Links") -> "Links":
        """Return these links, then the others."""
        return Links((*self._links, *others))


def _check_name(field: str, value: str, length_max: int) -> None:
    if not value.strip():
        raise LinkInvalid(field, "is empty")
    if len(value) > length_max:
        raise LinkInvalid(field, f"is longer than {length_max} characters")
    if not value.isprintable() and any(ord(character) < ord(" ") for character in value):
        raise LinkInvalid(field, "holds control characters")
