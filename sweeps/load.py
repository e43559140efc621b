"""Bring a trained model back: `trainable, data = load("results/latest/trial_0003")`."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from core import checkpoint
from core.trainable import Data, Trainable
from sweeps.config import build
from sweeps.schema import check
from sweeps.storage import fetch

WEIGHTS = "state_dict.pth"  # in a logged model: the name that mlflow.pytorch.load_state_dict looks for


def load(folder: str | Path, device: str = "auto") -> tuple[Trainable, Data]:
    """The trainable of a run, in evaluation mode, with the weights that passed (else the best), and its data.

    `folder` is a run's, or that of a logged model which `mlflow.artifacts.download_artifacts("models:/<id>")` fetched.
    No code in either is run. Raises ValueError where there is no model.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"load: got {str(folder)!r}, expected the folder of a run or of a logged model")
    config = check(yaml.safe_load((folder / "config.yaml").read_text()))
    trainable, data = build({**config, "device": device})
    if (folder / WEIGHTS).is_file():
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    else:
        fetch(config["storage"], folder)
        found = checkpoint.best(folder / "checkpoints")
        if found is None:
            raise ValueError(f"load: {str(folder)!r} has no checkpoint")
        weights = found.state()["trainable"]
    trainable.load_state_dict(weights)
    return trainable.eval(), data
