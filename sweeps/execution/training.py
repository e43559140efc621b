"""Training of one run in its folder, epoch by epoch, with checkpoints and figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatesweep.core import checkpoint
from gatesweep.core.data import batch_layout
from gatesweep.core.function import fit_function
from gatesweep.core.loop import CUT_SHORT, Epoch, fit
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.functions import bind_function
from gatesweep.sweeps.config.schema import Config, make_gate, make_settings
from gatesweep.sweeps.execution.figures import draw_figures, figures_due
from gatesweep.sweeps.records.layout import CHECKPOINTS
from gatesweep.sweeps.storage.uploads import TrialStorage


def train_epochs(
    config: Config,
    folder: Path,
    resume: dict[str, Any] | None = None,
    *,
    files: Path | None = None,
    recorded: int = 0,
    rank: int = 0,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    wrap_data: Callable[[Data], Data] = lambda data: data,
) -> Generator[Epoch]:
    """Train in `folder`, from its newest intact checkpoint if there is one; rank 0 saves a checkpoint every epoch.

    Args:
        resume: a state to go on from instead of the newest checkpoint.
        files: the folder of the files that belong to `resume`, where a function has saved any.
        recorded: the number of epochs in the caller's record. Later epochs that the checkpoint holds are yielded again:
            a run may have been killed between a checkpoint and the record of it.
        rank: of this process among the workers of the run.
        wrap: puts the trainable into its DistributedDataParallel wrapper.
        wrap_data: gives the data that are trained on, such as data that move a progress bar.

    Raises InputError as `core.loop.fit` does, and OSError where a checkpoint or an upload cannot be written.
    """
    torch.set_num_threads(config.resources.threads)
    settings = make_settings(config)
    trainable, data = build_run(config) if config.data else (None, None)  # a function has neither
    place = TrialStorage(config.storage, folder)
    progress: dict[str, Any] = {"resume": resume, "recorded": None if resume else recorded}
    with contextlib.closing(place):
        if resume is None and (newest := checkpoint.newest(place.folder / CHECKPOINTS)):
            files, progress["resume"] = newest[0].folder, newest[1]
        saved = progress["resume"]["epoch"] if progress["resume"] else 0
        if trainable is None or data is None:
            function = bind_function(config.trainable)
            epochs = fit_function(function, settings, seed=config.seed, files=files, **progress)
        else:
            epochs = fit(trainable, wrap_data(data), settings, wrap=wrap, **progress)
        with contextlib.closing(epochs):
            for epoch in epochs:
                if epoch.index > saved and rank == 0:
                    save_epoch(place, trainable, data, config, epoch)
                yield epoch


def save_epoch(
    place: TrialStorage, trainable: Trainable | None, data: Data | None, config: Config, epoch: Epoch
) -> None:
    """Draw the figures of an epoch, save its checkpoint, and send both to storage. Raises OSError.

    A function has no `trainable` and no `data`.
    """
    checkpoints = place.folder / CHECKPOINTS
    place.wait_pending()
    if figures_due(config.figures, epoch):
        draw_figures(place.folder, trainable, data, epoch, kinds=config.figures.kinds, gate=make_gate(config.gate))
    is_due = epoch.outcome is not None or epoch.index % config.training.checkpoint_every == 0
    if is_due and epoch.is_resumable and epoch.outcome not in CUT_SHORT:
        sync = place.sync_is_due() or epoch.outcome is not None
        facts = {"batch": batch_layout(next(iter(data.val()), ()))} if data else {"trial": place.trial}
        write_checkpoint(checkpoints / f"epoch_{epoch.index:04d}", epoch, sync, **facts)
        checkpoint.prune(checkpoints, config.training.keep_checkpoints)
    place.push()
    if epoch.outcome:
        place.wait_uploaded()


def write_checkpoint(directory: Path, epoch: Epoch, sync: bool = True, **facts: Any) -> None:
    """Write the state of an epoch, with its results and `facts` in meta.json. Raises OSError."""
    meta = {"epoch": epoch.index, "outcome": epoch.outcome, "score": epoch.score, "metrics": epoch.metrics}
    checkpoint.save(directory, epoch.state(), meta | facts, sync, epoch.write_files)
