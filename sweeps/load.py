"""Bring a trained model back: `trainable, data = load("results/latest/trial_0003")`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gatesweep.core import checkpoint
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config import build
from gatesweep.sweeps.schema import check, read_config
from gatesweep.sweeps.storage import fetch

WEIGHTS = "state_dict.pth"  # in a logged model: the name that mlflow.pytorch.load_state_dict looks for


def load(folder: str | Path, device: str = "auto") -> tuple[Trainable, Data]:
    """The trainable of a run, in evaluation mode, with the weights that passed (else the best), and its data.

    `folder` is a run's, or that of a logged model which `mlflow.artifacts.download_artifacts("models:/<id>")` fetched.
    No code in either is run. Raises ValueError where there is no model.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"load: got {str(folder)!r}, expected the folder of a run or of a logged model")
    config = check(read_config(folder / "config.yaml"))
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


def pack(folder: Path, found: checkpoint.Checkpoint, aside: Path) -> None:
    """Write what a logged model holds: weights, configuration, the checkpoint's metrics, and MLflow's own `MLmodel`.

    The signature is of the trainable's `forward`: a batch in, losses out.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    torch.save(found.state()["trainable"], aside / WEIGHTS)
    for source in (found.path / checkpoint.META, folder / "config.yaml"):
        (aside / source.name).write_bytes(source.read_bytes())
    inputs = [
        TensorSpec(np.dtype(dtype), (-1, *shape[1:]), name or None)
        for name, (dtype, shape) in found.meta.get("batch", {}).items()
    ]
    signature = (
        ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype("float32"), (), "loss")])) if inputs else None
    )
    flavour = {"gatesweep": {"weights": WEIGHTS, "load": "gatesweep.sweeps.load.load"}}
    Model(flavors=flavour, signature=signature).save(str(aside / "MLmodel"))
