"""What the two commands share: arguments, exit codes, the results folder, and errors in one line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.core.files import renamed_into
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import to_yaml

PASSED, FAULT, BAD_INPUT, NONE_PASSED, INTERRUPTED = 0, 1, 2, 3, 130


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser of overrides, with `--cfg`; its help lists the configuration's groups and keys."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_choices()
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="in Hydra's grammar: training.max_epochs=30")
    parser.add_argument("--cfg", action="store_true", help="print the configuration and exit")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the arguments (by default those of the process) and run a command; returns the exit code.

    An InputError is printed in one line. Any other exception is a fault of ours, and leaves as a traceback.
    """
    try:
        return command(parser.parse_intermixed_args(argv))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def print_config(config: Config) -> int:
    """Print a configuration as YAML, for `--cfg`; returns the exit code."""
    print(to_yaml(config), end="")
    return PASSED


def check_results_folder(path: Path) -> None:
    """Raise InputError unless a folder can be made and written at `path`, and lasts; leave nothing there."""
    if "working_dir_files" in path.parts:  # where Ray unpacks what `ray job submit` uploads
        raise InputError(
            f"results: got {str(path)!r}, which goes with the job's code: "
            "results=/a/folder/that/stays, or GATESWEEP_RESULTS"
        )
    existing = path
    while not existing.exists():
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable or os.statvfs(existing).f_flag & os.ST_RDONLY:
        raise InputError(f"results: got {str(path)!r}, expected a folder that can be written ({existing} cannot)")


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"results: got {str(path)!r}, expected a folder that can be made ({error.strerror})"
        ) from error


def new_folder(config: Config, suffix: str = "") -> Path:
    """A name that is not taken, in the results folder; nothing is made."""
    root = Path(config.results).resolve()
    name = "-".join(part for part in (time.strftime("%Y%m%d-%H%M%S"), config.name, suffix) if part)
    return next(path for path in (root / f"{name}{more}" for more in ("", *range(2, 1000))) if not path.exists())


def point_link(link: Path, folder: Path) -> None:
    """Make `link` a relative symbolic link to `folder`, in one step."""
    with renamed_into(link) as aside:
        aside.symlink_to(folder.name)


def _choices() -> str:
    """The config groups and the top-level keys, for --help."""
    groups = sorted(path for path in CONFIGS.glob("*/**/") if list(path.glob("*.yaml")))
    lines = [
        f"  {path.relative_to(CONFIGS)}={' | '.join(sorted(one.stem for one in path.glob('*.yaml')))}"
        for path in groups
    ]
    below = (CONFIGS / "config.yaml").read_text().partition("\n\n")[2]  # the list of defaults
    keys = [f"  {line}" for line in below.splitlines()]
    return "\n".join(["choices:", *lines, "", "keys:", *keys])
