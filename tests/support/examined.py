"""A `Line` with a test split, whose evaluation on test can go wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatesweep.core.trainable import Data, Metrics, Split
from tests.support.trivial import Line, Points


class TestedPoints(Points):
    """Points with a test split, whose targets are shifted by `shift`: a fit is worse there."""

    __test__ = False

    def __init__(self, *, data_seed: int = 0, shift: float = 0.0, **fields: Any) -> None:
        super().__init__(**{**fields, "seed": data_seed})
        self.shift = shift

    def test(self) -> Sequence[tuple[Tensor, Tensor]]:
        x = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(self.seed + 1)).to(self.x)
        return [(x, x @ torch.linspace(-1, 1, 8, device=x.device) + self.shift)]


class Examined(Line):
    """Misbehaves on test as `on_test` says: raise, kill its process, or wait once `marker` is there."""

    def __init__(self, data: TestedPoints, *, on_test: str = "", examined: str = "", **fields: Any) -> None:
        super().__init__(data, **fields)
        self.on_test, self.examined = on_test, examined

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        if split == "test" and self.examined and not Path(self.examined).exists():
            if self.on_test == "raise":
                raise RuntimeError("no idea")
            if self.on_test == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.on_test == "wait":
                Path(self.examined).touch()
                time.sleep(5)
        return super().evaluate(data, split)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Any]]:
        return {"targets": lambda: _draw(data, split)}


class OfValAlone(Line):
    """Overrides evaluate as code did before there were splits."""

    def evaluate(self, data: Data) -> Metrics:  # type: ignore[override]
        return super().evaluate(data)


def _draw(data: Any, split: Split) -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(getattr(data, split)()[0][1].numpy())
    return figure
