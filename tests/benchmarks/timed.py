"""The trivial trainable, with the moments at which its epochs begin and end, whoever trains it."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

from core.step import TrainStep
from core.trainable import Data, Losses, Metrics
from tests.benchmarks.trained import append
from tests.trivial import Line, Points


class Timed(Line):
    """A line in `log` for each epoch: `began` with its first step, `time` when it was judged."""

    def __init__(self, data: Points, *, log: str, **fields: Any) -> None:
        super().__init__(data, **fields)
        self.log, self.run, self.began = Path(log), f"{os.getpid()}-{uuid.uuid4().hex[:8]}", 0.0
        self.built = time.time()

    def train_step(self, batch: Any, step: TrainStep) -> Losses:
        self.began = self.began or time.time()
        return super().train_step(batch, step)

    def evaluate(self, data: Data) -> Metrics:
        metrics = super().evaluate(data)
        append(self.log, run=self.run, epoch=int(self.epochs), built=self.built, began=self.began)
        self.began = 0.0
        return metrics
