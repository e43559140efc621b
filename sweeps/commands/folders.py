"""Folders of results: checks, names, and the link to the newest."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.core.files import renamed_into
from gatesweep.sweeps.config.schema import Config


def check_results_folder(path: Path) -> None:
    """Raise InputError unless a folder can be made and written at `path`, and lasts; leave nothing there."""
    if "working_dir_files" in path.parts:  # where Ray unpacks what `ray job submit` uploads
        raise InputError(
            f"results: got {str(path)!r}, which goes with the job's code: "
            "results=/a/folder/that/stays, or GATESWEEP_RESULTS"
        )
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        make_folder(path)
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


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises InputError where that cannot be."""
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
    candidates = (root / f"{name}{number}" for number in ("", *range(2, 1000)))
    return next(path for path in candidates if not os.path.exists(path))  # False, too, for a name that is too long


def point_link(link: Path, folder: Path) -> None:
    """Make `link` a relative symbolic link to `folder`, in one step."""
    with renamed_into(link) as aside:
        aside.symlink_to(folder.name)
