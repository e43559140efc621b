"""Tables as text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], align: Literal["left", "right"] = "left") -> str:
    """Return the names of `columns` and the cells of `rows` as a table, with two spaces between columns.

    The lines of a table that is aligned to the left have no spaces at their ends.
    """
    table = [[printable(cell) for cell in line] for line in [columns, *rows]]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    if align == "right":
        lines = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
        return "\n".join(lines)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def format_cell(value: Any) -> str:
    """Return a value as it stands in a table: floats to four digits, None as an empty cell."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def format_interval(ends: tuple[float, float] | None) -> str:
    """Return the 95 % interval of a proportion as it stands behind it; empty for a metric that is none."""
    return f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""


def short_name(name: str) -> str:
    """Shorten a column's name: without `val/` and the sections of its key."""
    return name.removeprefix("val/").rpartition(".")[2]


def printable(text: str) -> str:
    """Return a text without the control characters by which a record could steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
