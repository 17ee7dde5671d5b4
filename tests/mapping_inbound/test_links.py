"""Links between events and what they start: matching, files, the store."""

import tomllib
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import RulesInvalid
from forwarder.mapping.link_file import LinkFile, link_of, read_link_file, write_links
from forwarder.mapping.link_store import LinkPinned, LinkStore, LinkTable, decode_links, encode_links
from forwarder.mapping.links import (
    EVENT_LENGTH_MAX,
    LINKS_MAX,
    LINKS_PER_EVENT_MAX,
    Link,
    LinkInvalid,
    Links,
    LinkSource,
    LinkType,
    TargetKind,
)
from stand_ins.kept_in_memory import KeptInMemory

_NAME = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda text: text.strip() and text not in {".", ".."},
)


@st.composite
def _any_link(draw: st.DrawFn) -> Link:
    type_ = draw(st.sampled_from(LinkType))
    kind = draw(st.sampled_from(TargetKind))
    is_free = type_ is LinkType.TRACK or (type_ is LinkType.IDENTIFY and kind is TargetKind.LIST)
    return Link(
        type=type_,
        event=draw(_NAME) if is_free else type_.value,
        target_kind=kind,
        target=draw(_NAME),
        source=draw(st.sampled_from(LinkSource)),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(_any_link(), max_size=10))
def test_what_is_written_reads_back(links: list[Link]) -> None:
    """An exported file reads back to the same links, whatever their names hold; so does the stored form."""
    expected = Links(links)
    assert read_link_file(write_links(expected), file="links.toml").links == expected
    assert decode_links(encode_links(expected)) == expected


@pytest.mark.parametrize(
    ("event", "source", "targets"),
    [
        ("Order Completed", LinkSource.RUDDERSTACK, ["a", "b"]),
        ("Order Completed", LinkSource.SEGMENT, ["a", "c", "old"]),
        ("order completed", LinkSource.SEGMENT, []),
        ("Order Completed ", LinkSource.SEGMENT, []),
    ],
)
def test_every_link_of_the_exact_name_and_source_is_found(event: str, source: LinkSource, targets: list[str]) -> None:
    """All links of an event match by exact name, bound to their source; Segment's older name counts too."""
    links = Links(
        [
            Link(event="Order Completed", target="a"),
            Link(event="Order Completed", target="b", source=LinkSource.RUDDERSTACK),
            Link(event="Order Completed", target="c", source=LinkSource.SEGMENT),
            Link(event="Segment-TrackEvent:Order Completed", target="old"),
        ],
    )
    assert [link.target for link in links.of(LinkType.TRACK, event, source)] == targets


def test_a_set_of_links_is_a_value() -> None:
    """Adding and removing give new sets; equal links are one; a set shows no name when it is printed."""
    one, two = Link(event="A", target="x"), Link(event="A", target="y")
    links = Links([one, one])
    assert len(links) == 1
    assert links.with_link(two) == Links([one, two])
    assert links.with_link(two).without(one) == Links([two])
    assert hash(Links([one])) == hash(links)
    assert links != "links"
    assert repr(links) == "Links(1)"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ({"event": "", "target": "t"}, "event"),
        ({"event": "e" * (EVENT_LENGTH_MAX + 1), "target": "t"}, "event"),
        ({"event": "a\nb", "target": "t"}, "event"),
        ({"event": "e", "target": "  "}, "target"),
        ({"event": "e", "target": ".."}, "target"),
        ({"event": "e"}, "target"),
        ({"target": "t"}, "event"),
        ({"event": "Signed Up", "target": "t", "type": "identify"}, "event"),
        ({"event": "e", "target": "t", "type": "page"}, "type"),
        ({"event": "e", "target": "t", "to": "automaton"}, "to"),
        ({"event": "e", "target": "t", "source": "mparticle"}, "source"),
        ({"event": "e", "target": "t", "events": "f"}, "events"),
    ],
)
def test_a_link_that_could_never_work_is_refused(words: Mapping[str, str], field: str) -> None:
    """A link that could never match or never be sent is refused, and the refusal names the field."""
    with pytest.raises(LinkInvalid) as caught:
        link_of(words)
    assert caught.value.field == field


def test_the_number_of_links_is_limited() -> None:
    """Neither all links together nor those of one event pass their limit."""
    with pytest.raises(LinkInvalid, match="more than"):
        Links(Link(event=str(n), target="t") for n in range(LINKS_MAX + 1))
    with pytest.raises(LinkInvalid, match="more than"):
        Links(Link(event="e", target=str(n)) for n in range(LINKS_PER_EVENT_MAX + 1))


_WRONG_FILE = """\
[[link]]
event = "Order Completed"
target = "a"

[[link]]
event = "Signed Up"
traget = "b"

[[link]]
event = 7
target = "c"

[[ link ]] # the last
event = "Signed Up"
target = "c"
to = "automaton"

[traits]
phone = 1

[segment]
sync_list = true
sync_lists = "yes"

[links]
"""


def test_every_mistake_of_a_file_is_named_with_its_line() -> None:
    """A wrong file tells every mistake at once, each with file, line, key and remedy."""
    with pytest.raises(RulesInvalid) as caught:
        read_link_file(_WRONG_FILE, file="links.toml")
    assert str(caught.value).splitlines() == [
        'links.toml:25: links: unknown; did you mean "link"?',
        'links.toml:7: link.traget: unknown; did you mean "target"?',
        "links.toml:10: link.event: must be a text in quotes",
        'links.toml:16: link.to: must be one of automation, journey, template, list; did you mean "automation"?',
        "links.toml:19: traits.phone: must be a profile key in quotes; so must a trait with a dot",
        'links.toml:22: segment.sync_list: unknown; did you mean "sync_lists"?',
        "links.toml:23: segment.sync_lists: must be true or false",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("event = ", "not TOML"),
        ("link = 3", "links.toml:1: link: must be written as"),
        ("traits = 3", "links.toml:1: traits: must be a table"),
        ("segment = 3", "links.toml:1: segment: must be a table"),
        ("loop_guard = 1", "links.toml:1: loop_guard: must be true or false"),
        ('[[link]]\n"event" = "x"\n', "links.toml:1: link.target: is missing"),
        ('link = [{event = "e", target = ".."}]', "links.toml:1: link.target: consists of dots"),
        ('[[link]]\nevent = "e"\ntarget = "t"\n' * 3 + '[[link]]\nevent="f"\n', "links.toml:10: link.target"),
        ("\n".join(f'[[link]]\nevent="e"\ntarget="{n}"' for n in range(60)), "links.toml:1: link: event has more than"),
    ],
)
def test_a_file_of_another_shape_says_what_is_wrong(text: str, words: str) -> None:
    """A file that is no TOML, or of another shape, is refused with the place."""
    with pytest.raises(RulesInvalid, match=words):
        read_link_file(text, file="links.toml")


def test_the_file_also_sets_names_of_traits_and_the_engage_switch() -> None:
    """Traits are renamed beside and over the built-in names, an empty name keeps the trait's own."""
    file = read_link_file(
        '[traits]\nmobile = "phone_number"\nphone = ""\n[segment]\nsync_lists = true\n', file="links.toml"
    )
    assert file.profile_keys["mobile"] == "phone_number"
    assert "phone" not in file.profile_keys
    assert file.profile_keys["firstName"] == "given_name"
    assert file.syncs_engage_lists


async def test_changes_are_kept_before_they_count() -> None:
    """Added and removed links survive a restart, and an export holds pinned and stored ones."""
    memory = KeptInMemory()
    pinned = LinkFile(links=Links([Link(event="A", target="pinned")]))
    store = await LinkStore.load(memory, pinned)
    assert await store.change(add=[{"event": "B", "target": "b"}, {"event": "A", "target": "pinned"}]) == (1, 0)
    again = await LinkStore.load(memory, pinned)
    assert [(row["event"], row["pinned"]) for row in again.rows()] == [("A", True), ("B", False)]
    assert len(tomllib.loads(again.export())["link"]) == 2
    assert await again.change(remove=[{"event": "B", "target": "b"}]) == (0, 1)
    assert list((await LinkStore.load(memory, pinned)).table.stored) == []


async def test_a_change_happens_whole_or_not_at_all() -> None:
    """One impossible part of a change leaves everything as it was; a pinned link is changed in its file."""
    memory = KeptInMemory()
    store = await LinkStore.load(memory, LinkFile(links=Links([Link(event="A", target="pinned")])))
    with pytest.raises(LinkPinned, match="FORWARDER_LINKS"):
        await store.change(remove=[{"event": "A", "target": "pinned"}])
    with pytest.raises(LinkInvalid, match="no such link"):
        await store.change(add=[{"event": "B", "target": "b"}], remove=[{"event": "C", "target": "c"}])
    assert memory.values == {}
    assert len(store.table.links()) == 1


async def test_replicas_have_the_same_links() -> None:
    """Each changes what the others made, hears of their changes, and leaves alone what it cannot read."""
    memory = KeptInMemory()
    here, there = await LinkStore.load(memory), await LinkStore.load(KeptInMemory(beside=memory))
    assert await here.change(add=[{"event": "A", "target": "a"}]) == (1, 0)
    here.table.replace_stored(Links())  # as if the news were still on the way
    assert await there.change(add=[{"event": "B", "target": "b"}]) == (1, 0)
    assert [row["event"] for row in here.rows()] == [row["event"] for row in there.rows()] == ["A", "B"]
    assert await here.change(add=[{"event": "B", "target": "b"}]) == (0, 0)
    await KeptInMemory(beside=memory).put("links", b"of a later version")
    assert [row["event"] for row in here.rows()] == ["A", "B"]


@pytest.mark.parametrize("kept", [b"{", b'[{"event": 1}]', b"[[]]"])
def test_a_damaged_store_is_told(kept: bytes) -> None:
    """Stored links that cannot be read are an error, never silently no links."""
    with pytest.raises(LinkInvalid, match="cannot be read"):
        decode_links(kept)


def test_more_than_the_spool_remembers_is_refused() -> None:
    """Links whose names would not fit into the spool's memory are refused before anything changes."""
    links = Links(Link(event=f"{n:04}" + "ü" * 1000, target="t") for n in range(2_100))
    with pytest.raises(LinkInvalid, match="too many links"):
        encode_links(links)


def test_a_stored_link_that_became_pinned_can_be_taken_out_of_the_store() -> None:
    """A link in both places leaves the store, and stays in force by the file."""
    link = Link(event="A", target="a")
    table = LinkTable(LinkFile(links=Links([link])), Links([link]))
    table.replace_stored(table.without(link))
    assert list(table.links()) == [link]
    assert list(table.stored) == []
