"""The one table that a run ends with, as text that a document can carry."""

import os
import platform
import time
from collections.abc import Mapping, Sequence


def machine() -> str:
    """Return on what and when this ran."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def table(columns: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """Return rows of a name and a value under each column; numbers with thousands apart."""
    widths = [max(len(column), *(len(_text(row[n])) for row in rows.values())) for n, column in enumerate(columns)]
    first = max(len(name) for name in rows)
    lines = [" " * first + "".join(f"  {column:>{width}}" for column, width in zip(columns, widths, strict=True))]
    for name, row in rows.items():
        cells = "".join(f"  {_text(value):>{width}}" for value, width in zip(row, widths, strict=True))
        lines.append(f"{name:<{first}}{cells}")
    return "\n".join(lines)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
