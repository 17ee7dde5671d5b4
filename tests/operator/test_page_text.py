"""How numbers, times and foreign text read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.operator import text
from forwarder.operator.readable import readable


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters()))
def test_visible_text_hides_nothing(given: str) -> None:
    """Whatever was written, what is shown can be encoded, obeys no direction, and has no control character."""
    shown = text.visible(given)
    shown.encode()
    assert not any(ord(char) < 32 and char not in "\n\t" for char in shown)
    assert not set("\u202a\u202e\u2066\u2069\u200f\ufeff") & set(shown)
    assert text.visible(shown) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("a\x00b", "a⟨U+0000⟩b"),
        ("\x7f\x9b", "⟨U+007F⟩⟨U+009B⟩"),
        ("é\n\t", "é\n\t"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("👩\u200d🔧", "👩\u200d🔧"),
        ("\U000e0041", "⟨U+E0041⟩"),
    ],
)
def test_each_kind_of_character(given: str, shown: str) -> None:
    """Plain text, line breaks and joined emoji stay; what hides or reorders is told."""
    assert text.visible(given) == shown


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "—"),
        (0.0042, "4 ms"),
        (1.24, "1.2 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (7_260, "2 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_spans(seconds: float | None, told: str) -> None:
    """A length of time has its unit and no false precision."""
    assert text.span(seconds) == told


@pytest.mark.parametrize(
    ("at_ms", "told"),
    [
        (1_000_000, "now"),
        (995_000, "5 s ago"),
        (1_030_000, "in 30 s"),
        (400_000, "10 min ago"),
        (1_000_000 - 7_200_000, "2 h ago"),
        (1_000_000 - 200_000_000, "2 d ago"),
    ],
)
def test_ages(at_ms: int, told: str) -> None:
    """A moment is told by its distance from now, on either side."""
    assert text.ago(at_ms, now_ms=1_000_000) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (200 * 2**30, "200 GiB"),
        (3 * 2**40, "3.0 TiB"),
    ],
)
def test_sizes(count: int, told: str) -> None:
    """Bytes have a unit that fits them."""
    assert text.size(count) == told


def test_counts_and_rates() -> None:
    """Counts are grouped, small rates have a decimal, none is just 0."""
    assert text.number(1_234_567) == "1,234,567"
    assert [text.rate(value) for value in (0, 0.04, 12.34, 1_234.5)] == ["0", "0.0", "12.3", "1,234"]
    assert (text.clock_time(None), text.clock_time(0)) == ("—", "1970-01-01 00:00:00.000 UTC")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'{"b":1,"a":1e999,"b":2}', '{\n  "b": 1,\n  "a": 1e999,\n  "b": 2\n}'),
        (b"no json {", "no json {"),
        (b"[" * 40 + b"]" * 40, "[" * 40 + "]" * 40),
        (b'"[[[[\\"[["', '"[[[[\\"[["'),
        (b"\xff", "\ufffd"),
    ],
    ids=["as it came", "no JSON", "deep", "brackets in text", "no text"],
)
def test_payloads_are_indented_where_that_is_safe(raw: bytes, shown: str) -> None:
    """JSON is indented without being changed; what is not, or is too deep, is shown as it came."""
    assert readable(raw).text == shown


def test_payloads_are_cut() -> None:
    """No more than the bound is shown, and the page knows that there is more."""
    shown = readable(b"x" * 100, shown_max=10)
    assert (shown.text, shown.is_cut, shown.size_bytes) == ("x" * 10, True, 100)
    assert not readable(b"x" * 10, shown_max=10).is_cut
