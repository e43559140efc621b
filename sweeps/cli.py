"""What the two commands share: arguments, exit codes, the results folder, and errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gatesweep.sweeps.config import CONFIGS

PASSED, FAULT, BAD_INPUT, NONE_PASSED, INTERRUPTED = 0, 1, 2, 3, 130


def parser(doc: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_choices()
    )
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="in Hydra's grammar: training.max_epochs=30")
    made.add_argument("--cfg", action="store_true", help="print the configuration and exit")
    return made


def run(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    """Run a command and exit with its code; a ValueError is the user's, in one line, and anything else is ours."""
    try:
        sys.exit(command(parser.parse_intermixed_args()))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def check_folder(path: Path) -> None:
    """Raise ValueError unless a folder can be made and written at `path`, and lasts; leave nothing there."""
    if "working_dir_files" in path.parts:  # where Ray unpacks what `ray job submit` uploads
        raise ValueError(
            f"results: got {str(path)!r}, which goes with the job's code: "
            "results=/a/folder/that/stays, or GATESWEEP_RESULTS"
        )
    existing = path
    while not existing.exists():
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable or os.statvfs(existing).f_flag & os.ST_RDONLY:
        raise ValueError(f"results: got {str(path)!r}, expected a folder that can be written ({existing} cannot)")


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"results: got {str(path)!r}, expected a folder that can be made ({error.strerror})"
        ) from error


def new_folder(config: dict[str, Any], suffix: str = "") -> Path:
    """A name that is not taken, in the results folder; nothing is made."""
    root = Path(config["results"]).resolve()
    name = "-".join(part for part in (time.strftime("%Y%m%d-%H%M%S"), config["name"], suffix) if part)
    return next(path for path in (root / f"{name}{more}" for more in ("", *range(2, 1000))) if not path.exists())


def point(link: Path, folder: Path) -> None:
    """Make `link` a relative symbolic link to `folder`, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.name)
    aside.replace(link)


def facts() -> dict[str, Any]:
    """What else it takes to repeat a run: versions, and the commit (`-dirty` where the code has changed since)."""
    versions = {"python": platform.python_version()}
    for name in ("gatesweep", "torch", "ray", "optuna", "mlflow", "numpy", "hydra-core"):
        with contextlib.suppress(PackageNotFoundError):  # a cluster may have the code uploaded, not installed
            versions[name] = version(name)
    command = ["git", "-C", str(CONFIGS.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit: str | None
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # uploaded without its history
        commit = os.environ.get("GATESWEEP_COMMIT")
    return {"versions": versions, "git_commit": commit}


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
