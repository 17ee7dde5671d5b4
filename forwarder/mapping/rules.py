"""The operator's rules: filter, rename, set, hash, remove. Their format is described in `docs/rules.md`.

Pure: reading the file is somebody else's business.
"""

from dataclasses import dataclass, field

from forwarder.mapping.mapped import MappedEvent
from forwarder.mapping.rule import Hasher, Rule, event_of, hasher_with, tree_of
from forwarder.mapping.rules_file import read_rules
from forwarder.model import Filtered


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
        salt, rules = read_rules(text, file=file)
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
