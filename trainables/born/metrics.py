"""What is asked of a density with classes: right classes, likely points, good samples, and that it is normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.born.attacks import withstands
from gatesweep.trainables.born.mps import BornMachine

PROJECTIONS = 64
NODES = 48  # of the quadrature in each direction: exact for polynomials of degree 95


class Density(Protocol):
    """A `BornMachine`, or a `Mixture` whose answer is known. Densities are those of 2 x - 1."""

    def log_weights(self, x: Tensor) -> Tensor: ...

    def log_partition(self) -> Tensor: ...

    def class_log_probabilities(self, x: Tensor) -> Tensor: ...


@torch.no_grad()
def likelihoods(model: Density, x: Tensor, labels: Tensor) -> Metrics:
    """`accuracy`, `nll` (-log p(c|x)) and `joint_nll_per_dim` (-log p(x, c) / n), of points (B, n)."""
    weights = model.log_weights(x)
    found = weights.log_softmax(dim=1)
    own = labels[:, None]
    joint = model.log_partition().logsumexp(0) - weights.gather(1, own).mean()
    return {
        **proportion("accuracy", int((found.argmax(dim=1) == labels).sum()), len(labels)),
        "nll": -found.gather(1, own).mean().item(),
        "joint_nll_per_dim": joint.item() / x.shape[1],
    }


def robustness(model: Density, x: Tensor, labels: Tensor, sizes: Sequence[float], steps: int) -> Metrics:
    """`robust_accuracy_10`, and so on for each size in percent of the inputs' range."""
    each = torch.tensor(sizes, dtype=x.dtype).repeat_interleave(len(x))[:, None].to(x.device)
    right = withstands(model, x.repeat(len(sizes), 1), labels.repeat(len(sizes)), each, steps)
    counts = right.unflatten(0, (len(sizes), len(x))).sum(dim=1).tolist()
    found: Metrics = {}
    for eps, count in zip(sizes, counts, strict=True):
        found |= proportion(f"robust_accuracy_{round(100 * eps):02d}", count, len(labels))
    return found


@torch.no_grad()
def generation(draw: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, classes: int, count: int) -> Metrics:
    """`frechet` and `sliced_w1` of `count` drawn points against real ones (B, n), each the mean over classes."""
    asked = torch.arange(count, device=labels.device) % classes
    drawn = draw(asked)
    pairs = [(x[labels == one].double(), drawn[asked == one].double()) for one in range(classes)]
    return {
        name: float(np.mean([distance(*pair) for pair in pairs]))
        for name, distance in (("frechet", frechet), ("sliced_w1", sliced_wasserstein))
    }


def frechet(real: Tensor, found: Tensor) -> float:
    """The squared Frechet distance of Gaussians with the moments of points (B, n) and (M, n), in units of 2 x - 1.

    It sees means and covariances, nothing else: a Gaussian with those of the data is at 0.
    Source: Dowson and Landau, J. Multivar. Anal. 12 (1982) 450.
    """
    means = [2 * one.mean(dim=0) for one in (real, found)]
    first, second = (4 * torch.atleast_2d(one.T.cov()) for one in (real, found))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return ((means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * shared).item()


def sliced_wasserstein(real: Tensor, found: Tensor) -> float:
    """The mean over directions of the Wasserstein-1 distance of points (M, n) to real ones (B, n), along each.

    In units of the real points' standard deviation in each coordinate; the directions are the same every time. Unlike
    `frechet` it sees the shape of a cloud. Source: Bonneel et al., J. Math. Imaging Vis. 51 (2015) 22.
    """
    draws = torch.Generator().manual_seed(0)
    directions = torch.randn(real.shape[1], PROJECTIONS, generator=draws).to(real)
    directions /= torch.linalg.vector_norm(directions, dim=0)
    scale = real.std(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    one, other = (((points / scale) @ directions).T.contiguous().sort(dim=1).values for points in (real, found))
    ends = torch.cat([one, other], dim=1).sort(dim=1).values
    below = [torch.searchsorted(values, ends, right=True).to(ends) / values.shape[1] for values in (one, other)]
    return ((below[0] - below[1]).abs()[:, :-1] * ends.diff(dim=1)).sum(dim=1).mean().item()


@torch.no_grad()
def normalisation_error(machine: BornMachine, wide: BornMachine) -> float:
    """How far the probabilities of a machine are from adding up to one, as it is used, in single precision.

    Of one or two features |integral of p - 1|, by quadrature; of more, the error of log Z against `wide`, the same
    machine in double precision.
    """
    total = machine.log_partition().double().logsumexp(0)
    if machine.n_features > 2:
        return (total - wide.log_partition().logsumexp(0)).abs().item()
    nodes, weights = (torch.from_numpy(one).to(machine.label) for one in np.polynomial.legendre.leggauss(NODES))
    x = torch.cartesian_prod(*[(nodes + 1) / 2] * machine.n_features).reshape(-1, machine.n_features)
    share = torch.cartesian_prod(*[weights] * machine.n_features).reshape(len(x), -1).double().prod(dim=1)
    density = (machine.log_weights(x).double().logsumexp(dim=1) - total).exp()
    return abs((density * share).sum().item() - 1)
