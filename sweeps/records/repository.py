"""Git's answers about a file: its repository's commit, and is anything there that the commit does not hold."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterable
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
    top: Path | None = None  # the folder of the repository


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
            return State(commit, not known or self._changed(top), top)
        except subprocess.CalledProcessError:
            return State(commit, True if top and not commit else None)  # a repository without a commit yet
        except (OSError, subprocess.SubprocessError, ValueError):
            return State(commit, None)

    def dirty(self, state: State, files: Iterable[Path]) -> bool | None:
        """Return True where `state` is dirty, or a file is not, byte for byte, what its commit holds; None: not known.

        `git status` is not enough: it can be told to overlook files, and ignores some.
        """
        if state.dirty or not (state.commit and state.top):
            return state.dirty
        try:
            return True if not self._holds(state.top, state.commit, list(files)) else state.dirty
        except (OSError, subprocess.SubprocessError, ValueError):
            return None

    def _holds(self, top: Path, commit: str, files: list[Path]) -> bool:
        """Return True if a commit of the repository `top`, or of its submodules at that commit, holds the files."""
        inner: dict[Path, list[Path]] = {}
        for file in files:
            if not file.is_relative_to(top):
                return False
            inner.setdefault(next(path for path in file.parents if path == top or (path / ".git").exists()), []).append(
                file
            )
        own = inner.pop(top, [])
        asked = b"".join(os.fsencode(f"{commit}:{file.relative_to(top).as_posix()}") + b"\n" for file in own)
        answers = self._ask(top, "cat-file", "--batch-check", questions=asked).splitlines() if own else []
        if len(answers) != len(own):  # a name with a line break
            return False
        for file, answer in zip(own, answers, strict=True):
            name, *rest = answer.split()
            if rest[:1] != ["blob"] or not _is_blob(name, file.read_bytes()):
                return False
        for folder, names in inner.items():
            link = self._ask(top, "ls-tree", "-d", commit, "--", folder.relative_to(top).as_posix()).split()
            if link[1:2] != ["commit"] or not self._holds(folder, link[2], names):
                return False
        return True

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

    def _ask(self, folder: Path, *arguments: str, questions: bytes = b"") -> str:
        """Return git's answer; it reads `questions`.

        Raises CalledProcessError, TimeoutExpired, and OSError where there is no git.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired("git", SECONDS)
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            input=questions, capture_output=True, check=True, timeout=left,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1"},
        )  # fmt: skip
        return os.fsdecode(done.stdout)


def _is_blob(name: str, content: bytes) -> bool:
    """Return True if git names this content so, with line ends as they are or as git may have stored them."""
    make = hashlib.sha1 if len(name) == 40 else hashlib.sha256
    texts = (content, content.replace(b"\r\n", b"\n"))
    return name in [make(b"blob %d\0%b" % (len(text), text)).hexdigest() for text in texts]


def _is_recorded(path: Path) -> bool:
    """Return True for a file in the folder of a sweep or of a trial, wherever results are kept."""
    return any((parent / CONFIG).is_file() and (parent / EVENTS).is_file() for parent in path.parents)
