"""Two coupled fields: a magnetic potential, and the temperature of the conductor that it heats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import DifferentiableField
from gatesweep.trainables.operators.grid import Grid
from gatesweep.trainables.operators.problems import MEAN, Problem, size, spread


@dataclass(frozen=True)
class MagnetoThermal(Problem):
    """A magnetic potential A on a ring that heats its conductor; the temperature T changes the diffusion of A.

    A_t = eta(T) A_xx + J(x, t), T_t = diffusion T_xx + heating A_x^2, eta(T) = diffusion (1 + rise T). The heat in the
    ring changes only by the heating: d/dt int T dx = heating int A_x^2 dx. The inputs are A and T at t = 0, and J at
    all times.
    """

    diffusion: float
    rise: float = 0.5
    heating: float = 0.03
    fields: ClassVar[tuple[str, ...]] = ("A", "T")

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw the series of A, T and J, then frequency and phase of J: (count, 3 (1 + 2 WAVES) + 2), float64."""
        potential, warmth, source = (reference.draw_series(count, draws, mean=MEAN) for _ in range(3))
        return torch.cat([potential, warmth, source, torch.rand(count, 2, dtype=torch.float64, generator=draws)], dim=1)

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return A and T at t = 0 in every row, and J at every time: (n, 3, rows, columns), float64."""
        potential, warmth, source, phase = self._parts(drawn)
        turns = phase[:, :1] * grid.rows.coordinates() + phase[:, 1:]
        driven = spread(source, grid) * (2 * torch.pi * turns).cos()[:, None, :, None]
        return torch.cat([spread(potential, grid), spread(warmth, grid), driven], dim=1)

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return A and T, (n, 2, rows, columns), float64, from a solution on at least 48 points of x."""
        potential, warmth, source, phase = self._parts(drawn)
        times = -(-48 // grid.columns.points)
        x = grid.columns.refined(times).coordinates()
        start = torch.stack([reference.series(coefficients, x) for coefficients in (potential, warmth)], dim=1)
        fields = reference.magneto_thermal(
            start,
            grid.rows.coordinates(),
            reference.series(source, x),
            phase,
            diffusion=self.diffusion,
            rise=self.rise,
            heating=self.heating,
        )
        return fields[..., ::times]

    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return left side minus right side of both equations, (n, 2, rows, columns)."""
        rate, slope = field.derivative(axis=0, order=1), field.derivative(axis=1, order=1)
        curve = field.derivative(axis=1, order=2)
        eta = self.diffusion * (1 + self.rise * field.values[:, 1])
        potential = rate[:, 0] - eta * curve[:, 0] - inputs[:, 2]
        warmth = rate[:, 1] - self.diffusion * curve[:, 1] - self.heating * slope[:, 0].square()
        return torch.stack([potential, warmth], dim=1)

    def drift(self, inputs: Tensor, field: DifferentiableField, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Return the unexplained change of heat, (n, rows): heat - heat at t = 0 - heating so far.

        It is relative to the rms of T at t = 0. `weights` are those of the trapezoidal rule, along rows and columns.
        """
        along, across = weights
        power = self.heating * (field.derivative(axis=1, order=1)[:, 0].square() @ across)
        supplied = torch.cumsum((power[:, 1:] + power[:, :-1]) / 2 * along[1], dim=1)
        supplied = torch.cat([torch.zeros_like(power[:, :1]), supplied], dim=1)
        start = inputs[:, 1, 0]
        return (field.values[:, 1] @ across - (start @ across)[:, None] - supplied) / size(start, across)

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return None: the source supplies energy, so the energy may grow."""
        return None

    def _parts(self, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Split drawn parameters into the series of A, T and J, (n, 1 + 2 WAVES) each, and (frequency, phase) of J."""
        coefficients = 1 + 2 * reference.WAVES
        potential, warmth, source, phase = drawn.split([coefficients, coefficients, coefficients, 2], dim=1)
        return potential, warmth, source, phase
