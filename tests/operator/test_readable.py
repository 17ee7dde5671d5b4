"""What people read of a payload is made quickly, whatever its bytes are."""

from forwarder.operator.readable import readable


def test_a_text_without_end_is_shown_at_once() -> None:
    """A string that never ends and is full of escaped quotes is looked at once, not once from every quote."""
    raw = b'{"a": "' + b'\\"' * 100_000
    assert readable(raw).is_cut


def test_deep_nesting_is_shown_as_it_came() -> None:
    """What nests deeper than people read is not indented."""
    assert readable(b"[" * 33 + b"]" * 33).text == "[" * 33 + "]" * 33
    assert readable(b"[" * 32 + b"]" * 32).text.count("\n") > 32
