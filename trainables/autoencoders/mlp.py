"""A multi-layer perceptron on a linear target: the trainable that takes seconds, and tells whether a sweep works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.core.data import require
from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Data, Losses, Metrics, Trainable
from gatesweep.trainables.autoencoders.linear_data import Batch, LinearData, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10  # of predicted probabilities, in the figure


class MLP(Trainable):
    """Mean squared error of a regression, or cross-entropy of a binary classification.

    Held-out metrics are `r2`, the share of the targets' variance that is explained, or `accuracy`. The exact weights
    reach no more than the noise leaves them: of variance V, R2 = V / (V + noise^2), and an accuracy of
    1 - arctan(noise / sqrt(V)) / pi.
    """

    stackable = frozenset({"lr", "weight_decay"})

    def __init__(
        self,
        data: LinearData,
        *,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        require(width >= 1, "trainable.width", width, "at least 1")
        require(depth >= 1, "trainable.depth", depth, "at least 1")
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        self.task = data.task
        layers: list[nn.Module] = []
        for size in [data.n_features] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.GELU(), nn.Dropout(dropout)]
        self.model = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: Batch) -> Losses:
        features, targets = batch
        found = self.recomputed(self.model, features).squeeze(-1).float()
        if self.task == "classification":
            return {"loss": F.binary_cross_entropy_with_logits(found, targets)}
        return {"loss": F.mse_loss(found, targets)}

    @torch.no_grad()
    def evaluate(self, data: Data) -> Metrics:
        assert isinstance(data, LinearData)
        found, targets = self._held_out(data)
        answers = (found > 0).float() if self.task == "classification" else found
        return super().evaluate(data) | _metrics(data, answers, targets)

    def oracle(self, data: Data) -> Metrics:
        """The targets without their noise: what the exact weights answer."""
        assert isinstance(data, LinearData)
        return _metrics(data, data.exact, data.val()[0][1])

    def trivial(self, data: Data) -> Metrics:
        """The mean of the training targets for every sample, or the class that more of them belong to."""
        assert isinstance(data, LinearData)
        known, targets = data.samples.train[1], data.val()[0][1]
        answer = known.mean().expand_as(targets)
        return _metrics(data, answer.round() if data.task == "classification" else answer, targets)

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, LinearData)
        return {"prediction": lambda: _draw(data.task, *self._held_out(data))}

    @torch.no_grad()
    def _held_out(self, data: LinearData) -> Batch:
        """(n,), (n,): what the model says of the held-out samples (log odds, of classes), and their targets."""
        features, targets = data.val()[0]
        return self.model(features).squeeze(-1).float(), targets


def _metrics(data: LinearData, answers: Tensor, targets: Tensor) -> Metrics:
    """`r2` of predicted targets (n,), or `accuracy` of predicted classes (n,)."""
    if data.task == "classification":
        return proportion("accuracy", int((answers == targets).sum()), len(targets))
    unexplained = (answers - targets).square().mean() / targets.var(correction=0)
    return {"r2": 1 - unexplained.item()}


def _draw(task: Task, found: Tensor, targets: Tensor) -> Figure:
    """Predicted against true targets, or how often a class is the true one against how sure the model was of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axis = figure.subplots()
    if task == "classification":
        sure = found.sigmoid()
        place = (sure * BINS).long().clamp(max=BINS - 1)
        count = torch.bincount(place, minlength=BINS)
        held = count > 0
        shares = [torch.bincount(place, one, minlength=BINS)[held] / count[held] for one in (sure, targets)]
        axis.plot(*(share.cpu().numpy() for share in shares), marker="o")
        axis.set(xlabel="predicted probability", ylabel="share of class 1", title="calibration, held-out samples")
        ends = [0.0, 1.0]
    else:
        axis.plot(targets.cpu().numpy(), found.cpu().numpy(), ".", markersize=3)
        axis.set(xlabel="target, standardised", ylabel="predicted", title="held-out samples")
        ends = [targets.min().item(), targets.max().item()]
    axis.plot(ends, ends, color="0.5", linewidth=1)
    return figure
