"""The command `gatesweep`: it lists the commands, or runs one."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

import gatesweep
from gatesweep.sweeps.commands.arguments import COMMANDS
from gatesweep.sweeps.commands.cli import BAD_INPUT, PASSED, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gatesweep ARGUMENTS`, by default those of the process; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in COMMANDS:
        return run_command(name, words[1:], last=argv is None)
    if name in ("-h", "--help"):
        print(overview())
        return PASSED
    if name == "--version":
        print(f"gatesweep {gatesweep.__version__}")
        return PASSED
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(COMMANDS)}"
    print(f"error: {name}: unknown command, {hint}", file=sys.stderr)
    return BAD_INPUT


def overview() -> str:
    """The commands, a line each."""
    summaries = "\n".join(f"  {name:<9} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: gatesweep COMMAND ...\n\n"
        "Distributed hyperparameter sweeps for models that must comply.\n\n"
        f"commands:\n{summaries}\n\n"
        "gatesweep COMMAND --help shows the arguments of one; gatesweep --version."
    )
