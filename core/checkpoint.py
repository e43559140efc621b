"""Checkpoints: directories that are written aside and renamed, checksummed, and loaded without running code."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gatesweep.core.errors import InputError
from gatesweep.core.files import renamed_into, sync_to_disk
from gatesweep.core.record import json_safe

STATE, META = "state.pt", "meta.json"
FILES = "files"  # a folder of files that the user's own function has written


class DamagedCheckpoint(InputError):
    """A checkpoint that differs from what was written. The message names it and its fault."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk: `meta` is for people (`meta.json`), `state()` is what `fit` resumes from (`state.pt`)."""

    path: Path
    meta: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The number of epochs trained."""
        return self.meta["epoch"]

    @property
    def folder(self) -> Path | None:
        """The folder of the files that the user's own function has written; None where there are none."""
        return self.path / FILES if self.meta.get(FILES) else None

    def state(self) -> dict[str, Any]:
        """Load the state, with its tensors on the CPU. Raises DamagedCheckpoint where a checksum does not match."""
        name = STATE
        try:
            for name, checksum in {STATE: self.meta["sha256"], **self.meta.get(FILES, {})}.items():
                if _checksum(self.path / name) != checksum:
                    raise DamagedCheckpoint(f"checkpoint {self.path}: {name} does not match its checksum")
            return torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        except OSError as error:
            raise DamagedCheckpoint(f"checkpoint {self.path}: cannot read {name} ({error.strerror})") from error


def save(
    directory: Path,
    state: dict[str, Any],
    meta: dict[str, Any],
    sync: bool = True,
    write_files: Callable[[Path], None] | None = None,
) -> Checkpoint:
    """Write `state` and `meta` (with at least an `epoch`) as `directory`, whole or not at all.

    `write_files` adds files below FILES in the folder that it is called with.

    Without `sync` the call does not wait for the disk: a loss of power may then leave a damaged checkpoint, the end of
    a process never does. Raises OSError.
    """
    with renamed_into(directory) as aside:
        aside.mkdir(parents=True)
        _write_state(state, aside / STATE)
        if write_files:
            write_files(aside)
        entries = sorted((aside / FILES).rglob("*"))
        files = {str(path.relative_to(aside)): _checksum(path) for path in entries if path.is_file()}
        meta = {**meta, "sha256": _checksum(aside / STATE), "synced": sync, **({FILES: files} if files else {})}
        (aside / META).write_text(json.dumps(json_safe(meta), indent=1) + "\n")
        if sync:
            for path in (*entries, aside / STATE, aside / META, aside):
                sync_to_disk(path)
        shutil.rmtree(directory, ignore_errors=True)  # a resumed run may train and save this epoch again
    if sync:
        sync_to_disk(directory.parent)
    return Checkpoint(directory, meta)


def _write_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # of torch's writer, when the disk is full
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error


def read(directory: Path) -> Checkpoint:
    """Read the `meta.json` of a checkpoint. Raises DamagedCheckpoint where it is missing or not readable."""
    try:
        meta = json.loads((directory / META).read_text())
        return Checkpoint(directory, {"epoch": meta["epoch"], "sha256": meta["sha256"], **meta})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {directory}: cannot read {META} ({error})") from error


def newest(folder: Path) -> tuple[Checkpoint, dict[str, Any]] | None:
    """Return the newest intact checkpoint in `folder` and its state; None where there is none.

    A damaged checkpoint causes a warning that names it, and the one before it is tried.
    """
    for checkpoint in sorted(_intact(folder), key=lambda checkpoint: checkpoint.epoch, reverse=True):
        try:
            return checkpoint, checkpoint.state()
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; taking the one before it", stacklevel=2)
    return None


def best(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that passed the gate, else the one with the highest score; None where there is none."""
    return max(
        _intact(folder),
        key=lambda checkpoint: (checkpoint.meta.get("outcome") == "passed", _score(checkpoint)),
        default=None,
    )


def prune(folder: Path, keep_last: int) -> None:
    """Delete all checkpoints but the last `keep_last`, the last synced one, the best score and the one that passed.

    Half-written directories of killed processes are deleted too, so a folder may have only one writer.
    """
    for aside in folder.glob(".*"):
        shutil.rmtree(aside)
    checkpoints = sorted(_intact(folder), key=lambda checkpoint: checkpoint.epoch)
    highest = max(checkpoints, key=_score, default=None)
    synced = next((checkpoint for checkpoint in reversed(checkpoints) if checkpoint.meta.get("synced", True)), None)
    for checkpoint in checkpoints[: max(0, len(checkpoints) - keep_last)]:
        if checkpoint not in (highest, synced) and checkpoint.meta.get("outcome") != "passed":
            shutil.rmtree(checkpoint.path)


def _intact(folder: Path) -> Iterator[Checkpoint]:
    """Yield the checkpoints whose `meta.json` is readable; warn of the others."""
    for path in folder.glob("[!.]*/"):
        try:
            yield read(path)
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; passing over it", stacklevel=2)


def _score(checkpoint: Checkpoint) -> float:
    return checkpoint.meta.get("score", 0.0)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
