"""Training of one run in its folder, epoch by epoch, with checkpoints and figures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatesweep.core import checkpoint
from gatesweep.core.data import batch_layout
from gatesweep.core.loop import CUT_SHORT, Epoch, fit
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config, make_gate, make_settings
from gatesweep.sweeps.execution.figures import draw_figures, figures_due
from gatesweep.sweeps.records.layout import CHECKPOINTS
from gatesweep.sweeps.storage.uploads import TrialStorage


def train_epochs(
    config: Config,
    folder: Path,
    resume: dict[str, Any] | None = None,
    *,
    recorded: int = 0,
    rank: int = 0,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    wrap_data: Callable[[Data], Data] = lambda data: data,
) -> Generator[Epoch]:
    """Train in `folder`, from its newest intact checkpoint if there is one; rank 0 saves a checkpoint every epoch.

    Args:
        resume: a state to go on from instead of the newest checkpoint.
        recorded: the number of epochs in the caller's record. Later epochs that the checkpoint holds are yielded again:
            a run may have been killed between a checkpoint and the record of it.
        rank: of this process among the workers of the run.
        wrap: puts the trainable into its DistributedDataParallel wrapper.
        wrap_data: gives the data that are trained on, such as data that move a progress bar.

    Raises InputError as `core.loop.fit` does, and OSError where a checkpoint or an upload cannot be written.
    """
    torch.set_num_threads(config.resources.threads)
    settings = make_settings(config)
    trainable, data = build_run(config)
    place = TrialStorage(config.storage, folder)
    recorded_epochs = None if resume else recorded
    try:
        if resume is None and (newest := checkpoint.newest(place.folder / CHECKPOINTS)):
            resume = newest[1]
        saved = resume["epoch"] if resume else 0
        for epoch in fit(trainable, wrap_data(data), settings, resume=resume, recorded=recorded_epochs, wrap=wrap):
            if epoch.index > saved and rank == 0:
                save_epoch(place, trainable, data, config, epoch)
            yield epoch
    finally:
        place.close()


def save_epoch(place: TrialStorage, trainable: Trainable, data: Data, config: Config, epoch: Epoch) -> None:
    """Draw the figures of an epoch, save its checkpoint, and send both to storage. Raises OSError."""
    checkpoints = place.folder / CHECKPOINTS
    place.wait_pending()
    if figures_due(config.figures, epoch):
        draw_figures(place.folder, trainable, data, epoch, kinds=config.figures.kinds, gate=make_gate(config.gate))
    if epoch.outcome not in CUT_SHORT:
        sync = place.sync_is_due() or epoch.outcome is not None
        layout = batch_layout(next(iter(data.val()), ()))
        write_checkpoint(checkpoints / f"epoch_{epoch.index:04d}", epoch, sync, batch=layout)
        checkpoint.prune(checkpoints, config.training.keep_checkpoints)
    place.push()
    if epoch.outcome:
        place.wait_uploaded()


def write_checkpoint(directory: Path, epoch: Epoch, sync: bool = True, **facts: Any) -> None:
    """Write the state of an epoch, with its results and `facts` in meta.json. Raises OSError."""
    meta = {"epoch": epoch.index, "outcome": epoch.outcome, "score": epoch.score, "metrics": epoch.metrics}
    checkpoint.save(directory, epoch.state(), meta | facts, sync)
