"""What counts as an id, an address or a time."""

import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.mapping.fields import email_in, id_text, is_blank_id, phone_in, pseudonym, time_ms


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("  \t\r\n", id="blanks"),
        pytest.param("\u00a0\u2003\u3000", id="typographic spaces"),
        pytest.param("\u200b\u2060\ufeff", id="zero width"),
        pytest.param("\u200e\u200f\u202a\u2066", id="direction marks"),
        pytest.param("\u00ad", id="soft hyphen"),
        pytest.param("\u3164\uffa0\u115f\u1160\u2800\u034f", id="fillers"),
        pytest.param("\x00\x1f\x7f", id="control characters"),
        pytest.param(" \ufeff ", id="a mark between blanks"),
    ],
)
def test_ids_that_the_gateway_takes_for_empty(text: str) -> None:
    """What nobody can see is no id."""
    assert is_blank_id(text)
    assert id_text(text) == ""


@pytest.mark.parametrize("text", ["0", "u1", " u1 ", "\u200bu", "\N{ROCKET}", "\u5f35", "-", "null"])
def test_ids_that_are_ids(text: str) -> None:
    """One visible character makes an id, and it is sent as it came."""
    assert not is_blank_id(text)
    assert id_text(text) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_blank_is_what_shows_nothing(text: str) -> None:
    """A text is blank when all it has are separators, controls, unassigned characters and fillers."""
    fillers = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    visible = [
        character for character in text if unicodedata.category(character)[0] not in "ZC" and character not in fillers
    ]
    assert is_blank_id(text) is (not visible)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (48_213_307, "48213307"),
        (0, "0"),
        (18_446_744_073_709_551_617, "18446744073709551617"),
        (7.0, "7"),
        (7.5, "7.5"),
        (True, ""),
        (None, ""),
        ({}, ""),
        ([1], ""),
    ],
)
def test_numbers_become_text(value: Any, text: str) -> None:
    """A number is sent as text with every digit; what is neither text nor number is no id."""
    assert id_text(value) == text


@pytest.mark.parametrize(
    ("value", "email"),
    [
        ("maya.okafor@example.com", "maya.okafor@example.com"),
        (" Maya@Example.com ", "Maya@Example.com"),
        ("mailto:maya@example.com", "maya@example.com"),
        ("Maya Okafor <maya@example.com>", "maya@example.com"),
        ("s\u00f8ren.\u5f35\u5049@ex\u00e4mple.example", "s\u00f8ren.\u5f35\u5049@ex\u00e4mple.example"),
        ("a+b@mail.example.co.uk", "a+b@mail.example.co.uk"),
        ("acme/ops#7 50%@eu", ""),
        ("user@host", ""),
        ("@example.com", ""),
        ("a@b@example.com", ""),
        ("a@example.", ""),
        ("x" * 320 + "@example.com", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_what_an_email_address_is(value: Any, email: str) -> None:
    """An address is found bare, and an id that merely holds an at sign is left an id."""
    assert email_in(value) == email


@pytest.mark.parametrize(
    ("value", "phone"),
    [
        ("+12025550142", "+12025550142"),
        ("+1 (202) 555-0142", "+12025550142"),
        ("tel:+49.30.1234567", "+49301234567"),
        ("2025550142", ""),
        ("+12", ""),
        ("+1234567890123456", ""),
        ("u+12025550142", ""),
        (12_025_550_142, ""),
    ],
)
def test_what_a_telephone_number_is(value: Any, phone: str) -> None:
    """A number in international form is one; bare digits are an id."""
    assert phone_in(value) == phone


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(1_767_228_324_560, 1_767_228_324_560, id="milliseconds"),
        pytest.param(1_767_253_479_378.25, 1_767_253_479_378, id="a fraction"),
        pytest.param("1767253532305", 1_767_253_532_305, id="milliseconds as text"),
        pytest.param(1_767_228_324, 1_767_228_324_000, id="seconds"),
        pytest.param("1767228324.5", 1_767_228_324_500, id="seconds as text"),
        pytest.param("2026-01-01T07:49:52.967Z", 1_767_253_792_967, id="ISO"),
        pytest.param("2026-01-01T08:49:52.967+01:00", 1_767_253_792_967, id="ISO with an offset"),
        pytest.param("2026-01-01T07:49:52", 1_767_253_792_000, id="ISO without a zone is UTC"),
        pytest.param(0, None, id="zero"),
        pytest.param(-1, None, id="negative"),
        pytest.param(10**30, None, id="huge"),
        pytest.param(9_999_999_999_999_999, None, id="microseconds"),
        pytest.param("yesterday", None, id="words"),
        pytest.param("", None, id="nothing"),
        pytest.param("1" * 400, None, id="many digits"),
        pytest.param("\u0661\u0662", None, id="other digits"),
        pytest.param("1970-01-01T00:00:00Z", None, id="1970"),
        pytest.param("0001-01-01T00:00:00", None, id="the first year"),
        pytest.param("9999-12-31T23:59:59-23:59", None, id="the last year"),
        pytest.param(True, None, id="true"),
        pytest.param({"ms": 1}, None, id="an object"),
        pytest.param(None, None, id="null"),
    ],
)
def test_what_a_time_is(value: Any, expected: int | None) -> None:
    """Times are read in every form that Courier shows; what is no time of an event is none."""
    assert time_ms(value) == expected


@settings(max_examples=200, deadline=None)
@given(
    value=st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T?[0-9:.Z+-]*", fullmatch=True)
)
def test_no_time_is_outside_this_century(value: Any) -> None:
    """Whatever is read, a time is between 2010 and 2100, or none."""
    found = time_ms(value)
    assert found is None or 1_262_304_000_000 <= found < 4_102_444_800_000


def test_pseudonyms_keep_their_parts_apart() -> None:
    """The same parts give the same pseudonym, other parts another, and it is plain hexadecimal."""
    assert pseudonym("email", "a") == pseudonym("email", "a")
    assert len({pseudonym("email", "a"), pseudonym("phone", "a"), pseudonym("email", "b"), pseudonym("emaila")}) == 4
    assert len(pseudonym("\ud800")) == 32
