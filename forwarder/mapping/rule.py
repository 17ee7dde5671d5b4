"""One rule: when it applies, and what it does to a mapped event. Pure.

Within a rule the actions happen in this order: filter, rename, set, copy, hash, remove.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from forwarder.mapping.fields import id_text
from forwarder.mapping.paths import REMOVED, Path
from forwarder.mapping.patterns import found_in

READABLE_ROOTS: Final = ("type", "data", "event", "userId", "anonymousId", "properties", "context")
CHANGEABLE_ROOTS: Final = ("userId", "anonymousId", "properties", "context")

Hasher = Callable[[Any], Any]


class MappedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One track call in the making, and the webhook it was made of.

    JSON values only, shared with the webhook: whoever changes something makes a copy of what
    leads to it. "" for an id that there is none of.
    """

    kind: str  # Courier's envelope type, `message:updated`
    data: dict[str, Any]  # the webhook's `data`, as it came
    event: str
    user_id: str
    anonymous_id: str
    properties: dict[str, Any]
    context: dict[str, Any]


class Operator(StrEnum):
    """What a condition asks of a value."""

    EQUALS = "equals"
    IN = "in"
    MATCHES = "matches"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One question about an event. Of several values that the path leads to, one is enough."""

    path: Path
    operator: Operator
    operand: Any  # a JSON value, a list of them, a compiled pattern, or whether it shall exist
    is_negated: bool = False

    def holds(self, tree: dict[str, Any]) -> bool:
        """Tell whether the event satisfies the condition."""
        return self._is_satisfied(self.path.values(tree)) is not self.is_negated

    def _is_satisfied(self, values: list[Any]) -> bool:
        match self.operator:
            case Operator.EQUALS:
                return any(_is_same(value, self.operand) for value in values)
            case Operator.IN:
                return any(_is_same(value, operand) for value in values for operand in self.operand)
            case Operator.MATCHES:
                return any(_is_found(self.operand, value) for value in values)
            case Operator.EXISTS:
                return any(value is not None for value in values) is self.operand


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What an operator wrote as one `[[rule]]`. Without conditions it applies to every event."""

    name: str  # "" when it has none
    conditions: tuple[Condition, ...] = ()
    is_filter: bool = False
    rename: str = ""
    assignments: tuple[tuple[Path, Any], ...] = ()
    copies: tuple[tuple[Path, Path], ...] = ()  # to, from
    hashed: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()

    def applies(self, tree: dict[str, Any]) -> bool:
        """Tell whether every condition holds; `tree` is what `tree_of` made."""
        return all(condition.holds(tree) for condition in self.conditions)

    def change(self, tree: dict[str, Any], hasher: Hasher) -> dict[str, Any]:
        """Return the tree with the rule's changes; the given one stays as it is."""
        if self.rename:
            tree = {**tree, "event": self.rename}
        for path, value in self.assignments:
            tree = path.put(tree, value)
        for path, source in self.copies:
            if values := source.values(tree):
                tree = path.put(tree, values[0])
        for path in self.hashed:
            tree = path.changed(tree, hasher)
        for path in self.removed:
            tree = path.changed(tree, _remove)
        return tree


def tree_of(event: MappedEvent) -> dict[str, Any]:
    """Return the event as the paths see it. An id that there is none of is absent."""
    tree: dict[str, Any] = {
        "type": event.kind,
        "data": event.data,
        "event": event.event,
        "properties": event.properties,
        "context": event.context,
    }
    if event.user_id:
        tree["userId"] = event.user_id
    if event.anonymous_id:
        tree["anonymousId"] = event.anonymous_id
    return tree


def event_of(tree: dict[str, Any], event: MappedEvent) -> MappedEvent:
    """Return the event with what the rules made of it."""
    return msgspec.structs.replace(
        event,
        event=tree["event"],
        user_id=id_text(tree.get("userId")),
        anonymous_id=id_text(tree.get("anonymousId")),
        properties=tree["properties"],
        context=tree["context"],
    )


def hasher_with(salt: str) -> Hasher:
    """Return what turns values into hexadecimal digests, the same for the same value.

    HMAC-SHA256 with the salt for a key, or plain SHA-256 when the salt is empty. Lists and objects
    keep their shape and have every value in them hashed; null stays null.
    """
    key = salt.encode()

    def hashed(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [hashed(element) for element in value]
        if isinstance(value, dict):
            return {name: hashed(item) for name, item in value.items()}
        text = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        if not key:
            return hashlib.sha256(text).hexdigest()
        return hmac.new(key, text, hashlib.sha256).hexdigest()

    return hashed


def _remove(_: Any) -> Any:
    return REMOVED


def _is_same(value: Any, operand: Any) -> bool:
    # To Python `True == 1`, to JSON they differ.
    return isinstance(value, bool) == isinstance(operand, bool) and bool(value == operand)


def _is_found(pattern: re.Pattern[str], value: Any) -> bool:
    if isinstance(value, str):
        return found_in(pattern, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return found_in(pattern, str(value))
    return False
