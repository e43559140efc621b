"""Attacks on a classifier of points in the unit cube: nearby points that get a low probability for their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
TRIES = 200  # random points of a ball; the second ascent starts from the worst of them
AT_ONCE = 2**14  # numbers of such points in one pass through a machine, roughly: bounds the memory
Size = float | Tensor  # largest move, as a fraction of the inputs' range: one for all points, or (B, 1)


class Classifier(Protocol):
    """Model that can be attacked, e.g. a `BornMachine`."""

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """Compute log p(c|x) of inputs (B, n) in [0, 1], (B, K); it has a gradient with respect to x."""


def fgsm(machine: Classifier, x: Tensor, labels: Tensor, eps: Size) -> Tensor:
    """Move points (B, n) once by `eps` along the sign of the gradient of -log p(c|x); returns (B, n) in the unit cube.

    Source: Goodfellow et al., arXiv:1412.6572.
    """
    gradient = gradient_of(lambda moved: surprise(machine, moved, labels))(x)[0]
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


def pgd(
    machine: Classifier,
    x: Tensor,
    labels: Tensor,
    eps: Size,
    *,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: Size | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack points (B, n) by projected gradient ascent on -log p(c|x); returns the worst point visited, (B, n).

    Results lie within `eps` of x (in `norm`) and in the unit cube. With a generator (of the CPU) the ascent starts at
    a random point of the ball, without one at x itself. `step_size` is 2.5 eps / steps by default.
    Source: Madry et al., arXiv:1706.06083.
    """
    start = x if generator is None else random_start(x, eps, norm, generator)
    return ascend(lambda moved: surprise(machine, moved, labels), x, eps, start, norm, steps, step_size)


@torch.no_grad()
def is_robust(machine: Classifier, x: Tensor, labels: Tensor, eps: Size, steps: int = 20, tries: int = TRIES) -> Tensor:
    """Test if points (B, n) are classified right as they are and after two L2 attacks of size `eps`; returns bool (B,).

    One attack ascends from the point itself, the other from the worst of `tries` random points of its ball. Ascent
    from the point alone, or from one random point as is usual, overrates a Born machine. Its amplitudes change their
    sign along lines, on which a class has probability 0. These valleys are thin: a gradient leads into them only from
    nearby. The random points are the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x), 1)
    robust = machine.class_log_probabilities(x).argmax(dim=1) == labels
    for start in ("itself", "worst"):
        rows = robust.nonzero()[:, 0]  # a host sync; points with a wrong class need no further attack
        points, own, size = x[rows], labels[rows], sizes[rows]

        def objective(moved: Tensor, own: Tensor = own) -> Tensor:
            """Surprise (B,) at moved points (B, n)."""
            return surprise(machine, moved, own)

        first = points if start == "itself" else worst_start(objective, points, size, tries, generator=generator)
        moved = ascend(objective, points, size, first, steps=steps)
        robust[rows] = machine.class_log_probabilities(moved).argmax(dim=1) == own
    return robust


def robust_accuracy(machine: Classifier, x: Tensor, labels: Tensor, eps: float, steps: int = 20) -> float:
    """Compute the share of points (B, n) for which `is_robust` holds, under attacks of size `eps`."""
    return is_robust(machine, x, labels, eps, steps).double().mean().item()


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: Size,
    start: Tensor,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: Size | None = None,
) -> Tensor:
    """Climb `objective`, which maps (B, n) to (B,), from `start` (B, n); returns the best point visited, (B, n).

    Every point stays within `eps` of x and in the unit cube. No gradient flows back through the ascent, and none
    reaches the parameters of the objective. `step_size` is 2.5 eps / steps by default.
    """
    gradient_and_value, x = gradient_of(objective), x.detach()
    step = 2.5 * eps / steps if step_size is None else step_size
    moved, best, highest = start.detach(), x, torch.full_like(x[:, 0], -torch.inf)
    for _ in range(steps):
        gradient, value = gradient_and_value(moved)
        best, highest = torch.where((value > highest)[:, None], moved, best), torch.maximum(value, highest)
        direction = gradient.sign() if norm == "linf" else gradient / _length(gradient)
        moved = _project(moved + step * direction, x, eps, norm)
    with torch.no_grad():
        return torch.where((objective(moved) > highest)[:, None], moved, best)


def gradient_of(objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Make a function that maps points (B, n) to the gradient of their own value, (B, n), and the values, (B,)."""

    def total(points: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the values, whose gradient is that of each point's own value, and the values."""
        values = objective(points)
        return values.sum(), values

    @torch.no_grad()  # for the parameters; torch.func.grad still differentiates with respect to the points
    def gradient(points: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (B, n) and values (B,) at points (B, n)."""
        # torch.func.grad, unlike autograd.grad, works inside vmap and does not fire DDP's hooks on the parameters.
        with torch.autocast(points.device.type, enabled=False):  # for the backward pass; the objective sets its own
            return torch.func.grad(total, has_aux=True)(points)

    return gradient


def random_start(x: Tensor, eps: Size, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Draw a point uniformly from the ball of size `eps` around each x (..., n), then clamp it to the unit cube."""
    if norm == "linf":
        moved = 2 * _draw(x, generator, torch.rand) - 1
    else:
        direction = _draw(x, generator, torch.randn)
        radius = _draw(x[..., :1], generator, torch.rand) ** (1 / x.shape[-1])
        moved = direction / _length(direction) * radius
    return (x + eps * moved).clamp(0, 1)


@torch.no_grad()
def worst_start(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: Size,
    tries: int,
    norm: Norm = "l2",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw `tries` random points of the ball around each x (B, n); returns the one with the highest objective."""
    drawn = random_start(x.expand(tries, *x.shape), eps, norm, generator)
    values = torch.vmap(objective, chunk_size=max(1, AT_ONCE // max(1, x.numel())))(drawn)
    worst = values.argmax(dim=0)[None, :, None].expand(1, *x.shape)
    return drawn.gather(0, worst)[0]


def surprise(machine: Classifier, x: Tensor, labels: Tensor) -> Tensor:
    """Compute -log p(c|x) in nats, (B,), for points (B, n) and labels (B,)."""
    return -machine.class_log_probabilities(x).gather(1, labels[:, None])[:, 0]


def _project(moved: Tensor, x: Tensor, eps: Size, norm: Norm) -> Tensor:
    """Project onto the ball around x, then onto the cube; the second step stays in the ball, for x is in the cube."""
    away = moved - x
    if norm == "linf":
        away = torch.minimum(torch.maximum(away, -eps * torch.ones_like(x)), eps * torch.ones_like(x))
    else:
        away = away * (eps / _length(away)).clamp(max=1)
    return (x + away).clamp(0, 1)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean lengths (B, 1), never 0."""
    return vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _draw(like: Tensor, generator: torch.Generator | None, draw: Callable[..., Tensor]) -> Tensor:
    """Random numbers from a CPU generator, or from the device's global one, whose state checkpoints keep."""
    if generator is None:
        return draw(like.shape, dtype=like.dtype, device=like.device)
    return draw(like.shape, dtype=like.dtype, generator=generator).to(like.device)
