"""The TOML file of links (`FORWARDER_LINKS`): read with every mistake named, written so that it reads back.

    loop_guard = true             # false lets Courier's own events that come back start automations

    [[link]]
    event = "Order Completed"     # for identify and group: the type's own name
    target = "order-completed"    # id or alias of the automation
    to = "automation"             # or journey, template, list
    type = "track"                # or identify, group
    source = "segment"            # or rudderstack; without it, both

    [traits]                      # trait → profile key, beside those that are built in; "" keeps the trait's name
    mobile = "phone_number"

    [segment]
    sync_lists = true             # audiences and journey steps of Engage keep list subscriptions in step

Pure: text in, text out. Who reads the file, and when, is absent.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from forwarder.errors import RulesInvalid
from forwarder.mapping.links import Link, LinkInvalid, Links, LinkSource, LinkType, TargetKind
from forwarder.mapping.toml_lines import Place, key_lines
from forwarder.mapping.traits import PROFILE_KEYS

_PROBLEMS_MAX: Final = 20  # shown at once; a file of another kind would have thousands

_SECTIONS: Final = ("link", "traits", "segment", "loop_guard")
_KEYS: Final = ("type", "event", "to", "target", "source")
_SYNC_LISTS: Final = "sync_lists"

Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFile:
    """What the file says. `profile_keys` holds the built-in names too."""

    links: Links = field(default_factory=Links)
    profile_keys: Mapping[str, str] = field(default_factory=lambda: PROFILE_KEYS)
    syncs_engage_lists: bool = False
    guards_loops: bool = True


def read_link_file(text: str, *, file: str) -> LinkFile:
    """Return what the text says.

    Raises `RulesInvalid`: one line for each problem, with file, line, key and remedy.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulesInvalid(f"{file}: not TOML: {error}") from None
    reader = _Reader(text, file)
    result = reader.read(tables)
    if reader.problems:
        raise RulesInvalid("\n".join(reader.problems[:_PROBLEMS_MAX]))
    return result


def write_links(links: Iterable[Link]) -> str:
    """Return the links as a file that `read_link_file` reads back to the same links."""
    return "\n".join(_block(link) for link in links)


class _Reader:
    """Read the parsed file once, and collect what is wrong with it."""

    def __init__(self, text: str, file: str) -> None:
        self.problems: list[str] = []
        self._file = file
        self._lines = key_lines(text)

    def read(self, tables: Mapping[str, Any]) -> LinkFile:
        for name in tables:
            if name not in _SECTIONS:
                self._tell((name,), f"unknown{_did_you_mean(name, _SECTIONS)}")
        return LinkFile(
            links=self._links(tables.get("link", [])),
            profile_keys=self._profile_keys(tables.get("traits", {})),
            syncs_engage_lists=self._sync_lists(tables.get("segment", {})),
            guards_loops=self._switch(("loop_guard",), tables.get("loop_guard", True)),
        )

    def _links(self, blocks: object) -> Links:
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            self._tell(("link",), "must be written as [[link]], once for each link")
            return Links()
        found = [self._link(block, index) for index, block in enumerate(blocks)]
        try:
            return Links(link for link in found if link is not None)
        except LinkInvalid as error:
            self._tell(("link",), f"{error.field} {error.problem}")
            return Links()

    def _link(self, block: Mapping[str, Any], index: int) -> Link | None:
        not_texts = [key for key, value in block.items() if not isinstance(value, str)]
        for key in not_texts:
            self._tell(("link", index, key), "must be a text in quotes")
        if not_texts:
            return None
        try:
            return link_of(block)
        except LinkInvalid as error:
            self._tell(("link", index, error.field), error.problem)
            return None

    def _profile_keys(self, table: object) -> Mapping[str, str]:
        if not isinstance(table, dict):
            self._tell(("traits",), "must be a table")
            return PROFILE_KEYS
        for key, value in table.items():
            if not isinstance(value, str):
                self._tell(("traits", key), "must be a profile key in quotes; so must a trait with a dot")
        named = {**PROFILE_KEYS, **{key: value for key, value in table.items() if isinstance(value, str)}}
        return {trait: name for trait, name in named.items() if name}

    def _sync_lists(self, table: object) -> bool:
        if not isinstance(table, dict):
            self._tell(("segment",), "must be a table")
            return False
        for key in table:
            if key != _SYNC_LISTS:
                self._tell(("segment", key), f"unknown{_did_you_mean(key, (_SYNC_LISTS,))}")
        return self._switch(("segment", _SYNC_LISTS), table.get(_SYNC_LISTS, False))

    def _switch(self, place: Place, value: object) -> bool:
        if not isinstance(value, bool):
            self._tell(place, "must be true or false")
        return bool(value)

    def _tell(self, place: Place, problem: str) -> None:
        """Add a problem; a key that is missing is told at the head of its table."""
        line = self._lines.get(place) or self._lines.get(place[:-1], 1)
        key = ".".join(str(part) for part in place if isinstance(part, str))
        self.problems.append(f"{self._file}:{line}: {key}: {problem}")


def link_of(words: Mapping[str, str]) -> Link:
    """Make a link of the words that file, command line and API use; raises `LinkInvalid` for the first mistake."""
    for key in words:
        if key not in _KEYS:
            raise LinkInvalid(key, f"unknown{_did_you_mean(key, _KEYS)}")
    for key in ("event", "target"):
        if key not in words:
            raise LinkInvalid(key, "is missing")
    return Link(
        type=_one_of(LinkType, "type", words.get("type", LinkType.TRACK.value)),
        event=words["event"],
        target_kind=_one_of(TargetKind, "to", words.get("to", TargetKind.AUTOMATION.value)),
        target=words["target"],
        source=_one_of(LinkSource, "source", words.get("source", LinkSource.BOTH.value)),
    )


def words_of(link: Link) -> dict[str, str]:
    """Return the link in the words that `link_of` reads."""
    return {
        "type": link.type.value,
        "event": link.event,
        "to": link.target_kind.value,
        "target": link.target,
        "source": link.source.value,
    }


def _one_of(words: type[Word], field_name: str, value: str) -> Word:
    try:
        return words(value)
    except ValueError:
        known = [word.value for word in words if word.value]
        raise LinkInvalid(field_name, f"must be one of {', '.join(known)}{_did_you_mean(value, known)}") from None


def _block(link: Link) -> str:
    lines = [f"{key} = {_quoted(value)}" for key, value in words_of(link).items() if value]
    return "\n".join(("[[link]]", *lines, ""))


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are a subset of TOML's, which also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
