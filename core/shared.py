"""What is dear to make, made once on a machine: its first process writes a file, and all map that, and share its pages.

Where nothing says which processes belong together (`use`), each makes its own. Nothing here can fail a run: whatever
goes wrong with the files, a process makes for itself what it could not share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from gatesweep.core.files import hold_lock, try_lock

Recipe = TypeVar("Recipe", bound=Hashable)
Made = TypeVar("Made")
CPU = torch.device("cpu")
MAX_FILES = 8  # files of one name: a search over data makes another for each trial

_name: str | None = None
_folder: Path | None = None
_user: contextlib.ExitStack | None = None  # locked as long as this process may read in the folder


@contextlib.contextmanager
def cache_scope() -> Iterator[None]:
    """Use a name of its own, for this process and those that are told it; this machine's files end with it."""
    join_cache(uuid.uuid4().hex)
    folder = _folder
    try:
        yield
    finally:
        join_cache(None)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def join_cache(name: str | None) -> None:
    """Share, from now on, with the processes of this machine and user that use the same name; None: with nobody."""
    global _name, _folder, _user
    if name == _name:
        return
    if _user:
        _user.close()
    _name, _folder, _user = name, None, None
    if name is None:
        return
    with contextlib.suppress(OSError):
        home = _home()
        _remove_unused(home)
        folder = home / name
        folder.mkdir(exist_ok=True)
        _user = contextlib.ExitStack()
        _user.enter_context(hold_lock(folder / "users", shared=True))
        _folder = folder


def cache_name() -> str | None:
    """What this process uses."""
    return _name


def machine_cache(make: Callable[[Recipe, torch.device], Made]) -> Callable[[Recipe, torch.device], Made]:
    """`make`, called once for each recipe in a process, or, by what `use` says, on a machine.

    It is a pure function of the recipe, whose `repr` tells it from others, and puts tensors on the device. What is
    shared is made on the CPU: there its tensors are the file's pages, until they are written to; on another device each
    process has a copy.
    """

    @lru_cache(maxsize=4)
    def made(recipe: Recipe, device: torch.device) -> Made:
        if _folder is None:
            return make(recipe, device)
        # Never a file of earlier code: a name lives no longer than the sweep that made it up.
        key = f"{make.__module__}.{make.__qualname__} {recipe!r}"
        return _shared(_folder / f"{hashlib.sha256(key.encode()).hexdigest()}.pt", lambda on: make(recipe, on), device)

    return made


def _shared(file: Path, make: Callable[[torch.device], Made], device: torch.device) -> Made:
    lock = contextlib.ExitStack()
    try:
        lock.enter_context(hold_lock(file.with_suffix(".lock")))
    except OSError:  # the folder is gone, or the disk is full
        return make(device)
    with lock:
        if not file.exists():
            _write(file, make(CPU))
    try:
        return torch.load(file, map_location=device, mmap=True, weights_only=False)  # the folder is nobody else's
    except Exception:  # a full disk, or what cannot be pickled
        return make(device)


def _write(file: Path, made: Any) -> None:
    """Write aside, then rename; an empty file where that fails, so that the others need not wait for the same."""
    aside = file.with_suffix(".part")
    try:
        torch.save(made, aside)
    except Exception:  # whatever pickling raises
        with contextlib.suppress(OSError):
            aside.write_bytes(b"")
    with contextlib.suppress(OSError):
        aside.replace(file)
        kept = sorted(file.parent.glob("*.pt"), key=lambda one: one.stat().st_mtime_ns)
        for old in kept[:-MAX_FILES]:
            old.unlink()  # who has mapped it keeps its pages


def _home() -> Path:
    """The folder of this user's shared files: what lies in it is unpickled, so nobody else may write there."""
    home = Path(tempfile.gettempdir()) / f"gatesweep-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(str(home))
    return home


def _remove_unused(home: Path) -> None:
    """Remove what sweeps left that were killed, or that ended on another machine."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError), try_lock(folder / "users") as unused:
            if unused:
                shutil.rmtree(folder, ignore_errors=True)
