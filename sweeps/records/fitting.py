"""Tables that fit a terminal: names are folded at their underscores, and the least important columns are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gatesweep.sweeps.records.text import text_table

GAP = 2  # spaces between columns


def fit_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, order: Sequence[int]) -> str:
    """Return a table of at most `width` characters, aligned to the right; the first column is always there.

    `order` lists the positions of the columns in the order in which they stand, the most important first. What does not
    fit is named in a line below the table.
    """
    widths = [_narrowest(name, [row[position] for row in rows]) for position, name in enumerate(columns)]
    kept: list[int] = []
    for position in order:
        if not kept or sum(widths[other] + GAP for other in kept) + widths[position] <= width:
            kept.append(position)
    heads = [_fold(columns[position], widths[position]) for position in kept]
    height = max(map(len, heads), default=1)
    padded = [[""] * (height - len(head)) + head for head in heads]
    header = [[head[line] for head in padded] for line in range(height)]
    table = text_table(header[0], [*header[1:], *([row[position] for position in kept] for row in rows)], align="right")
    left_out = [name for position, name in enumerate(columns) if position not in kept]
    return f"{table}\n{_note(left_out, width)}" if left_out else table


def _note(names: Sequence[str], width: int) -> str:
    """Return the line about columns that are left out; it counts those for which it has no room."""
    for shown in range(len(names), -1, -1):
        rest = len(names) - shown
        words = [*names[:shown], *([f"{rest} more" if shown else f"{rest} columns"] if rest else [])]
        if len(line := f"not shown: {', '.join(words)}") <= width:
            break
    return line


def _pieces(name: str) -> list[str]:
    return re.findall(r"[^_./=]*[_./=]?", name)[:-1] or [name]


def _narrowest(name: str, cells: Sequence[str]) -> int:
    return max([len(piece) for piece in _pieces(name)] + [len(cell) for cell in cells])


def _fold(name: str, width: int) -> list[str]:
    """Break a name between its pieces into lines of at most `width` characters."""
    lines = [""]
    for piece in _pieces(name):
        if len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return lines
