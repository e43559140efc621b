"""Bring a trained model back: `trainable, data = load("results/latest/trial_0003")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gatesweep.core import checkpoint
from gatesweep.core.errors import InputError
from gatesweep.core.evaluation import evaluate_split
from gatesweep.core.reporting import Last
from gatesweep.core.trainable import SPLITS, Data, Metrics, MissingSplit, Split, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.functions import trains_function
from gatesweep.sweeps.config.recorded import read_config, read_values
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.config.trust import trust_modules
from gatesweep.sweeps.records.layout import CHECKPOINTS, CONFIG, WEIGHTS, check_entries
from gatesweep.sweeps.storage.uploads import fetch_trial, may_connect


def load(
    folder: str | Path, device: str = "auto", trust: Sequence[str] = (), storage: str | None = None
) -> tuple[Trainable, Data] | Last:
    """The trainable of a run, in evaluation mode, with the weights that passed (else the best), and its data.

    Of a function's run, the checkpoint that the function saved: the epoch, its dict, and the folder of its files.
    `folder` is a run's, or that of a logged model which `mlflow.artifacts.download_artifacts("models:/<id>")` fetched.
    No code in either is run: the classes that its config.yaml names are gatesweep's, or of modules in `trust`, or of
    those that this machine trusts (docs/security.md). Checkpoints are fetched from `storage`; by default from that of
    the record, if this machine or GATESWEEP_STORAGE knows it. Raises InputError where there is no model, or no trust.
    """
    folder = Path(folder)
    trust_modules(trust)
    if not (folder / CONFIG).is_file():
        raise InputError(f"load: got {str(folder)!r}, expected the folder of a run or of a logged model")
    check_entries(folder, "load")
    values = read_values(folder / CONFIG)
    if trains_function(values):
        return _load_saved(folder, read_config(folder / CONFIG), storage)
    config = check_config(values)
    trainable, data = build_run(config.replace(device=device))
    if (folder / WEIGHTS).is_file():
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    else:
        weights = _best_checkpoint(folder, config, storage).state()["trainable"]
    trainable.load_state_dict(weights)
    return trainable.eval(), data


def evaluate(
    folder: str | Path,
    split: Split = "test",
    device: str = "auto",
    trust: Sequence[str] = (),
    storage: str | None = None,
) -> Metrics:
    """Return the metrics of a run's model on a split of its data, named "test/accuracy" and so on.

    The arguments are those of `load`. Raises InputError as it does, and where the trainable or its data have no such
    split.
    """
    return evaluate_loaded(load(folder, device, trust, storage), folder, split)


def evaluate_loaded(loaded: tuple[Trainable, Data] | Last, folder: str | Path, split: Split) -> Metrics:
    """Return the metrics on a split of what `load` has returned for a folder. Raises InputError as `evaluate` does."""
    if split not in SPLITS:
        raise InputError(f"split: got {split!r}, expected {', '.join(SPLITS)}")
    if isinstance(loaded, Last):
        raise MissingSplit(f"evaluate: got {str(folder)!r}, a run of a function, whose splits are not known")
    return evaluate_split(*loaded, split, read_config(Path(folder) / CONFIG).training.precision)


def _load_saved(folder: Path, config: Config, storage: str | None) -> Last:
    """Return what a function saved. Its code is not needed."""
    if (folder / WEIGHTS).is_file():  # a logged model
        saved = checkpoint.read(folder)
        return Last(saved.epoch, torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True), saved.folder)
    saved = _best_checkpoint(folder, config, storage)
    return Last(saved.epoch, saved.state()["trainable"], saved.folder)


def _best_checkpoint(folder: Path, config: Config, storage: str | None) -> checkpoint.Checkpoint:
    """Return the checkpoint that passed, else the best. Raises InputError where there is none."""
    recorded = config.storage
    if storage or (recorded and may_connect(folder.resolve().parent, recorded)):
        fetch_trial(storage or recorded, folder)
    best = checkpoint.best(folder / CHECKPOINTS)
    if best is None:
        hint = f"; if you trust the storage that it names: load(..., storage={recorded!r})" if recorded else ""
        raise InputError(f"load: {str(folder)!r} has no checkpoint{hint}")
    return best
