"""How the findings of `forwarder check` are shown on a terminal. Pure."""

from forwarder.cli import show
from forwarder.operator.checks import Finding


def line(finding: Finding) -> str:
    """Write a finding as a line of columns."""
    return f"{show.coloured(finding.level, 4)}  {finding.name:<14}  {show.plain(finding.text)}"
