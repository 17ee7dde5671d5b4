"""Where in a TOML file each key stands, which the standard library's parser does not tell.

For text that `tomllib` has taken already: nothing is checked here, only found.
"""

import re

Place = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]+")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?P<a>(?:\\.|(?!""").)*"{0,2})"""|\'\'\'(?P<b>(?:(?!\'\'\').)*\'{0,2})\'\'\''
    r'|"(?P<c>(?:\\.|[^"\\\n])*)"|\'(?P<d>[^\'\n]*)\'',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[Place, int]:
    """Return the line (from 1) of every key and list element: `("rule", 0, "when", 1, "equals")`."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Place, int] = {}
        self._lengths: dict[Place, int] = {}  # of the lists made by [[...]]

    def scan(self) -> dict[Place, int]:
        table: Place = ()
        while self._skip(_GAP):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
        return self._lines

    def _header(self, brackets: int) -> Place:
        self._at += brackets
        names = self._key()
        self._skip(_BLANK)
        line = self._line()
        self._at += brackets
        place: Place = ()
        for name in names[:-1]:
            place = self._last((*place, name))
        place = (*place, names[-1])
        if brackets == 1:
            place = self._last(place)
        else:
            index = self._lengths.get(place, 0)
            self._lengths[place] = index + 1
            self._lines.setdefault(place, line)
            place = (*place, index)
        self._lines.setdefault(place, line)
        return place

    def _last(self, place: Place) -> Place:
        length = self._lengths.get(place)
        return place if length is None else (*place, length - 1)

    def _pair(self, table: Place) -> None:
        line = self._line()
        place = table
        for name in self._key():
            place = (*place, name)
            self._lines.setdefault(place, line)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(place)

    def _key(self) -> list[str]:
        names: list[str] = []
        while self._skip(_BLANK):
            names.append(self._name())
            if not self._skip(_BLANK) or self._text[self._at] != ".":
                break
            self._at += 1
        return names

    def _name(self) -> str:
        match = _STRING.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
            return match["c"] if match["c"] is not None else match["d"] or ""
        match = _BARE_KEY.match(self._text, self._at)
        if match is None:
            self._at += 1
            return ""
        self._at = match.end()
        return match[0]

    def _value(self, place: Place) -> None:
        self._lines.setdefault(place, self._line())
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._list(place)
        elif opening == "{":
            self._inline_table(place)
        else:
            match = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            self._at = match.end() if match else self._at + 1

    def _list(self, place: Place) -> None:
        self._at += 1
        index = 0
        while self._skip(_GAP) and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._value((*place, index))
            index += 1
        self._at += 1

    def _inline_table(self, place: Place) -> None:
        self._at += 1
        while self._skip(_GAP) and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(place)
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Move past what matches; tell whether text is left."""
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at < len(self._text)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1
