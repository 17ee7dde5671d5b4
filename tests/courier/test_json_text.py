"""What counts as JSON from Courier."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.json_text import decode
from forwarder.errors import Unmappable


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        pytest.param(b' {"a": 1} ', {"a": 1}, id="blanks around"),
        pytest.param(b'{"a":1,"a":2}', {"a": 2}, id="the last of duplicate keys"),
        pytest.param(b"9007199254740993", 9_007_199_254_740_993, id="exact integers"),
        pytest.param(b"18446744073709551617", 18_446_744_073_709_551_617, id="integers beyond 64 bits"),
        pytest.param(b"[1" + b"0" * 308 + b"]", [10**308], id="the largest power of ten that a double holds"),
        pytest.param(b'{"a":"' + b"9" * 5_000 + b'"}', {"a": "9" * 5_000}, id="a text of digits"),
        pytest.param(b'"\\ud83d\\ude80"', "\N{ROCKET}", id="a pair of surrogates"),
        pytest.param(b'["\\ud800", {"\\udc00": 1.5}]', ["\ufffd", {"\ufffd": 1.5}], id="lone surrogates"),
        pytest.param(b'"\\u0000"', "\x00", id="a null character"),
        pytest.param(b"[" * 3 + b'"[' + b"{" * 300 + b'"' + b"]" * 3, [[["[" + "{" * 300]]], id="brackets in a text"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', {"a": 1}, id="a byte order mark"),
    ],
)
def test_what_is_taken(payload: bytes, value: Any) -> None:
    """The grammar of RFC 8259 is taken, exactly."""
    assert decode(payload) == value


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b'{"a":1', "not JSON", id="cut off"),
        pytest.param(b'{"a":1} x', "not JSON", id="something behind"),
        pytest.param(b'{"a":NaN}', "NaN is no JSON value", id="NaN"),
        pytest.param(b'{"a":-Infinity}', "-Infinity is no JSON value", id="infinity"),
        pytest.param(b'{"a":1e999}', "out of range", id="beyond a double"),
        pytest.param(b"9" * 5_000, "out of range", id="too many digits"),
        pytest.param(b'{"a":[{"b":-' + b"9" * 309 + b"}]}", "out of range", id="an integer beyond a double"),
        pytest.param(
            b'["\\ud800",' + b"9" * 400 + b"]", "out of range", id="an integer beyond a double beside a lone surrogate"
        ),
        pytest.param(b'{"\xff":1}', "not UTF-8", id="broken UTF-8"),
        pytest.param(b'["\\ud800", "\xff"]', "not UTF-8", id="broken UTF-8 beside a lone surrogate"),
        pytest.param(b"[" * 5_000 + b"]" * 5_000, "nested deeper than 200 levels", id="too deep"),
        pytest.param(b"[" * 201 + b"]" * 201, "nested deeper than 200 levels", id="one level too deep"),
        pytest.param(
            b'["\\ud800",' + b"[" * 5_000 + b"]" * 5_001,
            "nested deeper than 200 levels",
            id="too deep, with a surrogate",
        ),
    ],
)
def test_what_is_refused_and_why(payload: bytes, reason: str) -> None:
    """What is no JSON is refused with a reason that holds no value out of it."""
    with pytest.raises(Unmappable, match=reason):
        decode(payload)


def test_a_refusal_quotes_nothing() -> None:
    """The reason of a refusal never contains the payload."""
    with pytest.raises(Unmappable) as refusal:
        decode(b'{"secret-name": secret-value}')
    assert "secret" not in str(refusal.value)


@settings(max_examples=200, deadline=None)
@given(
    payload=st.binary(max_size=40) | st.text(alphabet='{}[]",:\\ud8e1.-NaNtruefalsenull ', max_size=30).map(str.encode)
)
def test_any_bytes_end_in_a_value_or_a_reason(payload: bytes) -> None:
    """Decoding either gives what Python's decoder would, surrogates aside, or raises `Unmappable`."""
    try:
        value = decode(payload)
    except Unmappable:
        return
    if "\ufffd" not in json.dumps(value, ensure_ascii=False):
        assert value == json.loads(payload)
