"""How deep text is nested, whatever the text is."""

from time import process_time

import pytest

from forwarder.nesting import LEVELS_MAX, is_too_deep


@pytest.mark.parametrize("levels", [1, LEVELS_MAX, LEVELS_MAX + 1])
def test_only_brackets_outside_of_texts_count(levels: int) -> None:
    """A bracket in a text nests nothing, behind an escaped quote neither."""
    text = b"[" * levels + b'"' + b'\\"[' * 300 + b'"' + b"]" * levels
    assert is_too_deep(text) is (levels > LEVELS_MAX)


def test_a_text_without_end_costs_no_more_than_its_length() -> None:
    """A signed body that was cut in a long text is told at once."""
    text = b"[]" * LEVELS_MAX + b'"' + b'\\"' * 20_000
    began_s = process_time()
    assert not is_too_deep(text)
    assert process_time() - began_s < 3
