"""Checkpoints: directories written aside and renamed, checksummed, loaded without running code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gatesweep.core.files import renamed_into
from gatesweep.core.record import plain

STATE, META = "state.pt", "meta.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what was written: its message names it and says what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk: `meta` is what a person reads, `state` what `fit` resumes from."""

    path: Path
    meta: dict[str, Any]

    @property
    def epoch(self) -> int:
        return self.meta["epoch"]

    def state(self) -> dict[str, Any]:
        """The tensors, checked against their checksum. Raises DamagedCheckpoint."""
        file = self.path / STATE
        try:
            if _checksum(file) != self.meta["sha256"]:
                raise DamagedCheckpoint(f"checkpoint {self.path}: {STATE} does not match its checksum")
            return torch.load(file, map_location="cpu", weights_only=True)
        except OSError as error:
            raise DamagedCheckpoint(f"checkpoint {self.path}: cannot read {STATE} ({error.strerror})") from error


def save(directory: Path, state: dict[str, Any], meta: dict[str, Any], sync: bool = True) -> Checkpoint:
    """Write `state` and `meta` (with at least an `epoch`) as `directory`, whole or not at all.

    Without `sync` a machine that loses its power, and only that, may leave a damaged one.
    """
    with renamed_into(directory) as aside:
        aside.mkdir(parents=True)
        torch.save(state, aside / STATE)
        meta = {**meta, "sha256": _checksum(aside / STATE), "synced": sync}
        (aside / META).write_text(json.dumps(plain(meta), indent=1) + "\n")
        if sync:
            for file in (aside / STATE, aside / META, aside):
                _sync(file)
        shutil.rmtree(directory, ignore_errors=True)  # an epoch that a resumed run trains again
    if sync:
        _sync(directory.parent)
    return Checkpoint(directory, meta)


def read(directory: Path) -> Checkpoint:
    """Raises DamagedCheckpoint where `meta.json` is missing or not readable."""
    try:
        meta = json.loads((directory / META).read_text())
        return Checkpoint(directory, {"epoch": meta["epoch"], "sha256": meta["sha256"], **meta})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {directory}: cannot read {META} ({error})") from error


def newest(folder: Path) -> tuple[Checkpoint, dict[str, Any]] | None:
    """The newest whole checkpoint in `folder` and its state.

    A damaged one is named in a warning, and the one before it is taken.
    """
    for checkpoint in sorted(_readable(folder), key=lambda one: one.epoch, reverse=True):
        try:
            return checkpoint, checkpoint.state()
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; taking the one before it", stacklevel=2)
    return None


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint that passed, else the one of the best score."""
    found = _readable(folder)
    return max(found, key=lambda one: (one.meta.get("outcome") == "passed", one.meta.get("score", 0.0)), default=None)


def prune(folder: Path, keep_last: int) -> None:
    """Keep the last `keep_last`, the last synced, the one of the best score and the one that passed; delete the rest.

    What a killed process left half-written goes too: a folder has one writer.
    """
    for aside in folder.glob(".*"):
        shutil.rmtree(aside)
    checkpoints = sorted(_readable(folder), key=lambda one: one.epoch)
    top = max(checkpoints, key=lambda one: one.meta.get("score", 0.0), default=None)
    synced = next((one for one in reversed(checkpoints) if one.meta.get("synced", True)), None)
    for checkpoint in checkpoints[: max(0, len(checkpoints) - keep_last)]:
        if checkpoint not in (top, synced) and checkpoint.meta.get("outcome") != "passed":
            shutil.rmtree(checkpoint.path)


def _readable(folder: Path) -> Iterable[Checkpoint]:
    for path in folder.glob("[!.]*/"):
        try:
            yield read(path)
        except DamagedCheckpoint as damage:
            warnings.warn(f"{damage}; passing over it", stacklevel=2)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
