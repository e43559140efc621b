"""The terms of the loss, each a mean over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def topology(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of the 30 places, summed: the circuit's negative log-likelihood in nats."""
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none").sum(dim=(1, 2)).mean()


def edges(found: Tensor, exact: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the standardised values, summed over the parts that are there."""
    return ((found - exact).square() * mask).sum(dim=(1, 2)).mean()


def chamfer(found: Tensor, exact: Tensor, count: Tensor) -> Tensor:
    """Chamfer distance of points (B, k, 3) to the first `count` (B,) of points (B, m, 3), squared Euclidean, both ways.

    Every found point counts, so that a set of fewer points is matched by doubling some. The distance to the empty
    set is 0: how many points there are is another term's business.
    """
    there = torch.arange(exact.shape[1], device=exact.device) < count[:, None]
    if 0 in (found.shape[1], exact.shape[1]):
        return found.sum() * 0.0
    distance = (found[:, :, None] - exact[:, None]).square().sum(dim=-1)
    to_found = (distance.amin(dim=1) * there).sum(dim=1) / count.clamp(min=1)
    to_exact = distance.masked_fill(~there[:, None], torch.inf).amin(dim=2).mean(dim=1)
    return torch.where(count > 0, to_found + torch.where(count > 0, to_exact, 0.0), 0.0).mean()


def counts(logits: list[Tensor], exact: Tensor) -> Tensor:
    """Cross-entropy of how many (B, 3) poles, zeros, and zeros at the origin there are, summed."""
    return torch.stack([F.cross_entropy(one, exact[:, index]) for index, one in enumerate(logits)]).sum()


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from the standard normal to the posterior of each latent dimension (latent,), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=0)
