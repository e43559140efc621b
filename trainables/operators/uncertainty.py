"""Predicted uncertainties: the losses that train them, and metrics of their calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gatesweep.core.distributed import mean_count

NOMINAL = (0.5, 0.8, 0.9, 0.95)  # shares of targets that intervals should contain


def gaussian_nll(
    mean: Tensor, log_var: Tensor, target: Tensor, weight: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Return the mean negative log likelihood under N(mean, exp(log_var)), in nats, a scalar.

    It leaves out the constant log(2 pi) / 2. All tensors have, or broadcast to, one shape. `weight` is 1 for elements
    that count and 0 for the others; `count` is as for `weighted_mean`.
    """
    nats = 0.5 * (log_var + (target - mean).square() * (-log_var).exp())
    return nats.mean() if weight is None else weighted_mean(nats, weight, count)


def weighted_mean(values: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the weighted mean of `values` (samples, ...), a scalar; 0 if all weights are 0.

    `weight` broadcasts to `values`. Averaged over ranks, the result is the mean over the whole batch, although each
    rank has only a part of it; this takes one collective. `count`, the `mean_count` of one weight per sample, avoids
    that collective when it is known already.
    """
    weight = weight.expand_as(values)
    total = mean_count(weight) if count is None else count * (weight.numel() // len(weight))
    return (weight * values).sum() / total.clamp(min=1e-12)


def kl_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of N(mean, exp(log_var)) from N(0, 1), in nats per element, a scalar.

    Source: Kingma and Welling, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()


def coverage(mean: Tensor, log_var: Tensor, target: Tensor, nominal: Sequence[float] = NOMINAL) -> dict[float, float]:
    """Return the share of targets in each central interval, by the nominal share that it should contain.

    `mean`, `log_var` and `target` have, or broadcast to, one shape.
    """
    score = ((target - mean).abs() * (-0.5 * log_var).exp()).float()
    widths = [math.sqrt(2) * torch.erfinv(torch.tensor(share, dtype=torch.float64)).item() for share in nominal]
    shares = torch.stack([(score <= width).float().mean() for width in widths]).tolist()  # one host sync
    return dict(zip(nominal, shares, strict=True))


def coverage_error(mean: Tensor, log_var: Tensor, target: Tensor, nominal: Sequence[float] = NOMINAL) -> float:
    """Return the mean distance between the shares that intervals contain and their nominal shares, 0 to 1.

    Source: Kuleshov et al., arXiv:1807.00263, with absolute instead of squared distances.
    """
    covered = coverage(mean, log_var, target, nominal)
    return sum(abs(share - expected) for expected, share in covered.items()) / len(covered)


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, mean confidence and accuracy of the predictions in each bin of confidence, (bins,) each, float64.

    `probabilities` (n, classes), `labels` (n,). The bins have equal widths and include their upper ends. An empty bin
    has zeros.
    """
    confidence, answer = probabilities.double().max(dim=1)
    correct = (answer == labels).double()
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    membership = F.one_hot(index, bins).double()
    count = membership.sum(dim=0)
    filled = count.clamp(min=1)
    return count, confidence @ membership / filled, correct @ membership / filled


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy over bins, weighted by their numbers of predictions.

    `probabilities` (n, classes), `labels` (n,). Source: Guo et al., arXiv:1706.04599.
    """
    count, confidence, accuracy = reliability(probabilities, labels, bins)
    return float((count * (confidence - accuracy).abs()).sum() / count.sum())
