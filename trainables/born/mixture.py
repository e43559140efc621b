"""Mixtures of Gaussians, one for each class: known densities to compare a Born machine with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 0.01  # smallest width of a Gaussian, in units of the unit cube: needed where all points are equal


class Mixture:
    """Density of points x (B, n) and K classes, in float64; each class is a mixture of Gaussians of equal weight.

    For each class, `centres` has (m, n) and `widths` has (n,), the standard deviations along the axes, both in units
    of x. `prior` (K,) is p(c); without it all classes are equally likely. Methods that `BornMachine` has too return the
    same quantities in the same units: densities are per unit volume of 2 x - 1.
    """

    def __init__(self, centres: Sequence[Tensor], widths: Sequence[Tensor], prior: Tensor | None = None) -> None:
        self.centres = [points.double() for points in centres]
        self.widths = [width.double() for width in widths]
        share = torch.full((len(centres),), 1 / len(centres)) if prior is None else prior
        self.log_prior = share.to(self.centres[0]).log()

    def log_densities(self, x: Tensor) -> Tensor:
        """Compute log p(x|c) for every class, (B, K)."""
        columns: list[Tensor] = []
        for centres, width in zip(self.centres, self.widths, strict=True):
            # |a - b|^2 by a matrix product: there may be too many centres for all differences at once.
            a, b = x.double() / width, centres / width
            squared_distance = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
            log_norm = (2 * width * math.sqrt(2 * math.pi)).log().sum() + math.log(len(centres))
            columns.append((-squared_distance / 2).logsumexp(dim=1) - log_norm)
        return torch.stack(columns, dim=1)

    def log_weights(self, x: Tensor) -> Tensor:
        """Compute log p(x, c), (B, K)."""
        return self.log_densities(x) + self.log_prior

    def log_partition(self) -> Tensor:
        """Return log p(c), (K,): the integral of exp `log_weights` over x."""
        return self.log_prior

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """Compute log p(c|x), (B, K)."""
        return self.log_weights(x).log_softmax(dim=1)

    def draw(self, labels: Tensor) -> Tensor:
        """Draw points of p(x|c) for labels (N,), (N, n) in float64; the same points at every call."""
        generator = torch.Generator().manual_seed(0)
        points = torch.empty(len(labels), self.centres[0].shape[1], dtype=torch.float64, device=labels.device)
        for label, (centres, width) in enumerate(zip(self.centres, self.widths, strict=True)):
            rows = (labels == label).nonzero()[:, 0]
            component = torch.randint(len(centres), (len(rows),), generator=generator).to(labels.device)
            noise = torch.randn(len(rows), centres.shape[1], generator=generator, dtype=torch.float64)
            points[rows] = centres[component] + width * noise.to(labels.device)
        return points


def gaussians(x: Tensor, labels: Tensor) -> Mixture:
    """Fit one Gaussian to each class of points x (B, n), by its means and standard deviations along the axes."""
    classes = [x[labels == label].double() for label in labels.unique()]
    return Mixture(
        [points.mean(dim=0, keepdim=True) for points in classes],
        [points.std(dim=0).clamp(min=LEAST) for points in classes],
        labels.bincount() / len(labels),
    )


def kernels(x: Tensor, labels: Tensor) -> Mixture:
    """Estimate the density of points x (B, n) by a Gaussian around each point of a class.

    The width is the mean distance to the nearest point of the class, over sqrt(n).
    """
    classes = [x[labels == label].double() for label in labels.unique()]
    widths: list[Tensor] = []
    for points in classes:
        nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).amin(dim=1)
        width = nearest.mean() / math.sqrt(points.shape[1])
        widths.append(width.clamp(min=LEAST).expand(points.shape[1]))
    return Mixture(classes, widths, labels.bincount() / len(labels))
