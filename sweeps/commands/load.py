"""Bring a trained model back: `trainable, data = load("results/latest/trial_0003")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gatesweep.core import checkpoint
from gatesweep.core.errors import InputError
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import check_config
from gatesweep.sweeps.config.trust import trust_modules
from gatesweep.sweeps.records.layout import CONFIG, WEIGHTS, check_entries
from gatesweep.sweeps.storage.uploads import fetch_trial


def load(folder: str | Path, device: str = "auto", trust: Sequence[str] = ()) -> tuple[Trainable, Data]:
    """The trainable of a run, in evaluation mode, with the weights that passed (else the best), and its data.

    `folder` is a run's, or that of a logged model which `mlflow.artifacts.download_artifacts("models:/<id>")` fetched.
    No code in either is run: the classes that its config.yaml names are gatesweep's, or of modules in `trust`, or of
    those that this machine trusts (docs/security.md). Raises InputError where there is no model, or no trust.
    """
    folder = Path(folder)
    trust_modules(trust)
    if not (folder / CONFIG).is_file():
        raise InputError(f"load: got {str(folder)!r}, expected the folder of a run or of a logged model")
    check_entries(folder, "load")
    config = check_config(read_values(folder / CONFIG))
    trainable, data = build_run(config.replace(device=device))
    if (folder / WEIGHTS).is_file():
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    else:
        fetch_trial(config.storage, folder)
        found = checkpoint.best(folder / "checkpoints")
        if found is None:
            raise InputError(f"load: {str(folder)!r} has no checkpoint")
        weights = found.state()["trainable"]
    trainable.load_state_dict(weights)
    return trainable.eval(), data
