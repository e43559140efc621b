"""Attacks on a classifier of points in the unit cube: the nearby points that it is least sure of, or wrong about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
TRIES = 200  # random points of a ball, from the worst of which an ascent starts
AT_ONCE = 2**14  # numbers of such points in one pass through a machine, about
Size = float | Tensor  # of a perturbation, as a fraction of the inputs' range: a number, a scalar, or (B, 1) of points


class Classifier(Protocol):
    """Whatever can be attacked: a Born machine, say."""

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """(B, K): log p(c|x) of inputs (B, n) in [0, 1], whose gradient with respect to x exists."""


def fgsm(machine: Classifier, x: Tensor, labels: Tensor, eps: Size) -> Tensor:
    """(B, n): one step of `eps` up the sign of the gradient of -log p(c|x), within the unit cube.

    Source: Goodfellow et al., arXiv:1412.6572.
    """
    slope = slope_of(lambda moved: surprise(machine, moved, labels))(x)[0]
    return (x.detach() + eps * slope.sign()).clamp(0, 1)


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
    """(B, n): the least likely for their label, -log p(c|x), among the points that projected gradient ascent visits.

    They lie within `eps` of x and within the unit cube. A generator (of the CPU) starts it at a random point of the
    ball; without one it starts at x itself. `step_size` is 2.5 eps / steps unless given.
    Source: Madry et al., arXiv:1706.06083.
    """
    start = x if generator is None else random_start(x, eps, norm, generator)
    return ascend(lambda moved: surprise(machine, moved, labels), x, eps, start, norm, steps, step_size)


def ascend(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: Size,
    start: Tensor,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: Size | None = None,
) -> Tensor:
    """(B, n): where `objective`, of points (B, n) to values (B,), was highest on the way up from `start`.

    No gradient flows back through it, and none reaches the parameters of what it climbs on.
    """
    slope, x = slope_of(objective), x.detach()
    step = 2.5 * eps / steps if step_size is None else step_size
    moved, best, highest = start.detach(), x, torch.full_like(x[:, 0], -torch.inf)
    for _ in range(steps):
        gradient, value = slope(moved)
        best, highest = torch.where((value > highest)[:, None], moved, best), torch.maximum(value, highest)
        direction = gradient.sign() if norm == "linf" else gradient / _length(gradient)
        moved = _project(moved + step * direction, x, eps, norm)
    with torch.no_grad():
        return torch.where((objective(moved) > highest)[:, None], moved, best)


def slope_of(objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The gradient (B, n) of the values (B,) of an objective, each with respect to its own point, and the values."""

    def total(points: Tensor) -> tuple[Tensor, Tensor]:
        values = objective(points)
        return values.sum(), values

    @torch.no_grad()  # of the parameters; a gradient with respect to the points is taken all the same
    def slope(points: Tensor) -> tuple[Tensor, Tensor]:
        # Not autograd.grad: this one also works inside vmap, and leaves DDP's hooks on the parameters alone.
        with torch.autocast(points.device.type, enabled=False):  # of the way back; the way there is the objective's
            return torch.func.grad(total, has_aux=True)(points)

    return slope


def random_start(x: Tensor, eps: Size, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """(B, n): uniform in the ball of size `eps` around each point, as far as it lies within the unit cube."""
    if norm == "linf":
        moved = 2 * _draw(x, generator, torch.rand) - 1
    else:
        direction = _draw(x, generator, torch.randn)
        radius = _draw(x[..., :1], generator, torch.rand) ** (1 / x.shape[-1])
        moved = direction / _length(direction) * radius
    return (x + eps * moved).clamp(0, 1)


def surprise(machine: Classifier, x: Tensor, labels: Tensor) -> Tensor:
    """(B,): -log p(c|x) of labels (B,)."""
    return -machine.class_log_probabilities(x).gather(1, labels[:, None])[:, 0]


@torch.no_grad()
def worst_start(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    eps: Size,
    tries: int,
    norm: Norm = "l2",
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, n): where `objective` is highest among `tries` random points of the ball around each point."""
    drawn = random_start(x.expand(tries, *x.shape), eps, norm, generator)
    values = torch.vmap(objective, chunk_size=max(1, AT_ONCE // max(1, x.numel())))(drawn)
    worst = values.argmax(dim=0)[None, :, None].expand(1, *x.shape)
    return drawn.gather(0, worst)[0]


@torch.no_grad()
def withstands(
    machine: Classifier, x: Tensor, labels: Tensor, eps: Size, steps: int = 20, tries: int = TRIES
) -> Tensor:
    """(B,): whether a point is classified rightly as it is and after ascents from itself and from a `worst_start`.

    Ascent alone (`tries` 1 is about what is usual) flatters a Born machine: amplitudes change their sign along lines
    on which a class has probability 0, thin valleys that a gradient finds only from nearby. The same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x), 1)
    robust = machine.class_log_probabilities(x).argmax(dim=1) == labels
    for start in ("itself", "worst"):
        left = robust.nonzero()[:, 0]  # a host sync: those that fell need no further attack
        points, own, size = x[left], labels[left], sizes[left]

        def objective(moved: Tensor, own: Tensor = own) -> Tensor:
            return surprise(machine, moved, own)

        first = points if start == "itself" else worst_start(objective, points, size, tries, generator=generator)
        moved = ascend(objective, points, size, first, steps=steps)
        robust[left] = machine.class_log_probabilities(moved).argmax(dim=1) == own
    return robust


def robust_accuracy(machine: Classifier, x: Tensor, labels: Tensor, eps: float, steps: int = 20) -> float:
    """The share of points (B, n) that `withstands` an attack of `eps`, a fraction of the inputs' range."""
    return withstands(machine, x, labels, eps, steps).double().mean().item()


def _project(moved: Tensor, x: Tensor, eps: Size, norm: Norm) -> Tensor:
    """Into the ball around x, then into the cube; the latter brings no point further from x, which lies in it."""
    away = moved - x
    if norm == "linf":
        away = torch.minimum(torch.maximum(away, -eps * torch.ones_like(x)), eps * torch.ones_like(x))
    else:
        away = away * (eps / _length(away)).clamp(max=1)
    return (x + away).clamp(0, 1)


def _length(vectors: Tensor) -> Tensor:
    """(B, 1): Euclidean lengths, never 0."""
    return vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _draw(like: Tensor, generator: torch.Generator | None, draw: Callable[..., Tensor]) -> Tensor:
    """Numbers of a generator on the CPU, or of the device's own, which a checkpoint keeps."""
    if generator is None:
        return draw(like.shape, dtype=like.dtype, device=like.device)
    return draw(like.shape, dtype=like.dtype, generator=generator).to(like.device)
