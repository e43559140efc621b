"""Hugging Face: `GateCallback` reports each evaluation, and the Trainer's own checkpoint is that of the trial.

    arguments = TrainingArguments(eval_strategy="epoch", save_strategy="no", num_train_epochs=100)
    trainer = Trainer(model, arguments, callbacks=[GateCallback()], ...)
    trainer.train(resume_from_checkpoint=checkpoint())

Outside of a sweep both do nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from gatesweep.core.errors import InputError
from gatesweep.core.reporting import in_trial, last, report

CLOCKS = ("_runtime", "_per_second")  # ends of names


def checkpoint() -> str | None:
    """Return the folder that `trainer.train(resume_from_checkpoint=...)` goes on from; None in a fresh trial."""
    found = last()
    return str(found.folder) if found and found.folder else None


class GateCallback(TrainerCallback):
    """Reports what an evaluation returns: `eval_accuracy` as val/accuracy; the loss logged last as train/loss.

    In a trial the Trainer saves whenever it evaluates, into a folder that is removed afterwards: trials that run at
    once may have the same `output_dir`, and keep their checkpoints elsewhere.
    """

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        self.evaluated: dict[str, Any] = {}
        self.step = -1  # of the evaluation
        self.aside: TemporaryDirectory[str] | None = None
        self.output_dir: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        """Put the random generators back, and send files elsewhere. Raises InputError and RuntimeError."""
        if not in_trial():
            return
        _check(args)
        if (found := last()) and state.global_step == 0:
            raise RuntimeError(
                f"this trial goes on after epoch {found.epoch}, but train began anew: "
                "trainer.train(resume_from_checkpoint=checkpoint()), from gatesweep.huggingface"
            )
        self.output_dir, self.aside = args.output_dir, TemporaryDirectory(prefix="gatesweep-")
        args.output_dir = self.aside.name
        if args.save_total_limit is None:
            args.save_total_limit = 1
        if self.output_dir and not os.path.isabs(self.output_dir):
            with contextlib.suppress(OSError):  # the Trainer has made it; it stays where something is in it
                os.rmdir(self.output_dir)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> TrainerControl:
        """Log the training loss where there is an evaluation, so that it is the mean since the last one."""
        control.should_log |= in_trial() and control.should_evaluate
        return control

    on_epoch_end = on_step_end

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        """Keep what training has logged."""
        names = ("loss", "grad_norm", "learning_rate")
        self.logged |= {f"train/{name}": value for name, value in (logs or {}).items() if name in names}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **options: Any,
    ) -> TrainerControl:
        """Keep the metrics until their weights are saved."""
        if not in_trial() or self.aside is None:
            return control
        if self.step != state.global_step:  # several sets of data are evaluated one by one
            self.step, self.evaluated = state.global_step, {}
        for name, value in (metrics or {}).items():
            if name.startswith("eval_") and not name.endswith(CLOCKS):
                self.evaluated[f"val/{name.removeprefix('eval_')}"] = value
        control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any) -> None:
        """Report. Raises Stop."""
        if in_trial() and self.evaluated and self.step == state.global_step:
            metrics, self.evaluated, self.logged = {**self.logged, **self.evaluated}, {}, {}
            report(metrics, checkpoint=Path(str(args.output_dir), f"checkpoint-{state.global_step}"))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        """Give the Trainer its folder back."""
        if self.aside is not None:
            args.output_dir, self.aside = self.output_dir, None


def _check(args: TrainingArguments) -> None:
    """Raise InputError for arguments with which a trial would start processes of its own, or be no trial."""
    devices = max(args.n_gpu, args.world_size)
    if devices > 1:
        raise InputError(
            f"TrainingArguments: got {devices} devices, expected 1: a trial is one process with "
            "resources.gpus_per_worker=1; for a model on several GPUs write a gatesweep.Trainable, and set "
            "resources.workers"
        )
    if args.eval_strategy == "no":
        raise InputError("TrainingArguments: got eval_strategy='no', expected 'epoch' or 'steps': it makes the reports")
    if args.save_strategy == SaveStrategy.BEST:
        raise InputError("TrainingArguments: got save_strategy='best', expected 'no': the trial keeps its best epoch")
    if args.save_only_model:
        raise InputError("TrainingArguments: got save_only_model=True, expected False: a trial goes on from all of it")
