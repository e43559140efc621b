"""The checkpoint of a report: a dict, files to copy, or a function that writes files."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from gatesweep.core.checkpoint import FILES

Saved = Mapping[str, Any] | str | PathLike[str] | Callable[[Path], Any] | None  # the `checkpoint` of a report


def prove_loadable(saved: Mapping[str, Any]) -> None:
    """Raise TypeError for a dict that could not be loaded again: at the first report, not at the resume."""
    buffer = io.BytesIO()
    try:
        torch.save(dict(saved), buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:
        why = str(error).strip().splitlines()[0]
        raise TypeError(
            f"checkpoint: got a dict that cannot be loaded without running code ({why}), expected tensors and plain "
            "values, as in state_dict(); or write files: checkpoint=lambda folder: ..."
        ) from error


def write_files(saved: Saved, aside: Path) -> None:
    """Write the files of a report's checkpoint into the folder FILES of a checkpoint that is being made.

    Raises what the user's function raises, and OSError.
    """
    target = aside / FILES
    if callable(saved):
        target.mkdir()
        saved(target)
        return
    assert isinstance(saved, str | os.PathLike)
    if Path(saved).is_dir():
        shutil.copytree(saved, target)
    else:
        target.mkdir()
        shutil.copy2(saved, target)
