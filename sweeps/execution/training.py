"""Train one run in its folder, epoch by epoch, with checkpoints and figures."""

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
    watch: Callable[[Data], Data] = lambda data: data,
) -> Generator[Epoch]:
    """Train in `folder`, or from its newest whole checkpoint on; rank 0 saves one every epoch.

    The epochs before that checkpoint, from the one after `recorded` on, are yielded again: a run may have been killed
    between a checkpoint and the record of it. `resume` is a state to go on from instead.
    """
    torch.set_num_threads(config.resources.threads)
    settings = make_settings(config)
    trainable, data = build_run(config)
    place = TrialStorage(config.storage, folder)
    known = None if resume else recorded
    try:
        if resume is None and (found := checkpoint.newest(place.folder / CHECKPOINTS)):
            resume = found[1]
        at = resume["epoch"] if resume else 0
        for epoch in fit(trainable, watch(data), settings, resume=resume, recorded=known, wrap=wrap):
            if epoch.index > at and rank == 0:
                save_epoch(place, trainable, data, config, epoch)
            yield epoch
    finally:
        place.close()


def save_epoch(place: TrialStorage, trainable: Trainable, data: Data, config: Config, epoch: Epoch) -> None:
    """Draw and save what an epoch left."""
    checkpoints = place.folder / CHECKPOINTS
    place.wait_pending()
    if figures_due(config.figures, epoch):
        draw_figures(place.folder, trainable, data, epoch, kinds=config.figures.kinds, gate=make_gate(config.gate))
    if epoch.outcome not in CUT_SHORT:
        sync = place.sync_is_due() or epoch.outcome is not None
        write_checkpoint(
            checkpoints / f"epoch_{epoch.index:04d}", epoch, sync, batch=batch_layout(next(iter(data.val()), ()))
        )
        checkpoint.prune(checkpoints, config.training.keep_checkpoints)
    place.push()
    if epoch.outcome:
        place.wait_uploaded()


def write_checkpoint(directory: Path, epoch: Epoch, sync: bool = True, **facts: Any) -> None:
    meta = {"epoch": epoch.index, "outcome": epoch.outcome, "score": epoch.score, "metrics": epoch.metrics}
    checkpoint.save(directory, epoch.state(), meta | facts, sync)
