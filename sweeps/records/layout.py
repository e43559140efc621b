"""Names of the files and folders of a record, the table of outcomes, and the test for the folder of a sweep."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from gatesweep.core.errors import InputError
from gatesweep.core.events import OUTCOMES as OUTCOMES
from gatesweep.core.files import is_locked
from gatesweep.core.record import EVENTS as EVENTS
from gatesweep.core.record import RESULT as RESULT
from gatesweep.core.record import SCALARS as SCALARS

# In the folder of a sweep, and of a run.
CONFIG = "config.yaml"
REPORT = "report.html"
# Files of a sweep only.
SUMMARY = "summary.json"
LEADERBOARD = "leaderboard.csv"
JOURNAL = "study.journal"  # Optuna's study
MLFLOW_POINTER = "mlflow.json"  # the address of the sweep in MLflow
LOCK = ".lock"  # held by the driver
PUBLISHER_LOCK = ".publish"  # holds the name of the last publisher; its time is that of its last progress
SOURCE = "source.zip"  # the source of the trainable, of its data and of other classes of the user's
# Files of a run only.
ERROR = "error.txt"  # the traceback of a failed run
TEST = "test.json"  # of a winner: its metrics on the test split
LOG, OLDER_LOG = "log.txt", "log.older.txt"  # what a trial's processes print; the older part of a long one
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
TRIAL_FOLDERS = (CHECKPOINTS, FIGURES)  # written by trials; the driver writes all other files of a sweep
WEIGHTS = "state_dict.pth"  # in a logged model: the name that mlflow.pytorch.load_state_dict looks for

TRIAL, CONFIRM = "trial", "confirm"  # prefixes of the folders of trials, and of their runs on fresh seeds


def is_sweep(folder: Path) -> bool:
    """Return True for the folder of a sweep. The folder of a single run has curves of its own."""
    return (folder / CONFIG).is_file() and not (folder / SCALARS).exists()


def require_sweep(folder: Path, key: str = "sweep") -> Path:
    """Return `folder`. Raises InputError, which names `key`, unless it is the folder of a sweep."""
    if is_sweep(folder):
        check_entries(folder, key)
        return folder
    if not folder.is_dir():
        fault = "it is not there"
    elif not (folder / CONFIG).is_file():
        fault = f"it has no {CONFIG}"
    else:
        fault = f"it has {SCALARS}: it is that of one run"
    raise InputError(f"{key}: got {str(folder)!r}, expected the folder of a sweep ({fault})")


def check_entries(folder: Path, key: str) -> None:
    """Raise InputError, which names `key`, for an entry in the folder of a record that no sweep writes there.

    Through a link that leads out of it, a folder of somebody else's could have files of this machine read, sent to
    MLflow or deleted. A reader waits for ever for a pipe or a device.
    """
    root = folder.resolve()
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not Path(os.path.realpath(path)).is_relative_to(root):
                raise InputError(f"{key}: got {str(path)!r}, a link out of the folder, expected files: copy them there")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise InputError(f"{key}: got {str(path)!r}, expected a file or a folder")


def is_running(sweep: Path) -> bool:
    """Return True while a driver holds the sweep's folder."""
    return is_locked(sweep / LOCK)


def trial_folders(sweep: Path, kind: str = TRIAL) -> list[Path]:
    """List the folders of a sweep's trials that have begun, by name. `kind` is TRIAL or CONFIRM."""
    return sorted(path.parent for path in sweep.glob(f"{kind}_*/{EVENTS}"))


def confirmed_name(folder: Path) -> str:
    """Return the name of the trial that a run on a fresh seed repeats: trial_0003 for the folder confirm_0003_1."""
    return f"{TRIAL}_{folder.name.split('_')[1]}"


def belongs_to_trial(name: str) -> bool:
    """Return True for a file, by its path below the sweep, that a trial wrote: a checkpoint or a figure."""
    return any(part in TRIAL_FOLDERS for part in PurePosixPath(name).parts)
