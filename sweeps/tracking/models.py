"""Logged models: weights, configuration and metrics in MLflow's format."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from gatesweep.core import checkpoint
from gatesweep.sweeps.records.layout import CHECKPOINTS, CONFIG, WEIGHTS
from gatesweep.sweeps.tracking.names import model_name
from gatesweep.sweeps.tracking.runs import SweepRuns


def log_model(runs: SweepRuns, run: str, folder: Path, again: bool) -> None:
    """Send a trial's checkpoint that passed, else its best, as a logged model; do nothing if it is there already.

    `run` is the trial's, which may have a model only where it is sent `again`. The model holds weights, and no code
    that loading would run. Raises MlflowException and OSError.
    """
    from mlflow.entities import LoggedModelOutput

    best, name = checkpoint.best(folder / CHECKPOINTS), model_name(f"{runs.sweep}-{folder.name}")
    if best is None or (again and _is_logged(runs, run)):
        return
    model = runs.client.create_logged_model(
        runs.experiment, name=name, source_run_id=run, model_type="checkpoint", tags={"sweep": runs.sweep}
    )
    with TemporaryDirectory(prefix=".model", dir=folder) as aside:
        pack_model(folder, best, Path(aside))
        runs.client.log_model_artifacts(model.model_id, aside)
    runs.client.finalize_logged_model(model.model_id, "READY")
    runs.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=best.epoch)])


def delete_models(runs: SweepRuns, run: str) -> None:
    """Delete the logged models of a run that goes on. Raises MlflowException."""
    for model in runs.client.search_logged_models([runs.experiment], filter_string=f"source_run_id = '{run}'"):
        runs.client.delete_logged_model(model.model_id)


def pack_model(folder: Path, trained: checkpoint.Checkpoint, aside: Path) -> None:
    """Write the files of a logged model into `aside`: weights, configuration, the checkpoint's metrics, and `MLmodel`.

    `folder` is the trial's. The signature is that of the trainable's `forward`: a batch in, losses out.
    Raises DamagedCheckpoint and OSError.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    torch.save(trained.state()["trainable"], aside / WEIGHTS)
    for source in (trained.path / checkpoint.META, folder / CONFIG):
        (aside / source.name).write_bytes(source.read_bytes())
    if trained.folder:
        shutil.copytree(trained.folder, aside / checkpoint.FILES)
    inputs = [
        TensorSpec(np.dtype(dtype), (-1, *shape[1:]), name or None)
        for name, (dtype, shape) in trained.meta.get("batch", {}).items()
    ]
    outputs = Schema([TensorSpec(np.dtype("float32"), (), "loss")])
    signature = ModelSignature(Schema(inputs), outputs) if inputs else None
    flavour = {"gatesweep": {"weights": WEIGHTS, "load": "gatesweep.load"}}
    Model(flavors=flavour, signature=signature).save(str(aside / "MLmodel"))


def _is_logged(runs: SweepRuns, run: str) -> bool:
    """Return True if a run has a whole model. Models of a publisher that was killed while it sent are deleted."""
    for model in runs.client.search_logged_models([runs.experiment], filter_string=f"source_run_id = '{run}'"):
        if str(model.status).endswith("READY"):
            return True
        runs.client.delete_logged_model(model.model_id)
    return False
