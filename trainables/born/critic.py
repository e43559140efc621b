"""Critic of points and their class, its losses, and the loss of the machine that it teaches."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CriticLoss = Literal["bce", "wasserstein"]
PENALTY = 10.0  # weight of the gradient penalty, arXiv:1704.00028


class Critic(nn.Module):
    """Perceptron that gives a number to each point (B, n) in [0, 1] with its class (B,); larger means more real.

    It has `depth` hidden layers of `width` units. The class enters as a one-hot vector beside the point.
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
        """Rate points (B, n) of classes (B,); returns ratings (B,) in float32."""
        one_hot = F.one_hot(labels, self.n_classes).to(x)
        return self.layers(torch.cat([2 * x - 1, one_hot], dim=1))[:, 0].float()


def loss_of_critic(
    kind: CriticLoss, critic: nn.Module, x: Tensor, labels: Tensor, drawn: Tensor, drawn_labels: Tensor
) -> Tensor:
    """Compute the loss of the critic, a scalar, from real points x (B, n) and drawn points (M, n) with their labels.

    `bce` is the cross-entropy of real against drawn. `wasserstein` is the difference of the mean ratings plus PENALTY
    times the gradient penalty, at random points between real point i and drawn point i; so for i up to min(B, M) the
    two must have the same label.
    Source: Goodfellow et al., arXiv:1406.2661; Gulrajani et al., arXiv:1704.00028.
    """
    real, fake = critic(x, labels), critic(drawn, drawn_labels)
    if kind == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    paired = min(len(x), len(drawn))
    between = torch.lerp(drawn[:paired], x[:paired], torch.rand(paired, 1, device=x.device))
    return fake.mean() - real.mean() + PENALTY * gradient_penalty(critic, between, labels[:paired])


def loss_of_drawn(kind: CriticLoss, critic: nn.Module, drawn: Tensor, drawn_labels: Tensor) -> Tensor:
    """Compute the loss of the machine, a scalar: small where the critic takes drawn points (M, n) for real ones.

    `bce` is the non-saturating loss.
    """
    rating = critic(drawn, drawn_labels)
    return F.softplus(-rating).mean() if kind == "bce" else -rating.mean()


def gradient_penalty(critic: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean of (|gradient of the critic| - 1)^2 at points x (B, n); the gradient is with respect to x.

    The result can be differentiated again, with respect to the critic's parameters.
    """
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, enabled=False):  # a gradient that is differentiated needs full precision
        slope = torch.autograd.grad(critic(x, labels).sum(), x, create_graph=True)[0]
    return (slope.norm(dim=1) - 1).square().mean()
