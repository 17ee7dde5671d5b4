"""Regular expressions that an operator may write without ever making the daemon hang.

Python's engine backtracks, and what it searches was written by strangers. So only expressions whose
cost stays bounded are taken, and only the beginning of a value is searched.
"""

import re

PATTERN_CHARACTERS_MAX = 200
SEARCHED_CHARACTERS_MAX = 256
# How many ways the engine may have to try from one place: what two `.*` and one `?` beside them allow.
WAYS_MAX = 2 * SEARCHED_CHARACTERS_MAX**2

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<open>\((?:\?(?:P<\w+>|P=\w+|<[=!]|[=!>:(#]|[aiLmsux-]+[:)]))?)|(?P<close>\))|(?P<or>\|)"
    r"|(?P<repeat>[*+?]|\{\d*,?\d*\})|(?P<other>.)",
    re.DOTALL,
)
_DIGITS = frozenset("123456789")


def compile_bounded(text: str) -> re.Pattern[str]:
    """Return the compiled expression; raises `ValueError` that says what to write instead."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise ValueError(f"longer than {PATTERN_CHARACTERS_MAX} characters")
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    _refuse_unbounded(text)
    return pattern


def found_in(pattern: re.Pattern[str], text: str) -> bool:
    """Tell whether the expression is found in the first 256 characters."""
    return pattern.search(text[:SEARCHED_CHARACTERS_MAX]) is not None


def _refuse_unbounded(text: str) -> None:
    ways = 1
    groups = [1]  # the alternatives and repeats of each open group
    closed = 1  # the same of the group that was closed just before; 1 when it had none, or there is none
    for token in _TOKEN.finditer(text):
        repeat, opening = token["repeat"], token["open"] or ""
        if (token["escaped"] or "") in _DIGITS or opening.startswith("(?P="):
            raise ValueError("a reference back to a group can take for ever: repeat what it stands for instead")
        _refuse_look_around(opening)
        here = _ways_of(repeat) if repeat else 2 if token["or"] else 1
        if closed > 1 and here > 1 and repeat not in ("?", None):
            raise ValueError(
                "a repeat of a group that repeats or has alternatives can take for ever: use [...] instead"
            )
        ways *= here
        groups[-1] = max(groups[-1], here)
        closed = 1
        if opening:
            groups += [] if opening.endswith(")") else [1]  # `(?i)` opens nothing
        elif token["close"] and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = max(groups[-1], closed)
    if ways > WAYS_MAX:
        raise ValueError("so many repeats and alternatives can take for ever: two * or + at most, or use [...] instead")


def _refuse_look_around(opening: str) -> None:
    if opening.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?(")):
        raise ValueError("looking ahead or behind is not supported: use several conditions, or `not`")


def _ways_of(repeat: str) -> int:
    if repeat == "?":
        return 2
    if repeat in "*+":
        return SEARCHED_CHARACTERS_MAX
    low, comma, high = repeat.strip("{}").partition(",")
    if not comma:
        return max(int(low or 1), 1)  # exact, and yet it multiplies what stands inside
    return min(int(high or SEARCHED_CHARACTERS_MAX), SEARCHED_CHARACTERS_MAX)
