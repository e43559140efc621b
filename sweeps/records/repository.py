"""Git's answers about a file: its repository's commit, and is anything there that the commit does not hold."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gatesweep.sweeps.records.layout import CONFIG, EVENTS

SECONDS = 10.0  # for all questions: a sweep does not wait for a huge repository
ENDINGS = "py pyi pyx ipynb c cc cpp cu cuh h rs sh yaml yml toml json ini cfg"  # of sources; logs are none
SOURCES = {f".{ending}" for ending in ENDINGS.split()}
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # in a hook, they would point to another repository


@dataclass(frozen=True)
class State:
    """The commit of a file's repository, and True where the file, or a source beside it, differs; None: not known."""

    commit: str | None = None
    dirty: bool | None = None


class Git:
    """Asks git about files, for SECONDS in all. The state of a file is unknown outside repositories that git trusts."""

    def __init__(self, without: Path | None = None) -> None:
        """`without` is a folder whose files are no sources: that of the results."""
        self.without = without.resolve() if without else None
        self.deadline = time.monotonic() + SECONDS
        self._changed = cache(self._ask_for_changes)

    def state(self, file: Path) -> State:
        """Return the state of a file, an absolute path without links."""
        top = commit = None
        try:
            top = Path(self._ask(file.parent, "rev-parse", "--show-toplevel").removesuffix("\n")).resolve()
            if "site-packages" in file.relative_to(top).parts:  # an environment within somebody's repository
                return State()
            commit = self._ask(top, "rev-parse", "--verify", "HEAD").strip()
            known = self._ask(top, "ls-files", "-z", "--", str(file))
            return State(commit, not known or self._changed(top))
        except subprocess.CalledProcessError:
            return State(commit, True if top and not commit else None)  # a repository without a commit yet
        except (OSError, subprocess.SubprocessError, ValueError):
            return State(commit, None)

    def _ask_for_changes(self, top: Path) -> bool:
        """Return True where files have changed, or where there are sources that git neither knows nor ignores.

        Results and environments are left out. Raises OSError and SubprocessError.
        """
        places = [".", ":(exclude,glob)**/site-packages/**"]
        if self.without and self.without != top and self.without.is_relative_to(top):
            places.append(f":(exclude,literal){self.without.relative_to(top)}")
        lines = self._ask(top, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *places)
        unknown = [top / line[3:] for line in lines.split("\0") if line.startswith("?? ")]
        sources = [path for path in unknown if path.suffix in SOURCES and not _is_recorded(path)]
        return bool(sources) or lines.count("\0") > len(unknown)

    def _ask(self, folder: Path, *arguments: str) -> str:
        """Return git's answer. Raises CalledProcessError, TimeoutExpired, and OSError where there is no git."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired("git", SECONDS)
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=left,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
        return os.fsdecode(done.stdout)


def _is_recorded(path: Path) -> bool:
    """Return True for a file in the folder of a sweep or of a trial, wherever results are kept."""
    return any((parent / CONFIG).is_file() and (parent / EVENTS).is_file() for parent in path.parents)
