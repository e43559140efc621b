"""Start and end of every command: arguments, exit codes, errors in one line."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.arguments import COMMANDS, parse
from gatesweep.sweeps.commands.faults import describe_fault
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import trust_modules

if TYPE_CHECKING:
    from gatesweep.sweeps.config.schema import Config

PASSED, FAULT, BAD_INPUT, NONE_PASSED, INTERRUPTED = 0, 1, 2, 3, 130


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments (by default those of the process), import a command and run it; returns the exit code.

    Bad input, a fault and an interruption are each told in one line on standard error.
    """
    try:
        arguments = parse(name, argv)
        trust_modules(name for names in getattr(arguments, "trust", []) for name in names.split(","))
        with leave_at_once_on_interrupt():
            work: Callable[..., int] = pkgutil.resolve_name(COMMANDS[name].work)
        code = work(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `gatesweep run --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAULT
    except Exception as fault:
        print(describe_fault(fault), file=sys.stderr)
        return FAULT


@contextlib.contextmanager
def leave_at_once_on_interrupt() -> Iterator[None]:
    """End the process on Ctrl-C within the block, where nothing has begun.

    A KeyboardInterrupt in the middle of an import may be turned into another error, or printed and ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: Any) -> None:
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(INTERRUPTED)


def print_config(config: Config) -> int:
    """Print a configuration as YAML, for `--cfg`; returns the exit code."""
    from gatesweep.sweeps.config.values import to_yaml  # here, for pydantic takes a while to import

    print(to_yaml(config), end="")
    return PASSED
