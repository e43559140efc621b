"""Predictions with an uncertainty of their own: the losses that teach it, and how far it can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gatesweep.core.distributed import mean_count

NOMINAL = (0.5, 0.8, 0.9, 0.95)  # shares of targets that intervals are to hold


def gaussian_nll(
    mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Mean negative log likelihood under N(mean, exp(log_var)), in nats, without the constant log(2 pi) / 2.

    `weight` counts elements: 0 leaves one out, 1 takes it in; `count` is as for `weighted_mean`.
    """
    nats = 0.5 * (log_var + (target - mean).square() * (-log_var).exp())
    return nats.mean() if weight is None else weighted_mean(nats, weight, count)


def weighted_mean(values: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean of values (samples, ...) by weights that broadcast to them; 0 where all weights are 0.

    It is that of the whole batch, of which this rank may have a part. `count`, `mean_count` of the samples' weights,
    saves counting them again where each sample has one weight.
    """
    weight = weight.expand_as(values)
    total = mean_count(weight) if count is None else count * (weight.numel() // len(weight))
    return (weight * values).sum() / total.clamp(min=1e-12)


def kl_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Mean divergence of N(mean, exp(log_var)) from N(0, 1), in nats an element.

    Source: Kingma and Welling, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()


def coverage(mean: Tensor, log_var: Tensor, target: Tensor, nominal: Sequence[float] = NOMINAL) -> dict[float, float]:
    """Which share of the targets lies in the central interval that should hold a nominal share of them."""
    score = ((target - mean).abs() * (-0.5 * log_var).exp()).float()
    wide = [math.sqrt(2) * torch.erfinv(torch.tensor(share, dtype=torch.float64)).item() for share in nominal]
    held = torch.stack([(score <= width).float().mean() for width in wide]).tolist()  # one host sync
    return dict(zip(nominal, held, strict=True))


def coverage_error(mean: Tensor, log_var: Tensor, target: Tensor, nominal: Sequence[float] = NOMINAL) -> float:
    """Mean distance of the shares that intervals hold from those that they should hold, 0 to 1.

    Source: Kuleshov et al., arXiv:1807.00263, with the absolute in the place of the squared distance.
    """
    held = coverage(mean, log_var, target, nominal)
    return sum(abs(found - share) for share, found in held.items()) / len(held)


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """(bins,) each: how many predictions (n, classes) each bin of confidence holds, their mean confidence, accuracy.

    Bins are equally wide, closed above; empty ones are 0.
    """
    confidence, answer = probabilities.double().max(dim=1)
    right = (answer == labels).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    chosen = F.one_hot(place, bins).double()
    count = chosen.sum(dim=0)
    filled = count.clamp(min=1)
    return count, confidence @ chosen / filled, right @ chosen / filled


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance of confidence from accuracy, over bins of confidence, weighted by their predictions.

    `probabilities` (n, classes), `labels` (n,). Source: Guo et al., arXiv:1706.04599.
    """
    count, confidence, accuracy = reliability(probabilities, labels, bins)
    return float((count * (confidence - accuracy).abs()).sum() / count.sum())
