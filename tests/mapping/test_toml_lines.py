"""The lines of keys in a TOML file."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from forwarder.mapping.toml_lines import key_lines

_TEXT = '''# a comment = 1
salt = "[[no]] # no"
"quo.ted" = 'x'

[[rule]]
name = """
three
lines = 1 ""\\"
"""
when = [ # here
  { field = "a", equals = 'b # c' },
  { field = "d", in = [1,
                       2] },
]
set = { "a.b" = 1, c.d = """x""" }
[[rule]]
other = 2026-01-01
[rule.set]
x = 1
[plain.table]
y = true
[[rule.inner]]
z = \'\'\'
q\'\'\'
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("salt",), 2),
        (("quo.ted",), 3),
        (("rule",), 5),
        (("rule", 0), 5),
        (("rule", 0, "name"), 6),
        (("rule", 0, "when"), 10),
        (("rule", 0, "when", 0), 11),
        (("rule", 0, "when", 0, "equals"), 11),
        (("rule", 0, "when", 1), 12),
        (("rule", 0, "when", 1, "in"), 12),
        (("rule", 0, "when", 1, "in", 1), 13),
        (("rule", 0, "set", "a.b"), 15),
        (("rule", 0, "set", "c", "d"), 15),
        (("rule", 1), 16),
        (("rule", 1, "other"), 17),
        (("rule", 1, "set", "x"), 19),
        (("plain", "table", "y"), 21),
        (("rule", 1, "inner", 0, "z"), 23),
    ],
)
def test_each_key_has_its_line(place: tuple[str | int, ...], line: int) -> None:
    """Keys and list elements are found on the lines on which they stand."""
    assert key_lines(_TEXT)[place] == line


def _places(value: Any, place: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {place} if place else set()
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, item in items:
        found |= _places(item, (*place, name))
    return found


def test_no_key_is_missed() -> None:
    """Every key and element that the parser finds has a line."""
    assert _places(tomllib.loads(_TEXT)) <= set(key_lines(_TEXT)) | {("plain",)}


_values = st.recursive(
    st.sampled_from(["1", "true", "'a = [1]'", '"# \\" x"', '"""\n[[b]]\n"""', "'''\nq'''", "2026-01-01", "-1.5e3"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[ # c ]\n" + ",\n".join(items) + "\n]")
        | st.dictionaries(st.sampled_from(["a", "b.c", "'d.e'"]), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{name} = {value}" for name, value in table.items()) + "}"
        )
    ),
    max_leaves=6,
)
_pairs = st.dictionaries(st.sampled_from(["a", "b.c", "'d.e'", '"f g"', " h "]), _values, max_size=3).map(
    lambda table: "".join(f"{name}= {value}\n" for name, value in table.items())
)
_tables = st.tuples(st.sampled_from(["[x]", "[[y]]", "[[y]] # c", "[[y.z]]", "[ v.w ]", "# c", ""]), _pairs)


@settings(max_examples=200, deadline=None)
@given(first=_pairs, tables=st.lists(_tables, max_size=4))
def test_no_key_of_any_file_is_missed(first: str, tables: list[tuple[str, str]]) -> None:
    """Whatever TOML the parser takes, each of its keys and elements has a line in which it stands."""
    text = first + "".join(f"{header}\n{pairs}" for header, pairs in tables)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        reject()
    lines = key_lines(text)
    leaves = {place for place in _places(document) if not isinstance(_at(document, place), dict)}
    assert leaves <= set(lines)
    for place, line in lines.items():
        assert isinstance(place[-1], int) or str(place[-1]) in text.splitlines()[line - 1]


def _at(value: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        value = value[step]
    return value
