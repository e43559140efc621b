"""Folders of results: checks, names, and the link to the newest."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path, renamed_into, write_atomically
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.records.layout import CONFIG


def check_results_folder(path: Path) -> None:
    """Raise InputError unless a folder can be made and written at `path`, and lasts; leave nothing there."""
    if "working_dir_files" in path.parts:  # where Ray unpacks what `ray job submit` uploads
        raise InputError(
            f"results: got {str(path)!r}, which goes with the job's code: "
            "results=/a/folder/that/stays, or GATESWEEP_RESULTS"
        )
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        make_folder(path, new=False)
    except OSError as error:
        raise InputError(
            f"results: got {str(path)!r}, expected a folder that can be made ({error.strerror})"
        ) from error
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"results: got {str(path)!r}, expected a folder that can be written ({error.strerror})"
        ) from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # another process may use it by now
                folder.rmdir()


def new_folder(config: Config, suffix: str = "") -> Path:
    """A name that is not taken, in the results folder; nothing is made."""
    root = full_path("results", config.results)
    name = "-".join(part for part in (time.strftime("%Y%m%d-%H%M%S"), config.name, suffix) if part)
    # os.path.exists is False, too, for a name that is too long
    return next(path for path in _candidates(root / name) if not os.path.exists(path))


def make_folder(path: Path, new: bool) -> Path:
    """Make a folder and those above it; a `new` one gets another name where the name was taken meanwhile.

    Returns the folder. Raises InputError where it cannot be made.
    """
    try:
        if not new:
            path.mkdir(parents=True, exist_ok=True)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        for candidate in _candidates(path):
            with contextlib.suppress(FileExistsError):
                candidate.mkdir()
                return candidate
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    except OSError as error:
        raise InputError(
            f"results: got {str(path)!r}, expected a folder that can be made ({error.strerror})"
        ) from error


def write_config(folder: Path, config: Config) -> None:
    """Write `config.yaml` of a sweep or a run. Raises InputError where the folder cannot be written."""
    try:
        write_atomically(folder / CONFIG, to_yaml(config))
    except OSError as error:
        raise InputError(
            f"results: got {str(folder)!r}, expected a folder that can be written ({error.strerror})"
        ) from error


def point_link(link: Path, folder: Path) -> None:
    """Make `link` a relative symbolic link to `folder`, in one step; say so where that cannot be."""
    try:
        with renamed_into(link) as aside:
            aside.symlink_to(folder.name)
    except OSError as error:  # the link is a convenience, and some file systems have none
        print(f"{link}: no link to the newest ({error.strerror}); its folder is {folder}", flush=True)


def _candidates(path: Path) -> Iterator[Path]:
    """Yield the path itself, then names with a number behind it."""
    return (path.with_name(f"{path.name}{number}") for number in ("", *range(2, 1000)))
