"""Path expressions over JSON values: `data.status`, `data.providers[].provider`, `properties."a.b"`.

Reading collects every value that a path leads to. Changing returns a new tree that shares whatever
did not change; nothing that was given is ever altered.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

STEPS_MAX = 16

_STEP = re.compile(r'(?:"((?:[^"\\]|\\["\\])+)"|([^\s."\[\]\\]+))((?:\[\])*)(\.|$)')


class _Each:
    """The step `[]`: every element of a list."""

    def __repr__(self) -> str:
        return "[]"


class _Removed:
    """What a change returns to have the value taken out."""


EACH: Final = _Each()
REMOVED: Final = _Removed()
Change = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Path:
    """A parsed path. `text` is how it was written."""

    text: str
    steps: tuple[str | _Each, ...]

    @classmethod
    def parse(cls, text: str) -> "Path":
        """Parse; raises `ValueError` with the remedy."""
        steps: list[str | _Each] = []
        position = 0
        while True:
            match = _STEP.match(text, position)
            if match is None:
                raise ValueError(
                    'not a path: write names joined by dots, [] for every element of a list, "a.b" in quotes'
                )
            steps.append(match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1]))
            steps.extend([EACH] * (len(match[3]) // 2))
            position = match.end()
            if not match[4]:
                break
        if len(steps) > STEPS_MAX:
            raise ValueError(f"too long: at most {STEPS_MAX} steps")
        return cls(text, tuple(steps))

    @property
    def root(self) -> str:
        """The first name."""
        return str(self.steps[0])

    def values(self, tree: Any) -> list[Any]:
        """Return every value that the path leads to, in order; a step that does not fit leads nowhere."""
        found = [tree]
        for step in self.steps:
            if isinstance(step, str):
                found = [value[step] for value in found if isinstance(value, dict) and step in value]
            else:
                found = [element for value in found if isinstance(value, list) for element in value]
            if not found:
                break
        return found

    def changed(self, tree: Any, change: Change) -> Any:
        """Return the tree with every value the path leads to replaced by what `change` makes of it."""
        return _changed(tree, self.steps, change)

    def put(self, tree: Any, value: Any) -> Any:
        """Return the tree with the value set at the path, objects made on the way where something else was.

        `[]` sets it in every element of the list that is there; where there is no list nothing is set.
        """
        return _put(tree, self.steps, value)


def _changed(node: Any, steps: tuple[str | _Each, ...], change: Change) -> Any:
    if not steps:
        return change(node)
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        if not isinstance(node, dict) or step not in node:
            return node
        value = _changed(node[step], rest, change)
        if value is REMOVED:
            return {name: item for name, item in node.items() if name != step}
        return node if value is node[step] else {**node, step: value}
    if not isinstance(node, list):
        return node
    elements = [_changed(element, rest, change) for element in node]
    return [element for element in elements if element is not REMOVED]


def _put(node: Any, steps: tuple[str | _Each, ...], value: Any) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        tree = node if isinstance(node, dict) else {}
        if rest and rest[0] is EACH and not isinstance(tree.get(step), list):
            return node
        return {**tree, step: _put(tree.get(step), rest, value)}
    return [_put(element, rest, value) for element in node] if isinstance(node, list) else node
