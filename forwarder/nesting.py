"""How deep JSON text is nested, told without decoding it: a decoder gives up, or recurses, where it matters."""

import re
from typing import Final

# At 5,000 levels a real RudderStack stops delivering everything of the source; no template reads so deep.
LEVELS_MAX: Final = 200
TOO_DEEP: Final = f"nested deeper than {LEVELS_MAX} levels"

# Whole strings are taken at once, so that no bracket inside one counts. Possessive: nothing is tried twice.
# A quote that ends nowhere is a token, too: were it passed over, each one behind it would search the rest again.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]|"', re.DOTALL)


def is_too_deep(text: bytes, *, levels_max: int = LEVELS_MAX) -> bool:
    """Tell whether JSON text nests objects and lists deeper than so many levels; quick whatever the bytes are."""
    if text.count(b"{") + text.count(b"[") <= levels_max:
        return False  # most events: too few brackets to be that deep, and counting is much quicker than walking
    level = 0
    for token in _TOKEN.finditer(text):
        first = token[0][:1]
        if first in b"[{":
            level += 1
            if level > levels_max:
                return True
        elif first in b"]}":
            level -= 1
        elif token[0] == b'"':
            return False  # no JSON, and nothing behind it nests: the decoder will say so
    return False
