"""Regular expressions that an operator may write without ever making the daemon hang.

Python's engine backtracks, and what it searches was written by strangers. So only expressions whose
cost stays bounded are taken, and only the beginning of a value is searched.
"""

import re

PATTERN_CHARACTERS_MAX = 200
SEARCHED_CHARACTERS_MAX = 256
WIDE_REPEATS_MAX = 2
_WIDE_FROM = 10  # `{1,9}` is narrow, `{1,10}`, `*` and `+` are wide

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?[^)\s]*?[:>)=!<]|\?P<\w+>)?)"
    r"|(?P<close>\))|(?P<or>\|)|(?P<repeat>[*+?]|\{\d*,?\d*\})|(?P<other>.)",
    re.DOTALL,
)


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
    groups = [False]  # of each open group: does it hold a repeat or an alternative?
    closed: bool | None = None  # the same of the group that was closed just before
    wide = 0
    for token in _TOKEN.finditer(text):
        repeat, opening = token["repeat"], token["open"]
        if (token["escaped"] or "") in set("123456789") or (opening or "").startswith("(?P="):
            raise ValueError("a reference back to a group can take for ever: repeat what it stands for instead")
        if opening:
            _refuse_look_around(opening)
            groups.append(False)
        elif token["or"]:
            groups[-1] = True
        elif repeat and repeat != "?" and _is_wide(repeat):
            wide += 1
            if closed:
                raise ValueError(
                    "a repeat of a group that repeats or has alternatives can take for ever: use [...] instead"
                )
            groups[-1] = True
        was_close = bool(token["close"])
        closed = groups.pop() if was_close and len(groups) > 1 else None
        groups[-1] = groups[-1] or bool(closed)
    if wide > WIDE_REPEATS_MAX:
        raise ValueError(
            f"more than {WIDE_REPEATS_MAX} repeats such as * and + can take for ever: use [...] or {{1,9}}"
        )


def _refuse_look_around(opening: str) -> None:
    if opening.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?(")):
        raise ValueError("looking ahead or behind is not supported: use several conditions, or `not`")


def _is_wide(repeat: str) -> bool:
    if repeat in "*+":
        return True
    low, comma, high = repeat.strip("{}").partition(",")
    if comma and not high:
        return True
    return int(high or low or 0) >= _WIDE_FROM
