"""Files that several processes read or write: atomic writes and locks."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from gatesweep.core.errors import InputError

# Errors of flock where a file system has no locks: Lustre without its option `flock`, NFS without its lock server.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def full_path(key: str, typed: str | Path) -> Path:
    """Return a path that a person typed as an absolute one, without links and `~`.

    Raises InputError, which names `key`, where links lead in a circle, and for a `~` of nobody.
    """
    try:
        return Path(typed).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{key}: got {str(typed)!r}, expected a path that can be followed ({error})") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside, then rename it: a reader sees the old content or the new one, never a part.

    Raises OSError, with the old file intact.
    """
    with renamed_into(path) as aside:
        if isinstance(content, str):
            aside.write_text(content)
        else:
            aside.write_bytes(content)


@contextlib.contextmanager
def renamed_into(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path` for a new file, folder or link.

    The new entry is renamed to `path` when the block ends, and removed when the block raises.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True) if aside.is_dir() else aside.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk (fsync). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_lock(path: Path, shared: bool = False, required: bool = False) -> Iterator[None]:
    """Wait for the lock on a file, and hold it during the block. The file is created if it is missing.

    The kernel frees the lock of a killed process. On a file system without locks the block runs without one, and a
    line says so once; with `required` it does not run. Raises OSError where the file cannot be opened, or not locked.
    """
    with path.open("a") as stream:
        _lock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, required)
        yield


@contextlib.contextmanager
def try_lock(path: Path, required: bool = False) -> Iterator[bool]:
    """Hold the lock on a file during the block if nobody else holds it; yields True if it is held.

    Without locks it is as for `hold_lock`. Raises OSError where the file cannot be opened, or not locked.
    """
    with path.open("a") as stream:
        try:
            _lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, required)
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(path: Path) -> bool:
    """Return True while another process holds the lock on a file; False where there are no locks."""
    if not path.exists():
        return False
    with path.open() as stream:
        try:
            _lock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(stream: TextIO, operation: int, required: bool = False) -> None:
    """Lock an open file. Raises BlockingIOError where another process holds it, and OSError."""
    try:
        fcntl.flock(stream, operation)
    except OSError as error:
        if required or error.errno not in NO_LOCKS:
            raise
        _say_no_locks(Path(stream.name).parent)


@lru_cache(maxsize=1)
def _say_no_locks(folder: Path) -> None:
    print(f"no locks on the file system of {folder}; go on without: give no folder to two commands at once",
          file=sys.stderr, flush=True)  # fmt: skip


def read_utf8(path: Path) -> str:
    """Read a text file of the user's, without a byte order mark, which spreadsheets write.

    Raises InputError, with file and line, for a byte that is not UTF-8.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: got the byte 0x{content[error.start]:02x}, expected text in UTF-8"
        ) from error
