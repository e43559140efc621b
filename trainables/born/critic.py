"""A critic of points and their class: what it learns, and what it has against points that a machine drew."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CriticLoss = Literal["bce", "wasserstein"]
PENALTY = 10.0  # weight of the gradient penalty, arXiv:1704.00028


class Critic(nn.Module):
    """A perceptron of `depth` hidden layers that gives each point (B, n) in [0, 1], with its class (B,), a number.

    The larger, the more real it finds the point to be.
    """

    def __init__(self, n_features: int, n_classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        sizes = [n_features + n_classes] + [width] * depth
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.n_classes).to(x)
        return self.layers(torch.cat([2 * x - 1, one_hot], dim=1))[:, 0].float()


def loss_of_critic(kind: CriticLoss, critic: nn.Module, x: Tensor, labels: Tensor, drawn: Tensor, of: Tensor) -> Tensor:
    """What the critic minimises, of real points x (B, n) with labels (B,) and drawn ones (M, n) with labels `of` (M,).

    Cross-entropy, or Wasserstein with its gradient penalty at points between the two, whose labels must agree as far as
    they go together. Source: Goodfellow et al., arXiv:1406.2661; Gulrajani et al., arXiv:1704.00028.
    """
    real, fake = critic(x, labels), critic(drawn, of)
    if kind == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    paired = min(len(x), len(drawn))
    between = torch.lerp(drawn[:paired], x[:paired], torch.rand(paired, 1, device=x.device))
    return fake.mean() - real.mean() + PENALTY * gradient_penalty(critic, between, labels[:paired])


def loss_of_drawn(kind: CriticLoss, critic: nn.Module, drawn: Tensor, of: Tensor) -> Tensor:
    """What the machine minimises: that the critic does not take its points for real (bce: non-saturating)."""
    judged = critic(drawn, of)
    return F.softplus(-judged).mean() if kind == "bce" else -judged.mean()


def gradient_penalty(critic: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Mean of (|slope| - 1)^2 of the critic at points (B, n), in units of their range; can be differentiated again."""
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, enabled=False):  # the slope is differentiated once more
        slope = torch.autograd.grad(critic(x, labels).sum(), x, create_graph=True)[0]
    return (slope.norm(dim=1) - 1).square().mean()
