"""A multi-layer perceptron on a linear target: a trial takes seconds, so it shows quickly if a sweep works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.core.data import check_size, require
from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable, split_batches
from gatesweep.trainables.autoencoders.linear_data import Batch, LinearData, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10  # bins of the predicted probability in the calibration figure


class MLP(Trainable):
    """MLP with `depth` hidden layers of `width` GELU units and dropout.

    The loss is the mean squared error for regression, or the cross-entropy for binary classification. The validation
    metric is `r2`, the share of the targets' variance that is explained, or `accuracy`. Noise limits both, even for
    the exact weights: with variance V of the noiseless target, R2 is V / (V + noise^2), and the accuracy is
    1 - arctan(noise / sqrt(V)) / pi. Raises InputError if a hyperparameter is out of its range.
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
        check_size("trainable.width", width)
        check_size("trainable.depth", depth)
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        self.task = data.task
        layers: list[nn.Module] = []
        for size in [data.n_features] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.GELU(), nn.Dropout(dropout)]
        self.model = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: Batch) -> Losses:
        """Return `loss` for features (B, F) and targets (B,)."""
        features, targets = batch
        outputs = self.recomputed(self.model, features).squeeze(-1).float()
        if self.task == "classification":
            return {"loss": F.binary_cross_entropy_with_logits(outputs, targets)}
        return {"loss": F.mse_loss(outputs, targets)}

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the loss and `r2` or `accuracy` on the samples of `split`."""
        assert isinstance(data, LinearData)
        outputs, targets = self._outputs(data, split)
        predictions = (outputs > 0).float() if self.task == "classification" else outputs
        return super().evaluate(data, split) | _metrics(data, predictions, targets)

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of the exact weights, which predict the targets without noise."""
        assert isinstance(data, LinearData)
        return _metrics(data, data.exact, data.val()[0][1])

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of a constant prediction: the mean of the training targets, or their majority class."""
        assert isinstance(data, LinearData)
        train_targets, targets = data.samples.train[1], data.val()[0][1]
        mean = train_targets.mean().expand_as(targets)
        return _metrics(data, mean.round() if data.task == "classification" else mean, targets)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return a function that draws the `prediction`: predicted against true targets, or a calibration curve."""
        assert isinstance(data, LinearData)
        return {"prediction": lambda: _draw(data.task, *self._outputs(data, split))}

    @torch.no_grad()
    def _outputs(self, data: LinearData, split: Split) -> Batch:
        """Return outputs (n,), which are log odds for classes, and targets (n,) of the samples of a split."""
        features, targets = (torch.cat(parts) for parts in zip(*split_batches(data, split), strict=True))
        return self.model(features).squeeze(-1).float(), targets


def _metrics(data: LinearData, predictions: Tensor, targets: Tensor) -> Metrics:
    """Return `r2` of predicted targets (n,), or `accuracy` of predicted classes (n,) with its confidence bounds."""
    if data.task == "classification":
        return proportion("accuracy", int((predictions == targets).sum()), len(targets))
    unexplained = (predictions - targets).square().mean() / targets.var(correction=0)
    return {"r2": 1 - unexplained.item()}


def _draw(task: Task, outputs: Tensor, targets: Tensor) -> Figure:
    """Draw predicted against true targets, or the share of class 1 against its predicted probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axis = figure.subplots()
    if task == "classification":
        probabilities = outputs.sigmoid()
        bins = (probabilities * BINS).long().clamp(max=BINS - 1)
        count = torch.bincount(bins, minlength=BINS)
        filled = count > 0
        mean_probability = torch.bincount(bins, probabilities, minlength=BINS)[filled] / count[filled]
        share = torch.bincount(bins, targets, minlength=BINS)[filled] / count[filled]
        axis.plot(mean_probability.cpu().numpy(), share.cpu().numpy(), marker="o")
        axis.set(xlabel="predicted probability", ylabel="share of class 1", title="calibration")
        ends = [0.0, 1.0]
    else:
        axis.plot(targets.cpu().numpy(), outputs.cpu().numpy(), ".", markersize=3)
        axis.set(xlabel="target, standardised", ylabel="predicted", title="prediction")
        ends = [targets.min().item(), targets.max().item()]
    axis.plot(ends, ends, color="0.5", linewidth=1)
    return figure
