"""Two coupled fields: a magnetic potential that heats what carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import Derivatives
from gatesweep.trainables.operators.grid import Grid
from gatesweep.trainables.operators.problems import MEAN, Problem, size, spread


@dataclass(frozen=True)
class MagnetoThermal(Problem):
    """A magnetic potential that heats what carries it, and whose diffusion the heat changes, on a ring.

    A_t = eta(T) A_xx + J(x, t), T_t = diffusion T_xx + heating A_x^2, eta(T) = diffusion (1 + rise T). The heat in the
    ring is what it was and what the field has brought: d/dt int T = heating int A_x^2. The inputs are A and T at
    t = 0, and J at all times.
    """

    diffusion: float
    rise: float = 0.5
    heating: float = 0.03
    fields: ClassVar[tuple[str, ...]] = ("A", "T")

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        potential, warmth, source = (reference.draw_series(count, draws, mean=MEAN) for _ in range(3))
        return torch.cat([potential, warmth, source, torch.rand(count, 2, dtype=torch.float64, generator=draws)], dim=1)

    def _parts(self, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = 1 + 2 * reference.WAVES
        potential, warmth, source, phase = drawn.split([size, size, size, 2], dim=1)
        return potential, warmth, source, phase

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        potential, warmth, source, phase = self._parts(drawn)
        turns = phase[:, :1] * grid.rows.coordinates() + phase[:, 1:]
        driven = spread(source, grid) * (2 * torch.pi * turns).cos()[:, None, :, None]
        return torch.cat([spread(potential, grid), spread(warmth, grid), driven], dim=1)

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        potential, warmth, source, phase = self._parts(drawn)
        times = -(-48 // grid.columns.points)
        x = grid.columns.refined(times).coordinates()
        start = torch.stack([reference.series(one, x) for one in (potential, warmth)], dim=1)
        found = reference.magneto_thermal(
            start,
            grid.rows.coordinates(),
            reference.series(source, x),
            phase,
            diffusion=self.diffusion,
            rise=self.rise,
            heating=self.heating,
        )
        return found[..., ::times]

    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        rate, slope, curve = of(0, 1), of(1, 1), of(1, 2)
        eta = self.diffusion * (1 + self.rise * of.values[:, 1])
        potential = rate[:, 0] - eta * curve[:, 0] - inputs[:, 2]
        warmth = rate[:, 1] - self.diffusion * curve[:, 1] - self.heating * slope[:, 0].square()
        return torch.stack([potential, warmth], dim=1)

    def drift(self, inputs: Tensor, of: Derivatives, weights: tuple[Tensor, Tensor]) -> Tensor:
        """(n, rows): heat in the ring less what it was and what was brought, relative to T at the start (rms)."""
        along, across = weights
        power = self.heating * (of(1, 1)[:, 0].square() @ across)
        brought = torch.cumsum((power[:, 1:] + power[:, :-1]) / 2 * along[1], dim=1)
        brought = torch.cat([torch.zeros_like(power[:, :1]), brought], dim=1)
        start = inputs[:, 1, 0]
        return (of.values[:, 1] @ across - (start @ across)[:, None] - brought) / size(start, across)

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        return None  # the source feeds it
