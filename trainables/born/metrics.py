"""Metrics of a density with classes: classification, likelihood, robustness, quality of samples, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.born.attacks import is_robust
from gatesweep.trainables.born.mps import BornMachine

PROJECTIONS = 64  # random directions of the sliced Wasserstein distance
NODES = 48  # of the quadrature in each direction: exact for polynomials of degree 95


class Density(Protocol):
    """Density of points (B, n) and K classes: a `BornMachine` or a `Mixture`. Densities are those of 2 x - 1."""

    def log_weights(self, x: Tensor) -> Tensor:
        """Compute log p(x, c) up to a constant, (B, K)."""

    def log_partition(self) -> Tensor:
        """Compute the logarithm of the integral of exp `log_weights` over x, (K,)."""

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """Compute log p(c|x), (B, K)."""


@torch.no_grad()
def likelihoods(model: Density, x: Tensor, labels: Tensor) -> Metrics:
    """Compute `accuracy`, `nll` and `joint_nll_per_dim` of points (B, n) and labels (B,).

    `nll` is the mean -log p(c|x) in nats; `joint_nll_per_dim` is the mean -log p(x, c) in nats, divided by n.
    """
    weights = model.log_weights(x)
    log_probabilities = weights.log_softmax(dim=1)
    own = labels[:, None]
    joint = model.log_partition().logsumexp(0) - weights.gather(1, own).mean()
    return {
        **proportion("accuracy", int((log_probabilities.argmax(dim=1) == labels).sum()), len(labels)),
        "nll": -log_probabilities.gather(1, own).mean().item(),
        "joint_nll_per_dim": joint.item() / x.shape[1],
    }


def robustness(model: Density, x: Tensor, labels: Tensor, sizes: Sequence[float], steps: int) -> Metrics:
    """Compute the share of points (B, n) for which `is_robust` holds, for each size of attack, with `steps` steps.

    Sizes are fractions of the inputs' range. The metric of size 0.10 is `robust_accuracy_10`: the name has percents.
    """
    size_of_point = torch.tensor(sizes, dtype=x.dtype).repeat_interleave(len(x))[:, None].to(x.device)
    robust = is_robust(model, x.repeat(len(sizes), 1), labels.repeat(len(sizes)), size_of_point, steps)
    counts = robust.unflatten(0, (len(sizes), len(x))).sum(dim=1).tolist()
    metrics: Metrics = {}
    for eps, count in zip(sizes, counts, strict=True):
        metrics |= proportion(f"robust_accuracy_{round(100 * eps):02d}", count, len(labels))
    return metrics


@torch.no_grad()
def generation(draw: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, classes: int, count: int) -> Metrics:
    """Compute `frechet` and `sliced_w1` between `count` drawn points and real ones (B, n), each the mean over classes.

    `draw` maps labels (N,) to points (N, n); `count` is shared equally among the classes.
    """
    drawn_labels = torch.arange(count, device=labels.device) % classes
    drawn = draw(drawn_labels)
    pairs = [(x[labels == label].double(), drawn[drawn_labels == label].double()) for label in range(classes)]
    return {
        name: float(np.mean([distance(*pair) for pair in pairs]))
        for name, distance in (("frechet", frechet), ("sliced_w1", sliced_wasserstein))
    }


def frechet(real: Tensor, drawn: Tensor) -> float:
    """Compute the squared Frechet distance between Gaussians fitted to points (B, n) and (M, n), in units of 2 x - 1.

    It depends on means and covariances only: a Gaussian with the moments of the data has distance 0.
    Source: Dowson and Landau, J. Multivar. Anal. 12 (1982) 450.
    """
    means = [2 * points.mean(dim=0) for points in (real, drawn)]
    first, second = (4 * torch.atleast_2d(points.T.cov()) for points in (real, drawn))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return ((means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * shared).item()


def sliced_wasserstein(real: Tensor, drawn: Tensor) -> float:
    """Compute the Wasserstein-1 distance between points (B, n) and (M, n) along a direction, averaged over directions.

    Each coordinate is in units of the real points' standard deviation. The PROJECTIONS random directions are the same
    at every call. Unlike `frechet`, the distance depends on the shape of a cloud.
    Source: Bonneel et al., J. Math. Imaging Vis. 51 (2015) 22.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(real.shape[1], PROJECTIONS, generator=generator).to(real)
    directions /= torch.linalg.vector_norm(directions, dim=0)
    scale = real.std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    projections = [((points / scale) @ directions).T.contiguous().sort(dim=1).values for points in (real, drawn)]
    # In one dimension the distance is the area between the two cumulative distributions, which are step functions.
    steps = torch.cat(projections, dim=1).sort(dim=1).values
    below = [torch.searchsorted(values, steps, right=True).to(steps) / values.shape[1] for values in projections]
    return ((below[0] - below[1]).abs()[:, :-1] * steps.diff(dim=1)).sum(dim=1).mean().item()


@torch.no_grad()
def normalisation_error(machine: BornMachine, wide: BornMachine) -> float:
    """Compute how far the total probability of `machine`, in the precision it is used in, is from 1.

    For one or two features, this is |integral of p - 1| by quadrature. For more features, it is the absolute error of
    log Z; `wide` is the same machine in double precision.
    """
    total = machine.log_partition().double().logsumexp(0)
    if machine.n_features > 2:
        return (total - wide.log_partition().logsumexp(0)).abs().item()
    nodes, weights = (torch.from_numpy(array).to(machine.label) for array in np.polynomial.legendre.leggauss(NODES))
    x = torch.cartesian_prod(*[(nodes + 1) / 2] * machine.n_features).reshape(-1, machine.n_features)
    share = torch.cartesian_prod(*[weights] * machine.n_features).reshape(len(x), -1).double().prod(dim=1)
    density = (machine.log_weights(x).double().logsumexp(dim=1) - total).exp()
    return abs((density * share).sum().item() - 1)
