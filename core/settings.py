"""The settings of a run: the same for every family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from gatesweep.core.errors import InputError, MissingMetric
from gatesweep.core.gate import Gate
from gatesweep.core.precision import Precision
from gatesweep.core.schedule import Schedule, schedule
from gatesweep.core.trainable import Metrics, Trainable, owns_step


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `epochs` epochs without a better `metric`, and restore the weights of the best epoch at the end.

    A value is better if it improves on the best by more than `min_delta`. With a `goal`, the run stops as soon as the
    metric reaches it.
    """

    metric: str
    epochs: int
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    goal: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"training.patience.epochs: got {self.epochs}, expected at least 1")
        if self.mode not in ("min", "max"):
            raise InputError(f"training.patience.mode: got {self.mode!r}, expected min or max")

    @property
    def sign(self) -> int:
        """1 where the metric is maximised, -1 where it is minimised."""
        return 1 if self.mode == "max" else -1

    def value(self, metrics: Metrics, earlier: Sequence[Metrics]) -> float:
        """Return the metric as a number to maximise; NaN in an epoch that did not evaluate it.

        `earlier` holds the metrics of the epochs before. Raises InputError where no epoch has reported the metric.
        """
        if self.metric in metrics:
            return metrics[self.metric] * self.sign
        if any(self.metric in past for past in earlier):
            return math.nan
        raise MissingMetric(
            f"training.patience.metric: {self.metric!r} is not reported; "
            f"this trainable reports {', '.join(sorted(metrics))}"
        )


@dataclass(frozen=True)
class Settings:
    """The section `training` of a configuration, and the gate."""

    max_epochs: int = 10
    precision: Precision = "fp32"
    clip_norm: float | None = None
    """Largest norm of an update's gradient; None: no clipping."""
    accumulate: int = 1
    """Batches per update."""
    schedule: Schedule = field(default_factory=lambda: schedule("constant"))
    gate: Gate = field(default_factory=Gate)
    patience: EarlyStopping | None = None
    log_grad_norm_every: int | None = None
    """Updates between readings of every parameter's gradient norm; None: none."""
    compile: bool = False
    activation_checkpointing: bool = False
    system_metrics: bool = False

    def check(self, trainable: Trainable) -> None:
        """Raise InputError where `trainable` cannot be trained with these settings."""
        if self.precision not in get_args(Precision):
            raise InputError(f"training.precision: got {self.precision!r}, expected fp32, bf16 or fp16")
        if self.accumulate < 1:
            raise InputError(f"training.accumulate: got {self.accumulate}, expected at least 1")
        if self.accumulate > 1 and owns_step(trainable):
            raise InputError(
                f"training.accumulate: got {self.accumulate}, expected 1: {type(trainable).__name__} owns its step, "
                "whose updates build on one another within a batch"
            )

    def out_of_memory_advice(self, batch_size: int) -> str:
        """Return one line with the settings that need less memory than a batch of `batch_size` samples did."""
        options = []
        if batch_size > 1:
            smaller = math.ceil(batch_size / 2)
            options += [f"data.batch_size={smaller} training.accumulate={2 * self.accumulate} (the same update)"]
        options += ["training.activation_checkpointing=true", "training.precision=bf16"]
        return f"out of memory at batch size {batch_size}: try {', '.join(options)}"
