"""The terms of the loss of the circuit VAE, each a mean over the B circuits of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def topology(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the negative log-likelihood of a circuit's components, in nats.

    It is the binary cross-entropy of `logits` (B, 10, 3) with `mask` (B, 10, 3), summed over the 30 places.
    """
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none").sum(dim=(1, 2)).mean()


def edges(decoded: Tensor, exact: Tensor, mask: Tensor) -> Tensor:
    """Return the squared error of standardised values (B, 10, 3), summed over the components of `mask` (B, 10, 3)."""
    return ((decoded - exact).square() * mask).sum(dim=(1, 2)).mean()


def chamfer(decoded: Tensor, exact: Tensor, count: Tensor) -> Tensor:
    """Return the Chamfer distance of points (B, k, 3) to the first `count` (B,) of points (B, m, 3).

    Distances are squared Euclidean, and both directions are added. All k decoded points count: to match fewer exact
    points, some of them must coincide. The distance to an empty set is 0, because the number of points has its own term
    (`counts`).
    """
    exists = torch.arange(exact.shape[1], device=exact.device) < count[:, None]
    if 0 in (decoded.shape[1], exact.shape[1]):
        return decoded.sum() * 0.0
    distance = (decoded[:, :, None] - exact[:, None]).square().sum(dim=-1)
    to_decoded = (distance.amin(dim=1) * exists).sum(dim=1) / count.clamp(min=1)
    to_exact = distance.masked_fill(~exists[:, None], torch.inf).amin(dim=2).mean(dim=1)
    return torch.where(count > 0, to_decoded + torch.where(count > 0, to_exact, 0.0), 0.0).mean()


def counts(logits: list[Tensor], exact: Tensor) -> Tensor:
    """Return the cross-entropy in nats of the numbers of poles, of zeros and of zeros at the origin, summed.

    `exact` (B, 3) holds the numbers, and `logits` one tensor (B, largest number + 1) for each of its columns.
    """
    terms = [F.cross_entropy(column, exact[:, index]) for index, column in enumerate(logits)]
    return torch.stack(terms).sum()


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence (latent,) of posteriors (B, latent) from the standard normal, in nats per dimension."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)
