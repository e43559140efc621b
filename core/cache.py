"""Machine-wide cache of expensive data: the first process writes a file, the others memory-map it and share its pages.

Processes share where they have joined the same cache (`join_cache`); else each process builds its own data. No fault of
the cache ends a run: a process that cannot read or write a file builds the data itself.
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

from gatesweep.core.files import hold_lock, renamed_into, try_lock

Recipe = TypeVar("Recipe", bound=Hashable)
Value = TypeVar("Value")
CPU = torch.device("cpu")
MAX_FILES = 8  # files of one cache: a search over data writes another file for each trial
USERS_LOCK = "users"  # a folder's lock, shared by the processes that may read in it

_name: str | None = None
_folder: Path | None = None
_membership: contextlib.ExitStack | None = None  # holds the folder's lock


def machine_cache(make: Callable[[Recipe, torch.device], Value]) -> Callable[[Recipe, torch.device], Value]:
    """Decorate `make`, so that it runs once for each recipe: on this machine in a joined cache, else in this process.

    `make(recipe, device)` must be a pure function of the recipe, and return something that can be pickled, with its
    tensors on `device`. The `repr` of a recipe identifies it. In a joined cache `make` runs on the CPU. There the
    tensors are pages of the file until a process writes to them; on another device each process has a copy.
    """

    @lru_cache(maxsize=4)
    def cached(recipe: Recipe, device: torch.device) -> Value:
        if _folder is None:
            return make(recipe, device)
        # No file is older than the code: a cache ends with the sweep that named it.
        key = f"{make.__module__}.{make.__qualname__} {recipe!r}"
        file = _folder / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"
        return _load_or_make(file, lambda on: make(recipe, on), device)

    return cached


@contextlib.contextmanager
def cache_scope() -> Iterator[None]:
    """Join a new cache during the block; its files on this machine are deleted at the end.

    Other processes share it by `join_cache(cache_name())`.
    """
    join_cache(uuid.uuid4().hex)
    folder = _folder
    try:
        yield
    finally:
        join_cache(None)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def join_cache(name: str | None) -> None:
    """Share data with the processes of this user and machine that joined the cache `name`; None: with no process."""
    global _name, _folder, _membership
    if name == _name:
        return
    if _membership:
        _membership.close()
    _name, _folder, _membership = name, None, None
    if name is None:
        return
    with contextlib.suppress(OSError):
        home = _home()
        _remove_unused(home)
        folder = home / name
        folder.mkdir(exist_ok=True)
        _membership = contextlib.ExitStack()
        _membership.enter_context(hold_lock(folder / USERS_LOCK, shared=True, required=True))
        _folder = folder


def cache_name() -> str | None:
    """Return the name of the cache that this process joined; None if it joined none."""
    return _name


def _load_or_make(file: Path, make: Callable[[torch.device], Value], device: torch.device) -> Value:
    lock = contextlib.ExitStack()
    try:
        lock.enter_context(hold_lock(file.with_suffix(".lock"), required=True))
    except OSError:  # the folder is gone, or the disk is full
        return make(device)
    with lock:
        if not file.exists():
            _write(file, make(CPU))
    try:
        # Unpickling runs code, but only this user can write in the folder: see `_home`.
        return torch.load(file, map_location=device, mmap=True, weights_only=False)
    except Exception:  # an empty file: the value could not be written
        return make(device)


def _write(file: Path, value: Any) -> None:
    """Write the file of a value; an empty file where that fails, so that no other process waits for another attempt."""
    with contextlib.suppress(OSError):
        try:
            with renamed_into(file) as aside:
                torch.save(value, aside)
        except Exception:  # pickling raises errors of many types, a full disk RuntimeError
            file.touch()
        files = sorted(file.parent.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        for old in files[:-MAX_FILES]:
            old.unlink()  # a process that has mapped it keeps its pages


def _home() -> Path:
    """Return the folder of this user's caches. Raises PermissionError where another user could write in it."""
    home = Path(tempfile.gettempdir()) / f"gatesweep-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    entry = home.lstat()
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.getuid() or entry.st_mode & 0o077:
        raise PermissionError(str(home))
    return home


def _remove_unused(home: Path) -> None:
    """Delete the caches of sweeps that were killed, or that ended on another machine."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError), try_lock(folder / USERS_LOCK, required=True) as unused:
            if unused:
                shutil.rmtree(folder, ignore_errors=True)
