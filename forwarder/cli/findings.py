"""What `forwarder check` found: a level, what was looked at, and what to do. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forwarder.cli import show

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `text` says how it is and, unless ok, what to do."""

    level: Level
    name: str
    text: str

    def line(self) -> str:
        """Write it as a line of columns."""
        return f"{show.coloured(self.level, 4)}  {self.name:<14}  {show.plain(self.text)}"

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def is_failed(findings: Sequence[Finding]) -> bool:
    """Tell whether something must be put right before the daemon can work."""
    return any(finding.level == "fail" for finding in findings)
