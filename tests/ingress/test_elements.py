"""Cutting bodies: every event in its sender's own bytes, whatever its neighbours are."""

import json
from collections.abc import Callable
from contextlib import suppress
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.ingress import cutting, elements
from forwarder.ingress.cutting import at_once, looks_like_lines
from forwarder.ingress.elements import Element, NotJson

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
# Deeper than any Python's decoder goes: 3.13 goes to ten thousand levels.
_DEEP = b'{"a":' + b"[" * 12_000 + b"]" * 12_000 + b"}"


def array_of(body: bytes) -> list[bytes]:
    """Cut an array in one go."""
    return at_once(cutting.array_of(body))


def lines_of(body: bytes) -> list[bytes]:
    """Cut lines in one go."""
    return at_once(cutting.lines_of(body))


def batch_of(body: bytes) -> bytes | None:
    """Find the batch in one go."""
    return at_once(cutting.batch_of(body))


def write_key_of(body: bytes) -> object:
    """Find the key in one go."""
    return at_once(cutting.write_key_of(body))


def encoded(value: object, *, is_ascii: bool) -> bytes:
    """Write a value as some sender might."""
    return json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "replace")


@settings(max_examples=150, deadline=None)
@given(values=st.lists(_VALUES, max_size=5), is_ascii=st.booleans())
def test_an_array_is_cut_into_the_bytes_it_was_made_of(values: list[object], *, is_ascii: bool) -> None:
    """What is cut out of an array, a batch or lines is what was put in; what is no object is None."""
    pieces = [encoded(value, is_ascii=is_ascii) for value in values]
    expected = [piece if isinstance(value, dict) else None for piece, value in zip(pieces, values, strict=True)]
    array = b"[" + b" , ".join(pieces) + b"]"

    def cut(body: bytes) -> list[bytes | None]:
        return [one.payload if one else None for one in map(elements.element, array_of(body))]

    assert cut(array) == expected
    assert batch_of(b'{"x":[1,{"batch":[]}],"batch" : ' + array + b"}") == array
    if pieces:
        assert [one.payload if one else None for one in map(elements.line, lines_of(b"\n".join(pieces)))] == expected


@settings(max_examples=10, deadline=None)
@given(values=st.lists(st.dictionaries(st.text(max_size=5), _VALUES, max_size=3), min_size=1, max_size=4))
def test_brackets_cut_as_the_decoder_does(values: list[dict[str, object]]) -> None:
    """Beside an element that is too deep for any decoder, the others are cut by brackets, to the same bytes."""
    pieces = [encoded(value, is_ascii=True) for value in values]
    array = b"[" + b",".join([*pieces, _DEEP, b"7"]) + b"]"
    assert list(map(elements.element, array_of(array))) == [
        *(Element(piece, value) for piece, value in zip(pieces, values, strict=True)),
        Element(_DEEP, None),
        None,
    ]
    assert list(map(elements.element, array_of(b'[{"s":"\\ud800","d":' + _DEEP + b"},[],{}]")))[1:] == [
        None,
        Element(b"{}", {}),
    ]
    assert batch_of(b'{"q":"\\"[","batch":' + array + b',"z":{}}') == array


@pytest.mark.parametrize(
    "body",
    [
        b"[%b,]" % _DEEP,
        b"[,%b]" % _DEEP,
        b"[%b,,1]" % _DEEP,
        b"[1,2",
        b"[1]]",
        _DEEP + b"x",
        b"[" + _DEEP,
        b"[" + _DEEP + b",",
        b"[1,]",
        b"[,]",
        b"]",
        b'["\\q"]',
        b'["a\nb"]',
    ],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    """Damage is noticed also where only brackets are counted."""
    with pytest.raises(NotJson):
        list(map(elements.element, array_of(body)))


@pytest.mark.parametrize("begin", [b'{"a":' + b"[" * 12_000, b"[" + b"1," * elements.ELEMENTS_MAX])
@pytest.mark.parametrize("read", [array_of, batch_of, write_key_of, elements.element])
def test_a_text_without_end_costs_no_more_than_its_length(begin: bytes, read: Callable[[bytes], object]) -> None:
    """Nobody, known or not, holds the daemon up with a body in which every quote begins a text that never ends."""
    body = begin + b'"' + b'\\"' * 20_000
    began_s = process_time()
    with suppress(NotJson, elements.TooManyElements):
        read(body)
    assert process_time() - began_s < 3  # when each of them searched the rest, it was half a minute


@pytest.mark.parametrize("body", [b"", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_nothing_is_no_json(body: bytes) -> None:
    """A body of blanks is empty, in every form."""
    for read in (array_of, lines_of, batch_of, elements.trimmed):
        with pytest.raises(NotJson):
            read(body)


@pytest.mark.parametrize(
    ("body", "batch"),
    [
        (b"[1]", None),
        (b"{}", None),
        (b'{"Batch":[]}', None),
        (b'{"batch":null}', b"null"),
        (b'{"batch":[1],"batch":[2]}', b"[2]"),
        (b'{"batch":["\\ud800"], "x":1}', b'["\\ud800"]'),
        (b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", None),
    ],
)
def test_the_batch_of_an_object(body: bytes, batch: bytes | None) -> None:
    """The top-level `batch` is found to the byte, the last of several."""
    assert batch_of(body) == batch


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"{}\n{}", True), (b"7\nx", True), (b"{\n}x", False), (b"{}", False), (b"x\n{}", False), (b"[1,\n2", False)],
)
def test_lines_are_told_from_a_broken_document(body: bytes, *, expected: bool) -> None:
    """One value a line is assumed only where the first line is one."""
    assert looks_like_lines(body) is expected


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=40) | st.text(alphabet='{}[]",:\\ \n01eE.-nul', max_size=40).map(str.encode))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """Whatever the bytes, they are elements or no JSON."""
    for cut, read in ((array_of, elements.element), (lines_of, elements.line)):
        with suppress(NotJson):
            assert all(one is None or one.payload for one in map(read, cut(body)))
