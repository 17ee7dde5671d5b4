"""Path expressions: how they are written, what they find."""

from typing import Any

import pytest

from forwarder.mapping.paths import Path


@pytest.mark.parametrize(
    ("text", "tree", "values"),
    [
        ("a", {"a": 1}, [1]),
        ("a.b", {"a": {"b": None}}, [None]),
        ("a[].b", {"a": [{"b": 1}, {"c": 2}, {"b": 3}, 4]}, [1, 3]),
        ("a[][]", {"a": [[1], 2, [3, 4]]}, [1, 3, 4]),
        ('"a.b".c', {"a.b": {"c": 1}}, [1]),
        (r'"a\"b\\"', {'a"b\\': 1}, [1]),
        ("\u00fc.x-y_z", {"\u00fc": {"x-y_z": 1}}, [1]),
        ("a.0", {"a": [1]}, []),
        ("a", [], []),
    ],
)
def test_what_a_path_finds(text: str, tree: Any, values: list[Any]) -> None:
    """A path finds every value it leads to, in order."""
    assert Path.parse(text).values(tree) == values


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a[0]", "a[", '"a', "a b", "[]", "a.[]", '""'])
def test_what_is_no_path(text: str) -> None:
    """What is written wrongly is refused with how it is written."""
    with pytest.raises(ValueError, match="not a path: write names joined by dots"):
        Path.parse(text)


def test_paths_have_a_length() -> None:
    """A path has at most sixteen steps."""
    assert Path.parse(".".join("a" * 16)).root == "a"
    with pytest.raises(ValueError, match="at most 16 steps"):
        Path.parse(".".join("a" * 17))


def test_unchanged_parts_are_shared() -> None:
    """A change that changes nothing gives the very same tree."""
    tree = {"a": {"b": 1}, "c": {}}
    assert Path.parse("a.b").changed(tree, lambda value: value) is tree
    assert Path.parse("x.y").changed(tree, lambda _: 2) is tree
    assert Path.parse("a[]").changed(tree, lambda _: 2) is tree
    assert Path.parse("a.b").put(tree, 2)["c"] is tree["c"]


def test_the_step_of_every_element_has_a_name() -> None:
    """A path can be read in a repr."""
    assert repr(Path.parse("a[]")) == "Path(text='a[]', steps=('a', []))"
