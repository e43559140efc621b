"""Start and end of every command: arguments, exit codes, errors in one line."""

from __future__ import annotations

import errno
import os
import pkgutil
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.arguments import COMMANDS, parse
from gatesweep.sweeps.commands.faults import describe_fault
from gatesweep.sweeps.commands.signals import INTERRUPTED, handle_signals, leave_at_once
from gatesweep.sweeps.config.groups import add_config_folder
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import trust_modules

if TYPE_CHECKING:
    from gatesweep.sweeps.config.schema import Config

PASSED, FAULT, BAD_INPUT, NONE_PASSED = 0, 1, 2, 3


def run_command(name: str, argv: Sequence[str] | None = None, last: bool | None = None) -> int:
    """Parse the arguments (by default those of the process), import a command and run it; returns the exit code.

    Bad input, a fault and an interruption are each told in one line on standard error. `last`: the process ends behind
    the call; by default where there is no `argv`.
    """
    try:
        with handle_signals(argv is None if last is None else last):
            arguments = parse(name, argv)
            trust_modules(name for names in getattr(arguments, "trust", []) for name in names.split(","))
            if folder := getattr(arguments, "config_dir", None):
                add_config_folder(folder)
            if COMMANDS[name].takes_long and not arguments.cfg and sys.stdout.isatty():
                words = redact(shlex.join(arguments.overrides))
                print(f"starting: gatesweep {name} {words}".rstrip(), flush=True)
            with leave_at_once():
                work: Callable[..., int] = pkgutil.resolve_name(COMMANDS[name].work)
            code = work(arguments)
            sys.stdout.flush()
            return code
    except InputError as error:
        print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as end:
        print("; go on with: ".join(["interrupted", *map(str, end.args)]), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `gatesweep run --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAULT
    except Exception as fault:
        if isinstance(fault, OSError) and fault.errno == errno.ENAMETOOLONG:  # every path comes from a person
            shown = redact(str(fault.filename)[:40])
            print(f"error: got {shown!r}..., expected a shorter path ({fault.strerror})", file=sys.stderr)
            return BAD_INPUT
        print(describe_fault(fault), file=sys.stderr)
        return FAULT


def print_config(config: Config) -> int:
    """Print a configuration as YAML, for `--cfg`; returns the exit code."""
    from gatesweep.sweeps.config.schema import make_gate  # here, for pydantic takes a while to import
    from gatesweep.sweeps.config.values import to_yaml

    print(to_yaml(config), end="")
    gate = make_gate(config.gate)
    for line in gate.unit_lines:
        print(f"# gate: {line}")
    if gate.rules and not gate.baseline and gate.shortfall == "bounded":
        print(
            "# gate: a sweep measures the trivial baseline first, where the trainable has one; it replaces these units"
        )
    return PASSED
