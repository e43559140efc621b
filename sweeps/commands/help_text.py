"""Text of `--help`: paragraphs wrapped to the terminal, configuration groups, and keys with their default values."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from gatesweep.sweeps.config.groups import (
    MAIN,
    Key,
    default_choices,
    default_keys,
    group_choices,
    read_config_file,
    typed_choices,
)

COMMENT_COLUMN = 36
NARROWEST = 60  # columns; a narrower terminal breaks the lines itself


class HelpFormatter(argparse.HelpFormatter):
    """Paragraphs stay apart, and an item of a list, which begins with two spaces, is wrapped under its own text."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_paragraph(part, width) for part in text.strip().split("\n\n"))


def help_width() -> int:
    """The columns that help may fill."""
    return max(NARROWEST, shutil.get_terminal_size().columns - 2)


def config_help(words: Sequence[str] = (), groups: Sequence[str] | None = None, keys: bool = True) -> str:
    """The configuration groups (all, or some) with their choices, and the keys of a sweep with their values.

    It is the default sweep, or that of the choices among the `words` of the command: experiment=mlp.
    """
    typed, width = typed_choices(words), help_width()
    defaults = default_choices(typed)
    offered = {group: names for group, names in group_choices().items() if groups is None or group in groups}
    described = read_config_file("", MAIN).comments
    lines = ["configuration groups, GROUP=CHOICE (* marks the default):"]
    for group, names in offered.items():
        marked = ", ".join(f"*{name}" if defaults.get(group) == name else name for name in names)
        remark = described.get(group, "")
        lines += _columns(f"  {group}", f"{remark}: {marked}" if remark else marked, width, 18)
    if keys:
        which = " ".join(f"{group}={choice}" for group, choice in typed.items()) or "the default sweep"
        other = "experiment=mlp --help" if not typed else "--cfg"
        lines += ["", *_wrapped(f"keys, KEY=VALUE, with the values of {which} (`{other}`: of others):", width)]
        lines += _key_lines(default_keys(typed), defaults, width)
    return "\n".join(lines)


def show_value(value: Any) -> str:
    """A value as it can be typed on a command line."""
    if isinstance(value, list):
        return f"[{','.join(show_value(item) for item in value)}]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:-]+", value) else f"'{value}'"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def _key_lines(keys: Iterable[Key], defaults: dict[str, str], width: int) -> list[str]:
    """The keys, those of each section together under the heading of its file."""
    sections: dict[str, list[Key]] = {}
    for key in keys:
        sections.setdefault(_section(key.name), []).append(key)
    order = sorted(sections, key=lambda name: name != "")  # stable: the top-level keys first, then as in the files
    lines = []
    for name in order:
        choice = defaults.get(name)
        heading = read_config_file(name, choice).heading if choice else ""
        title = f"{name}={choice}: {heading}" if choice else name or "the sweep itself"
        lines += ["", *_wrapped(title, width, "  ")]
        for key in sections[name]:
            lines += _columns(f"    {key.name}={show_value(key.value)}", key.comment, width, COMMENT_COLUMN)
    return lines


def _section(name: str) -> str:
    if name.startswith("search.space."):
        return "search/space"
    return name.partition(".")[0] if "." in name else ""


def _columns(left: str, right: str, width: int, column: int) -> list[str]:
    """Two columns; the right one begins on a line of its own where the left one is too long."""
    if not right:
        return [left]
    wrapped = textwrap.wrap(right, width - column, break_long_words=False, break_on_hyphens=False)
    indent = " " * column
    if len(left) + 2 <= column:
        return [left.ljust(column) + wrapped[0], *(indent + line for line in wrapped[1:])]
    return [left, *(indent + line for line in wrapped)]


def _paragraph(text: str, width: int) -> str:
    if not text.startswith("  "):
        return "\n".join(_wrapped(" ".join(text.split()), width))
    lines = []
    for item in text.splitlines():
        term, _, rest = item.strip().partition("  ")
        lines += _columns(f"  {term}", rest.strip(), width, 2 + item.strip().find(rest.strip(), len(term)))
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
