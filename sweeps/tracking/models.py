"""Logged models: weights, configuration and metrics in MLflow's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gatesweep.core import checkpoint
from gatesweep.sweeps.records.layout import WEIGHTS


def pack_model(folder: Path, found: checkpoint.Checkpoint, aside: Path) -> None:
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
