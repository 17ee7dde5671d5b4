"""One word for one idea, and one place for one name."""

import re
from collections import defaultdict
from pathlib import Path

# What was said at first, and the field's word for it, which is the one in use.
_GLOSSARY = {
    "lend|lends|lent|lending|lender": "lease",
    "door|doors|porter|porters": "endpoint, authenticator",
    "parcel|parcels": "batch",
    "aftermath|setback|setbacks|strike|strikes": "outcome policy, failures",
    "accuse|accuses|accused|pardon|pardons|pardoned": "suspect, retry once",
    "carrier|carriers": "call executor",
    "gate|gates": "circuit breaker",
    "appetite|hungry|fruitless": "demand, idle, empty polls",
    "exhume|exhumes|exhumed": "requeue",
    "owed": "deferred settlements",
    "lane|lanes": "partition",
    "fold|folds": "checkpoint",
    "remember|remembers|remembered|recall|recalls|recalled": "put, get",
    "trail|trails|book|books": "attempts, totals",
    "wish|wishes|mould|moulds": "request, template",
    "player|players|performance|performances": "load driver, demo commands",
}
_OLD_WORDS = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(_GLOSSARY)})(?![A-Za-z])", flags=re.IGNORECASE)
_TEXTS = {".py", ".html", ".js", ".css", ".md", ".env", ".service", ".yaml"}
# Folders with the same modules inside, on purpose: one for each vendor, one for each engine.
_ENGINES = {"sqlite", "postgres"}
_SISTERS = ({"courier", "rudderstack"}, _ENGINES)


def _texts(checkout: Path) -> list[Path]:
    found = [checkout / name for name in ("README.md", "ARCHITECTURE.md", "config.example.env")]
    for folder in ("forwarder", "docs", "deploy"):
        found += sorted(path for path in (checkout / folder).rglob("*") if path.suffix in _TEXTS)
    return [path for path in found if "decisions" not in path.parts]  # those quote what was thrown away


def test_words_are_the_fields(checkout: Path) -> None:
    """Code, page and guides say what the field says: nobody has to learn a word that was coined here."""
    coined = [
        f"{path.relative_to(checkout)}:{number}: {found.group()}"
        for path in _texts(checkout)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        # camelCase and snake_case names are words, too.
        for found in _OLD_WORDS.finditer(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", line))
    ]
    assert not coined


def test_no_two_modules_have_one_name(checkout: Path) -> None:
    """A file's name says which it is; only sister folders repeat each other's."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sorted((checkout / "forwarder").rglob("*.py")):
        if not path.stem.startswith("__"):
            engine = next((part for part in path.parts if part in _ENGINES), path.parent.name)
            folders[path.stem].append(engine)
    doubled = {
        name: found
        for name, found in folders.items()
        if len(found) > 1 and not any(set(found) <= sisters and len(set(found)) == len(found) for sisters in _SISTERS)
    }
    assert not doubled
