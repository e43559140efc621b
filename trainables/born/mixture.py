"""Mixtures of Gaussians, one a class: densities that are known, to hold a Born machine against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 0.01  # the width of a Gaussian around points that are all alike


class Mixture:
    """Gaussians of widths (n,) around centres (m, n), alike in weight; a pair of those for each class.

    Answers in float64 what a `BornMachine` does of points (B, n), in its units: densities are those of 2 x - 1.
    """

    def __init__(self, centres: Sequence[Tensor], widths: Sequence[Tensor], prior: Tensor | None = None) -> None:
        self.centres, self.widths = [one.double() for one in centres], [one.double() for one in widths]
        share = torch.full((len(centres),), 1 / len(centres)) if prior is None else prior
        self.log_prior = share.to(self.centres[0]).log()

    def log_densities(self, x: Tensor) -> Tensor:
        """(B, K): log p(x|c)."""
        found = []
        for centres, width in zip(self.centres, self.widths, strict=True):
            # |a - b|^2 by one product: the centres may be many.
            a, b = x.double() / width, centres / width
            apart = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
            norm = (2 * width * math.sqrt(2 * math.pi)).log().sum() + math.log(len(centres))
            found.append((-apart / 2).logsumexp(dim=1) - norm)
        return torch.stack(found, dim=1)

    def log_weights(self, x: Tensor) -> Tensor:
        """(B, K): log p(x, c)."""
        return self.log_densities(x) + self.log_prior

    def log_partition(self) -> Tensor:
        """(K,): log p(c): `log_weights` are normalised as they are."""
        return self.log_prior

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """(B, K): log p(c|x)."""
        return self.log_weights(x).log_softmax(dim=1)

    def draw(self, labels: Tensor) -> Tensor:
        """(N, n): points of p(x|c) for labels (N,), the same at every call."""
        generator = torch.Generator().manual_seed(0)
        found = torch.empty(len(labels), self.centres[0].shape[1], dtype=torch.float64, device=labels.device)
        for label, (centres, width) in enumerate(zip(self.centres, self.widths, strict=True)):
            asked = (labels == label).nonzero()[:, 0]
            of = torch.randint(len(centres), (len(asked),), generator=generator).to(labels.device)
            noise = torch.randn(len(asked), centres.shape[1], generator=generator, dtype=torch.float64)
            found[asked] = centres[of] + width * noise.to(labels.device)
        return found


def gaussians(x: Tensor, labels: Tensor) -> Mixture:
    """One Gaussian for each class of points (B, n), with its means and its standard deviations."""
    classes = [x[labels == label].double() for label in labels.unique()]
    return Mixture(
        [one.mean(dim=0, keepdim=True) for one in classes],
        [one.std(dim=0).clamp(min=LEAST) for one in classes],
        labels.bincount() / len(labels),
    )


def kernels(x: Tensor, labels: Tensor) -> Mixture:
    """A Gaussian around each point (B, n) of its class, as wide as points are from the next one, on average."""
    classes = [x[labels == label].double() for label in labels.unique()]
    widths = []
    for one in classes:
        apart = torch.cdist(one, one).fill_diagonal_(torch.inf).amin(dim=1).mean() / math.sqrt(one.shape[1])
        widths.append(apart.clamp(min=LEAST).expand(one.shape[1]))
    return Mixture(classes, widths, labels.bincount() / len(labels))
