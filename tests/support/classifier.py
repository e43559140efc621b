"""Somebody else's model: a small classifier of images with BatchNorm, written without a look at gatesweep's families.

It has the faults that people's code has: a loader that hangs, a result that lacks a key, memory that runs out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable


class Images:
    """Images (1, 8, 8) of two classes: the left half is brighter, or the right one."""

    def __init__(
        self, *, device: str = "cpu", seed: int = 0, size: int = 96, batch_size: int = 16, hang_while: str | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(2, (size,), generator=generator).to(device)
        self.images = torch.randn(size, 1, 8, 8, generator=generator).to(device)
        self.images[..., :4] += 1.0 - 2.0 * self.labels[:, None, None, None]
        self.seed, self.batch_size = seed, batch_size
        self.hang_while = Path(hang_while) if hang_while else None

    def train(self, epoch: int) -> Sequence[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        dataset = TensorDataset(self.images, self.labels)
        loader = DataLoader(dataset, self.batch_size, shuffle=True, generator=generator)
        return Hanging(list(loader), self.hang_while if epoch == 1 else None)

    def val(self) -> Sequence[tuple[Tensor, Tensor]]:
        return [(self.images, self.labels)]


class Hanging(Sequence[Any]):
    """Batches of which the third never comes while a file exists."""

    def __init__(self, batches: list[Any], hang_while: Path | None) -> None:
        self.batches, self.hang_while = batches, hang_while

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: Any) -> Any:
        if position == 2 and self.hang_while and self.hang_while.exists():
            self.hang_while.unlink()
            time.sleep(3600)
        return self.batches[position]


class Classifier(Trainable):
    """Convolution, BatchNorm, and a linear layer; `fault` names what goes wrong in evaluation from an epoch on."""

    def __init__(
        self, data: Images, *, lr: float = 0.01, width: int = 4, fault: str | None = None, from_epoch: int = 0
    ) -> None:
        super().__init__(lr=lr)
        self.fault, self.from_epoch = fault, from_epoch
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 2)
        )

    def forward(self, batch: tuple[Tensor, Tensor]) -> Losses:
        images, labels = batch
        return {"loss": nn.functional.cross_entropy(self.layers(images), labels)}

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        images, labels = data.val()[0]
        right = (self.layers(images).argmax(dim=1) == labels).float().mean().item()
        results = {"accuracy": right}
        if self.fault and self.epoch >= self.from_epoch:
            if self.fault == "key":
                results["f1"] = results["precision"]
            elif self.fault == "memory":
                torch.empty(2**50)
            elif self.fault == "grow":
                self.kept = [bytearray(b"1") * 2**26 for _ in range(40) if time.sleep(0.05) is None]
        return {**super().evaluate(data, split), **results}


def classifier(results: Path, *overrides: str) -> list[str]:
    """Return overrides for a sweep of four trials of the classifier, one at a time, without MLflow."""
    nodes = {
        "trainable": "{_target_:'tests.support.classifier.Classifier'}",
        "data": "{_target_:'tests.support.classifier.Images'}",
        "search.space": "{trainable:{lr:{type:float,low:0.001,high:0.1}}}",
        "gate.thresholds": "{val/accuracy:'> 2'}",
        "gate.objective": "val/accuracy",
        "name": "classifier",
        "search": "random",
        "scheduler": "none",
        "num_samples": "4",
        "max_concurrent": "1",
        "training.max_epochs": "4",
        "tracking": "none",
        "figures": "none",
        "results": str(results),
    }
    return [*(f"{key}={value}" for key, value in nodes.items()), *overrides]
