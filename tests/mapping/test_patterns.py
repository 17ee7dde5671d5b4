"""Regular expressions that cannot hang the daemon."""

import re
import time

import pytest

from forwarder.mapping.patterns import compile_bounded, found_in


@pytest.mark.parametrize(
    "text",
    [
        "^vip-",
        r"@example\.com$",
        "a.*b.*c",
        r"^.*@(.*\.)?example\.com$",
        "one|two|three|four",
        "x{2,5}y?",
        "a{b}",
        "(foo|bar)?x",
        "[a+*(|)]+x{1,9}",
        r"\(a\)+\1"[:-2],
        "(?i)spam",
        "(?:ab)?c+",
        r"(?P<name>a)b",
        "[]x]+",
        "(a)(b)(c)",
        "x{3}",
        "(a|b)c*",
    ],
)
def test_what_may_be_written(text: str) -> None:
    """Ordinary expressions are taken."""
    assert compile_bounded(text).pattern == text


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("(a+)+", "use [...] instead"),
        ("(a|b)*", "use [...] instead"),
        ("((a|b)c)+", "use [...] instead"),
        ("(a*){2,}", "use [...] instead"),
        ("(a*){10}", "use [...] instead"),
        ("(a?){9}b", "use [...] instead"),
        (".*.*.*", "two * or + at most"),
        ("a?" * 30 + "a" * 30, "two * or + at most"),
        ("(a|a)" * 20, "two * or + at most"),
        ("a{1,9}" * 6, "two * or + at most"),
        ("(?=a)b", "use several conditions"),
        ("(?<!a)b", "use several conditions"),
        (r"(a)\1", "repeat what it stands for"),
        (r"(?P<x>a)(?P=x)", "repeat what it stands for"),
        ("(", "not a regular expression"),
        ("a{99999999999999}", "not a regular expression"),
        ("a" * 201, "longer than 200 characters"),
    ],
)
def test_what_may_not_be_written(text: str, remedy: str) -> None:
    """What can take for ever is refused with what to write instead."""
    with pytest.raises(ValueError, match=re.escape(remedy)):
        compile_bounded(text)


@pytest.mark.parametrize(
    "text", [".*.*x", "a*a*b", "(a|b)a*a*c", "a{1,50}a{1,50}a{1,50}b", "^.*a.*b$", "[a-z]*[a-z]*$x"]
)
def test_the_worst_of_what_may_be_written_ends_soon(text: str) -> None:
    """Searching a hostile value takes less than half a second of work, whatever its length."""
    pattern = compile_bounded(text)
    began = time.process_time()
    found_in(pattern, "a" * 1_000_000)
    assert time.process_time() - began < 0.5


def test_only_the_beginning_is_searched() -> None:
    """Two hundred and fifty-six characters are looked at."""
    pattern = compile_bounded("b")
    assert found_in(pattern, "a" * 255 + "b")
    assert not found_in(pattern, "a" * 256 + "b")
