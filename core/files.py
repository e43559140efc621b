"""Files that others may read or write at the same time: written aside and renamed, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one."""
    with renamed_into(path) as aside:
        if isinstance(content, str):
            aside.write_text(content)
        else:
            aside.write_bytes(content)


@contextlib.contextmanager
def renamed_into(path: Path) -> Iterator[Path]:
    """A path beside `path`, for a new file, folder or link: renamed when the block ends, removed on a fault."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def hold_lock(path: Path, shared: bool = False) -> Iterator[None]:
    """Wait for the lock on a file, made if needed, and hold it. The kernel frees the lock of a killed process."""
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock on a file if nobody else does; yields whether it is held."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(path: Path) -> bool:
    """True while another process holds the lock on a file."""
    if not path.exists():
        return False
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
