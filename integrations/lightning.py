"""Lightning: `GateCallback` reports each epoch that ends with a validation, and saves Lightning's own checkpoint.

    trainer = L.Trainer(max_epochs=100, callbacks=[GateCallback()])
    trainer.fit(model, train_loader, val_loader, ckpt_path=ckpt_path())

Outside of a sweep both do nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger

from gatesweep.core.errors import InputError
from gatesweep.core.reporting import in_trial, last, report
from gatesweep.lightning_private import check_before_launch

CHECKPOINT = "lightning.ckpt"


def ckpt_path() -> str | None:
    """Return the checkpoint that `trainer.fit(..., ckpt_path=...)` goes on from; None in a fresh trial."""
    found = last()
    return str(found.folder / CHECKPOINT) if found and found.folder else None


class GateCallback(L.Callback):
    """Reports `trainer.callback_metrics`: `val_loss` as val/loss, `train_loss` as train/loss, others as they are.

    An epoch without validation, where the module has one, is not reported: its weights have no metrics. In a trial,
    loggers and ModelCheckpoints without a folder of their own write nothing, and the progress bar is off.

    Args:
        rename: names of metrics, where the gate's are others: {"val_acc": "val/accuracy"}.
    """

    def __init__(self, rename: Mapping[str, str] | None = None) -> None:
        self.rename = dict(rename or {})
        self.validated = (-1, -1)  # epoch and step of the last validation

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the random generators back, before the first batch is drawn. Raises RuntimeError and TypeError."""
        if not isinstance(trainer, L.Trainer):
            raise TypeError("GateCallback: got a Trainer of another package, expected that of `import lightning as L`")
        if (found := last()) is None:
            return
        if trainer.ckpt_path is None or Path(trainer.ckpt_path) != Path(found.folder or "", CHECKPOINT):
            raise RuntimeError(
                f"this trial goes on after epoch {found.epoch}, but fit got ckpt_path={trainer.ckpt_path!r}: "
                "trainer.fit(..., ckpt_path=ckpt_path()), from gatesweep.lightning"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the weights that the metrics are of."""
        if not trainer.sanity_checking:
            self.validated = (trainer.current_epoch, trainer.global_step)

    def report_epoch(self, trainer: L.Trainer) -> None:
        """Report the metrics of the weights that are saved. Raises Stop; InputError for a validation amid epochs."""
        epoch, step = self.validated
        if trainer.enable_validation and step != trainer.global_step:
            if epoch == trainer.current_epoch:
                raise InputError(
                    f"Trainer: got val_check_interval={trainer.val_check_interval}, expected 1.0, for a report is of "
                    "the weights at the end of an epoch; limit_train_batches=N makes epochs shorter"
                )
            return  # check_val_every_n_epoch
        metrics = {self._name(name): value for name, value in trainer.callback_metrics.items()}
        report(metrics, checkpoint=lambda folder: trainer.save_checkpoint(folder / CHECKPOINT))

    def _name(self, name: str) -> str:
        return self.rename.get(name) or re.sub(r"^(train|val|test)_", r"\1/", name)


class _EpochEnd(Checkpoint):
    """Reports for a GateCallback. Lightning calls a Checkpoint behind the module's own `on_train_epoch_end`."""

    def __init__(self, gate: GateCallback) -> None:
        self.gate = gate

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.gate.report_epoch(trainer)


def _prepare(trainer: L.Trainer) -> None:
    """Let a Trainer with a GateCallback keep the working directory clean, and report behind all other callbacks.

    Raises InputError for a Trainer that would start processes of its own.
    """
    gate = next((callback for callback in trainer.callbacks if isinstance(callback, GateCallback)), None)
    if gate is None or not in_trial():
        return
    count = trainer.num_devices * trainer.num_nodes
    if count > 1:
        raise InputError(
            f"Trainer: got {count} devices ({type(trainer.strategy).__name__}), expected devices=1: a trial is one "
            "process; for a model on several GPUs write a gatesweep.Trainable, and set resources.workers"
        )
    here = Path.cwd()
    trainer.loggers = [
        DummyLogger() if logger.save_dir and Path(logger.save_dir).absolute() == here else logger
        for logger in trainer.loggers
    ]
    for callback in list(trainer.callbacks):
        if isinstance(callback, _EpochEnd) or (isinstance(callback, ModelCheckpoint) and callback.dirpath is None):
            trainer.callbacks.remove(callback)
    trainer.callbacks.append(_EpochEnd(gate))
    if trainer.progress_bar_callback:
        trainer.progress_bar_callback.disable()


check_before_launch(_prepare)
