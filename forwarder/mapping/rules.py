"""The operator's rules: filter, rename, set, hash, remove; and their file, read with every mistake told at once.

Their format is described in `docs/rules.md`.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from forwarder.errors import RulesInvalid
from forwarder.mapping.paths import Path
from forwarder.mapping.patterns import compile_bounded
from forwarder.mapping.rule import (
    CHANGEABLE_ROOTS,
    READABLE_ROOTS,
    Condition,
    Hasher,
    MappedEvent,
    Operator,
    Rule,
    event_of,
    hasher_with,
    tree_of,
)
from forwarder.mapping.toml_lines import Place, key_lines
from forwarder.model import Filtered

RULES_MAX = 200
EVENT_CHARACTERS_MAX = 200

_TOP_KEYS = ("salt", "rule")
_RULE_KEYS = ("name", "when", "filter", "rename", "set", "copy", "hash", "remove")
_CONDITION_KEYS = ("field", "not", *(operator.value for operator in Operator))
# Stamped last, so that our own events can be told when they come back.
_FIXED_CONTEXT = ("integration", "library")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All rules, in the order in which they apply; each sees what the ones before it made."""

    rules: tuple[Rule, ...] = ()
    # In no `repr`: it knows the salt.
    hasher: Hasher = field(default=hasher_with(""), repr=False)

    @classmethod
    def parse(cls, text: str, *, file: str = "rules") -> "Rules":
        """Read the TOML of a rules file; `file` names it in errors.

        Raises `RulesInvalid` with every problem at once, each `file:line: key: problem and remedy`.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RulesInvalid(f"{file}: not TOML: {error}") from None
        reader = _Reader(file, key_lines(text))
        salt, rules = reader.document(document)
        if reader.problems:
            raise RulesInvalid("\n".join(reader.problems))
        return cls(rules=rules, hasher=hasher_with(salt))

    def apply(self, event: MappedEvent) -> MappedEvent | Filtered:
        """Return what the rules make of the event, or that one of them filters it. Never raises."""
        if not self.rules:
            return event
        tree = tree_of(event)
        for index, rule in enumerate(self.rules, start=1):
            if not rule.applies(tree):
                continue
            if rule.is_filter:
                return Filtered(reason=f"rule {rule.name or index}")
            tree = rule.change(tree, self.hasher)
        return event_of(tree, event)


class _Reader:
    """Collects the problems while it builds; what it returns counts only when there are none."""

    def __init__(self, file: str, lines: dict[Place, int]) -> None:
        self.problems: list[str] = []
        self._file = file
        self._lines = lines

    def document(self, document: dict[str, Any]) -> tuple[str, tuple[Rule, ...]]:
        self._known_keys(document, _TOP_KEYS, ())
        salt = self._typed(document, "salt", str, (), default="")
        tables = document.get("rule", [])
        if not isinstance(tables, list):
            self._report(("rule",), "is no list of tables: write [[rule]], with two brackets")
            return salt, ()
        if len(tables) > RULES_MAX:
            self._report(("rule",), f"holds more than {RULES_MAX} rules: join some of them")
        rules = tuple(self._rule(table, ("rule", index)) for index, table in enumerate(tables))
        for index, rule in enumerate(rules):
            if rule.hashed and "salt" not in document:
                self._report(
                    ("rule", index, "hash"),
                    'needs a salt: write salt = "a long secret text" above the rules, or salt = "" for plain SHA-256',
                )
        return salt, rules

    def _rule(self, table: Any, place: Place) -> Rule:
        if not isinstance(table, dict):
            self._report(place, "is no table: write [[rule]]")
            return Rule(name="")
        self._known_keys(table, _RULE_KEYS, place)
        rule = Rule(
            name=self._typed(table, "name", str, place, default=""),
            conditions=self._conditions(table.get("when", []), (*place, "when")),
            is_filter=self._typed(table, "filter", bool, place, default=False),
            rename=self._rename(table, place),
            assignments=self._assignments(table, place),
            copies=self._copies(table, place),
            hashed=self._paths(table, "hash", place),
            removed=self._paths(table, "remove", place),
        )
        changes = rule.rename or rule.assignments or rule.copies or rule.hashed or rule.removed
        if not rule.is_filter and not changes and not self._has_problem_in(place):
            self._report(place, "does nothing: give it filter = true, rename, set, copy, hash or remove")
        if rule.is_filter and changes:
            self._report((*place, "filter"), "leaves nothing to change: put the changes into a rule of their own")
        return rule

    def _rename(self, table: dict[str, Any], place: Place) -> str:
        name: str = self._typed(table, "rename", str, place, default="")
        if "rename" in table and isinstance(table["rename"], str) and not 0 < len(name.strip()) <= EVENT_CHARACTERS_MAX:
            self._report((*place, "rename"), f"is no event name: 1 to {EVENT_CHARACTERS_MAX} characters")
        return name

    def _conditions(self, value: Any, place: Place) -> tuple[Condition, ...]:
        if isinstance(value, dict):
            condition = self._condition(value, place)
            return () if condition is None else (condition,)
        if not isinstance(value, list):
            self._report(
                place, 'is neither a condition nor a list of them: write {field = "data.status", equals = "SENT"}'
            )
            return ()
        read = [self._condition(item, (*place, index)) for index, item in enumerate(value)]
        return tuple(condition for condition in read if condition is not None)

    def _condition(self, table: Any, place: Place) -> Condition | None:
        if not isinstance(table, dict):
            self._report(place, 'is no condition: write {field = "data.status", equals = "SENT"}')
            return None
        self._known_keys(table, _CONDITION_KEYS, place)
        given = [operator for operator in Operator if operator.value in table]
        if len(given) != 1:
            self._report(place, "needs exactly one of equals, in, matches, exists")
        if "field" not in table:
            self._report(place, 'names no field: add field = "data.status"')
        path = self._path(table.get("field"), (*place, "field"), READABLE_ROOTS) if "field" in table else None
        is_negated = self._typed(table, "not", bool, place, default=False)
        if path is None or len(given) != 1:
            return None
        operand = self._operand(given[0], table[given[0].value], (*place, given[0].value))
        return Condition(path=path, operator=given[0], operand=operand, is_negated=is_negated)

    def _operand(self, operator: Operator, value: Any, place: Place) -> Any:
        match operator:
            case Operator.EQUALS:
                return self._json(value, place)
            case Operator.IN:
                if not isinstance(value, list) or not value:
                    self._report(place, 'is no list: write in = ["SENT", "DELIVERED"]')
                    return ()
                return self._json(value, place)
            case Operator.MATCHES:
                return self._pattern(value, place)
            case Operator.EXISTS:
                if not isinstance(value, bool):
                    self._report(place, "is neither true nor false")
                return value

    def _pattern(self, value: Any, place: Place) -> Any:
        if not isinstance(value, str):
            self._report(place, "is no text: write the regular expression in single quotes")
            return None
        return self._checked(lambda: compile_bounded(value), place)

    def _assignments(self, table: dict[str, Any], place: Place) -> tuple[tuple[Path, Any], ...]:
        place = (*place, "set")
        value = table.get("set", {})
        if not isinstance(value, dict):
            self._report(place, 'is no table: write set = {"properties.team" = "growth"}')
            return ()
        read = [
            (self._target(name, (*place, name)), self._assigned(name, item, (*place, name)))
            for name, item in value.items()
        ]
        return tuple((path, item) for path, item in read if path is not None)

    def _copies(self, table: dict[str, Any], place: Place) -> tuple[tuple[Path, Path], ...]:
        place = (*place, "copy")
        value = table.get("copy", {})
        if not isinstance(value, dict):
            self._report(place, 'is no table: write copy = {"properties.team" = "data.metadata.team"}')
            return ()
        read = [
            (self._target(name, (*place, name)), self._path(item, (*place, name), READABLE_ROOTS))
            for name, item in value.items()
        ]
        return tuple((to, source) for to, source in read if to is not None and source is not None)

    def _assigned(self, name: str, value: Any, place: Place) -> Any:
        if name in ("userId", "anonymousId") and not isinstance(value, str):
            self._report(place, "is no text: an id is sent as text")
        if isinstance(value, dict) and name in CHANGEABLE_ROOTS:
            self._report(place, f'sets the whole of {name}: put the path in quotes, "{name}.…" = …')
        return self._json(value, place)

    def _paths(self, table: dict[str, Any], key: str, place: Place) -> tuple[Path, ...]:
        place = (*place, key)
        value = table.get(key, [])
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            self._report(place, 'is no list of paths: write ["properties.recipient"]')
            return ()
        read = [self._target(item, (*place, index)) for index, item in enumerate(items)]
        return tuple(path for path in read if path is not None)

    def _target(self, value: Any, place: Place) -> Path | None:
        path = self._path(value, place, CHANGEABLE_ROOTS)
        if path is None:
            return None
        is_id = path.root in ("userId", "anonymousId")
        if is_id and len(path.steps) > 1:
            self._report(place, f"leads into {path.root}, which is a text: write {path.root} alone")
        if not is_id and len(path.steps) == 1:
            self._report(place, f"is the whole of {path.root}: name something in it, {path.root}.…")
        if path.root == "context" and path.steps[1:2] and path.steps[1] in _FIXED_CONTEXT:
            self._report(place, "is the mark by which our own events are known: it cannot be changed")
        return path

    def _path(self, value: Any, place: Place, roots: Collection[str]) -> Path | None:
        if not isinstance(value, str):
            self._report(place, 'is no path: write it as text, "data.status"')
            return None
        path: Path | None = self._checked(lambda: Path.parse(value), place)
        if path is not None and path.root not in roots:
            self._report(
                place, f"begins with an unknown {path.root}{_meant(path.root, roots)}: begin with {', '.join(roots)}"
            )
            return None
        return path

    def _checked(self, make: Callable[[], Any], place: Place) -> Any:
        try:
            return make()
        except ValueError as error:
            self._report(place, f"is {error}" if str(error).startswith(("not ", "too ", "longer ")) else str(error))
            return None

    def _json(self, value: Any, place: Place) -> Any:
        if isinstance(value, list):
            return [self._json(item, place) for item in value]
        if isinstance(value, dict):
            return {name: self._json(item, place) for name, item in value.items()}
        if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            self._report(place, "holds a value that JSON has no form for: write dates as text")
        return value

    def _typed(self, table: dict[str, Any], key: str, kind: type[Any], place: Place, *, default: Any) -> Any:
        value = table.get(key, default)
        if not isinstance(value, kind):
            self._report((*place, key), "is no text" if kind is str else "is neither true nor false")
            return default
        return value

    def _known_keys(self, table: dict[str, Any], known: Collection[str], place: Place) -> None:
        for key in table:
            if key not in known:
                self._report((*place, key), f"is an unknown key{_meant(key, known)}: use {', '.join(known)}")

    def _has_problem_in(self, place: Place) -> bool:
        shown = _shown(place)
        return any(f": {shown}" in problem for problem in self.problems)

    def _report(self, place: Place, problem: str) -> None:
        line = next((self._lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in self._lines), 1)
        self.problems.append(f"{self._file}:{line}: {_shown(place)}: {problem}")


def _shown(place: Place) -> str:
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step + 1}]"
        else:
            text += f".{step}" if text and "." not in step else (f'."{step}"' if text else step)
    return text


def _meant(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
