"""The smallest trainable, for tests and benchmarks of everything around a trainable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatesweep.core.distributed import rank
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable


class Points:
    """Data y = w x in eight dimensions, with `size` samples."""

    def __init__(self, *, device: str = "cpu", seed: int = 0, size: int = 64, batch_size: int = 16) -> None:
        if batch_size > size:
            raise ValueError(f"data.batch_size: got {batch_size}, expected at most {size}")
        generator = torch.Generator().manual_seed(seed)
        self.seed, self.batch_size = seed, batch_size
        self.x = torch.randn(size, 8, generator=generator).to(device)
        self.y = self.x @ torch.linspace(-1, 1, 8, device=device)

    def train(self, epoch: int) -> Sequence[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed * 1000 + epoch))
        return [(self.x[part], self.y[part]) for part in order.split(self.batch_size)]

    def val(self) -> Sequence[tuple[Tensor, Tensor]]:
        return [(self.x, self.y)]


class Line(Trainable):
    """A linear fit whose `val/closeness` rises to 1. It can misbehave at an epoch, or train slowly.

    `misbehave` may end with " on rank 1": the other ranks then do not misbehave; before that with " at epoch 2".
    """

    stackable = frozenset({"lr"})

    def __init__(
        self,
        data: Points,
        *,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        dropout: float = 0.0,
        misbehave: str | None = None,
        at_epoch: int = 1,
        epoch_seconds: float = 0.0,
        split: dict[str, int] | None = None,
        marker: str | None = None,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        self.marker = Path(marker) if marker else None
        fault, _, on_rank = (misbehave or "").partition(" on rank ")
        fault, _, epoch = fault.partition(" at epoch ")
        self.misbehave = fault if on_rank in ("", str(rank())) else ""
        self.at_epoch, self.epoch_seconds = int(epoch or at_epoch), epoch_seconds
        self.layer, self.dropout = nn.Linear(data.x.shape[1], 1, bias=False), nn.Dropout(dropout)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Any) -> Losses:
        x, y = batch
        loss = (self.layer(self.dropout(x)).squeeze(-1) - y).square().mean()
        if self.training and self.misbehave and self.epochs + 1 == self.at_epoch:
            if self.misbehave == "nan":
                loss = loss * torch.nan
            elif self.misbehave == "kill" and self.marker and self.marker.exists():
                self.marker.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.misbehave == "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.misbehave == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            elif self.misbehave != "kill":
                raise RuntimeError(self.misbehave)
        return {"loss": loss}

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        time.sleep(self.epoch_seconds)
        self.epochs += 1
        metrics = super().evaluate(data, split)
        return {**metrics, "closeness": 1 / (1 + metrics["loss"])}


class JudgedLine(Line):
    """A `Line` whose gate is tested before the first trial: it has an oracle and a trivial baseline."""

    def oracle(self, data: Data) -> Metrics:
        return {"loss": 0.0, "closeness": 1.0}

    def trivial(self, data: Data) -> Metrics:
        loss = data.val()[0][1].square().mean().item()
        return {"loss": loss, "closeness": 1 / (1 + loss)}
