"""The trivial trainable, which tells when its epochs begin and end, whoever trains it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gatesweep.core.trainable import Data, Losses, Metrics, Split
from tests.benchmarks.trained import append
from tests.support.trivial import Line, Points


class Timed(Line):
    """Appends a line to `log` for each epoch: `began` with its first step, `time` when it had been evaluated."""

    def __init__(self, data: Points, *, log: str, **fields: Any) -> None:
        super().__init__(data, **fields)
        self.log, self.built, self.began = Path(log), f"{os.getpid()} {time.time()}", 0.0

    def forward(self, batch: Any) -> Losses:
        if self.training:
            self.began = self.began or time.time()
        return super().forward(batch)

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        metrics = super().evaluate(data, split)
        append(self.log, run=self.built, epoch=int(self.epochs), began=self.began)
        self.began = 0.0
        return metrics
