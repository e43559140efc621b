"""Training functions as strangers write them, and some that misbehave."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gatesweep import last, report

CLASSES = 3


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy pictures (count, 1, 8, 8) of a bar in one of three places, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (count,), generator=generator)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    for kind in range(CLASSES):
        x[classes == kind, :, :, 2 * kind + 1] += 1.2
    return x, classes


class Classifier(nn.Module):
    """A convolution with batch normalisation and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(width * 64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def classify(config: dict[str, Any]) -> None:
    """Train the classifier, and go on from the last checkpoint."""
    x, y = pictures(192, seed=0)
    held_x, held_y = pictures(96, seed=1)
    model = Classifier(config["width"])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=0.9)
    start = 0
    if found := last():
        assert found.state and found.folder is None
        model.load_state_dict(found.state["model"])
        optimizer.load_state_dict(found.state["optimizer"])
        start = found.epoch
    for _ in range(start, 100):
        model.train()
        for batch in torch.randperm(len(x)).split(32):  # from the global generator, as strangers do
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        time.sleep(config.get("nap", 0.0))
        model.eval()
        with torch.no_grad():
            accuracy = (model(held_x).argmax(1) == held_y).float().mean()
        report(
            {"train/loss": loss, "val/accuracy": accuracy},
            checkpoint={"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        )


def descend(lr: float, x: float = 10.0, *, nap: float = 0.0) -> Iterator[tuple[dict[str, float], Any]]:
    """Walk down a parabola, as a generator with typed arguments whose checkpoint is a file."""
    start = 0
    if found := last():
        assert found.folder and found.state is None
        start, x = found.epoch, float((found.folder / "x.txt").read_text())
    for _ in range(start, 100):
        time.sleep(nap)
        x -= lr * (2 * x + 0.1 * torch.randn(()).item())
        value = x
        yield {"val/closeness": 1 / (1 + x * x)}, lambda folder, value=value: (folder / "x.txt").write_text(repr(value))


def evaluate_once(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the only report."""
    return {"val/accuracy": config["lr"]}


def repeat(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield `config["values"]` one by one; what they are called is `config["name"]`."""
    for value in config["values"]:
        yield {config.get("name", "val/accuracy"): value}


def catch_all(config: dict[str, Any]) -> None:
    """Report inside a bare except, as long as it is let; `hang` seconds are what it sleeps after its end."""
    ended = 0
    for epoch in range(1000):
        try:
            report({"val/accuracy": epoch / 10}, checkpoint={"epoch": epoch})
        except BaseException:
            ended += 1
            if "hang" in config:
                time.sleep(config["hang"])
            if ended > 3:
                raise


def forget(config: dict[str, Any]) -> None:
    """Save, but never ask `last`."""
    for epoch in range(config.get("epochs", 10)):
        report({"val/accuracy": epoch / 100}, checkpoint={"epoch": epoch})


def leave(config: dict[str, Any]) -> None:
    """Call sys.exit after a report."""
    report({"val/accuracy": 0.5})
    sys.exit(4)


def look_around(config: dict[str, Any]) -> dict[str, float]:
    """Write where it runs to the file `config["file"]`."""
    Path(config["file"]).write_text(f"{os.getcwd()}\n{threading.current_thread().name}\n{torch.get_num_threads()}")
    return {"val/accuracy": 1.0}


async def wait(config: dict[str, Any]) -> None:
    """Be no function that can be driven."""
