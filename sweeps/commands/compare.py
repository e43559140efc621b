"""Compare sweeps in a table, and in a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import PASSED, run_command
from gatesweep.sweeps.records.layout import check_entries, is_sweep
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.text import text_table
from gatesweep.sweeps.reports.comparison import comparison_row, describe_gates, group_by_gate, write_comparison


def find_sweeps(arguments: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The folders of sweeps, each once, and the other paths. Raises InputError for a path that is not there."""
    missing = [path for path in arguments if not path.exists()]
    if missing:
        raise InputError(f"sweep: got {str(missing[0])!r}, expected the folder of a sweep (it is not there)")
    paths = list(dict.fromkeys(path.resolve() for path in arguments))
    sweeps = [path for path in paths if is_sweep(path)]
    for sweep in sweeps:
        check_entries(sweep, "sweep")
    return sweeps, [path for path in paths if path not in sweeps]


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep compare`; returns its exit code."""
    return run_command("compare", argv)


def compare_command(arguments: argparse.Namespace) -> int:
    """Print the table, and write the page if one is asked for; returns the exit code. Raises InputError."""
    folders, others = find_sweeps(arguments.sweeps)
    if not folders:
        raise InputError(f"got {str(arguments.sweeps[0])!r}, expected folders of sweeps (it is none)")
    if arguments.html:
        _check_page(arguments.html)
    if others:
        print(f"no sweeps, left out: {', '.join(path.name for path in others)}", file=sys.stderr)
    sweeps = [read_sweep(folder) for folder in folders]
    rows = [comparison_row(sweep) for sweep in sweeps]
    print(text_table(list(rows[0]), [list(row.values()) for row in rows]))
    groups = group_by_gate(sweeps)
    if len(groups) > 1:
        print("\nThe gates differ, so scores do not compare:")
        for group, text in zip(groups, describe_gates(groups), strict=True):
            print(f"  {text}: {', '.join(sweep.folder.name for sweep in group)}")
    if arguments.html:
        write_comparison(arguments.html, sweeps, rows)
        print(f"page {arguments.html}")
    return PASSED


def _check_page(path: Path) -> None:
    """Raise InputError unless `path` is free, or a file that can be replaced."""
    if path.exists() and not path.is_file():  # a folder, or a device, which writing aside would replace
        raise InputError(f"--html: got {str(path)!r}, expected a file")
    if not path.resolve().parent.is_dir():
        raise InputError(f"--html: got {str(path)!r}, whose folder is not there")
