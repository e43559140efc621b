"""Write the report of a sweep again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gatesweep.sweeps.commands.cli import PASSED, run_command
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.execution.progress import terminal_width
from gatesweep.sweeps.records.layout import is_running, require_sweep
from gatesweep.sweeps.records.provenance import KEYS
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_text, write_summary
from gatesweep.sweeps.reports.page import write_page


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep report`; returns its exit code."""
    return run_command("report", argv)


def report_command(arguments: argparse.Namespace) -> int:
    """Write the report and print the leaderboard; returns the exit code. Raises InputError."""
    folder = require_sweep(arguments.sweep).resolve()
    sweep = read_sweep(folder)
    if not is_running(folder):
        write_summary(folder, sweep.seconds, {key: sweep.provenance.get(key) for key in KEYS})
    print(leaderboard_text(leaderboard(folder), terminal_width(), make_gate(sweep.config.gate).reads))
    print(f"report {write_page(folder)}")
    return PASSED
