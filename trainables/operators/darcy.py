"""Flow through a porous medium: a pressure field in two dimensions, given the permeability of the medium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import DifferentiableField, GridField
from gatesweep.trainables.operators.grid import Axis, Grid
from gatesweep.trainables.operators.problems import Problem

Medium = Literal["smooth", "two_phase"]


@dataclass(frozen=True)
class Darcy(Problem):
    """-div(a grad u) = 1 on the unit square with u = 0 on its boundary: the pressure u in a medium of permeability a.

    In a `smooth` medium, log a is a random field of standard deviation 0.5. In a `two_phase` medium, a is 12 where that
    field is positive and 3 elsewhere. The outflow through the boundary equals the source.
    """

    medium: Medium = "smooth"
    evolves: ClassVar[bool] = False
    WAVES: ClassVar[int] = 4  # half waves along each side
    FINER: ClassVar[int] = 2  # the reference's steps are so many times smaller

    @property
    def differentiable(self) -> bool:
        """True for a smooth medium; where a jumps, only the flux a grad u has a derivative."""
        return self.medium == "smooth"

    def grid(self, rows: int, columns: int) -> Grid:
        """Return a grid of x by y, both with their ends."""
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=False))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw standard normal cosine coefficients, (count, (WAVES + 1)^2), float64."""
        return torch.randn(count, (self.WAVES + 1) ** 2, dtype=torch.float64, generator=draws)

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the permeability a, (n, 1, rows, columns), float64."""
        half = torch.pi * torch.arange(self.WAVES + 1, dtype=torch.float64)
        scale = reference.amplitudes(torch.hypot(half[:, None], half), 1.0)
        scale[0, 0] = 0.0
        scale = scale / scale.square().sum().sqrt()
        rows, columns = (torch.cos(half[:, None] * axis.coordinates()) for axis in grid.axes)
        coefficients = drawn.unflatten(1, scale.shape) * scale
        field = torch.einsum("nkl,kr,lc->nrc", coefficients, rows, columns)[:, None]
        return torch.exp(field) if self.medium == "smooth" else torch.where(field > 0, 12.0, 3.0)

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the pressure (n, 1, rows, columns), float64, from a solution on a grid of half the step."""
        fine = grid.refined(self.FINER)
        mediums = self.inputs(drawn, fine)[:, 0].numpy()
        solutions = [torch.from_numpy(reference.darcy(medium)) for medium in mediums]
        return torch.stack(solutions)[:, None, :: self.FINER, :: self.FINER]

    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return 1 + div(a grad u), (n, 1, rows, columns).

        Values on a grid get finite volumes, as in the reference: where a jumps, only the flux has a derivative. Their
        residual is meaningless at the ends of both axes.
        """
        if isinstance(field, GridField):
            return 1 + _divergence(inputs, field.values, -2) + _divergence(inputs, field.values, -1)
        laplacian = field.derivative(axis=0, order=2) + field.derivative(axis=1, order=2)
        bent = inputs * laplacian
        a_x, a_y = (field.stencils(inputs, axis, 1) for axis in (0, 1))
        return 1 + bent + a_x * field.derivative(axis=0, order=1) + a_y * field.derivative(axis=1, order=1)

    def rate(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return the source, 1 everywhere, as the unit of residuals."""
        return torch.ones_like(field.values)

    def base(self, inputs: Tensor) -> Tensor:
        """Return the boundary value 0, (n, 1, rows, columns)."""
        return torch.zeros_like(inputs)

    def envelope(self, grid: Grid) -> Tensor:
        """Return 16 x (1 - x) y (1 - y), (rows, columns): 0 on the boundary, 1 at the centre."""
        x, y = grid.coordinates()
        return 16 * x * (1 - x) * y * (1 - y)

    def free(self, field: Tensor) -> Tensor:
        """Return a field (..., rows, columns) without its boundary."""
        return field[..., 1:-1, 1:-1]

    def drift(self, inputs: Tensor, field: DifferentiableField, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Return the outflow through the four sides minus the source 1, (n, 1).

        `weights` are those of the trapezoidal rule, along rows (rows,) and along columns (columns,).
        """
        flux = [-inputs[:, 0] * field.derivative(axis=axis, order=1)[:, 0] for axis in (0, 1)]
        through_rows = (flux[0][:, -1] - flux[0][:, 0]) @ weights[1]
        through_columns = (flux[1][:, :, -1] - flux[1][:, :, 0]) @ weights[0]
        return (through_rows + through_columns - 1)[:, None]

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return None: nothing evolves."""
        return None


def _divergence(a: Tensor, u: Tensor, axis: int) -> Tensor:
    """Return the part of div(a grad u) along an axis, by fluxes through the faces between points; 0 at its ends."""
    n = a.shape[axis]
    before, after = a.narrow(axis, 0, n - 1), a.narrow(axis, 1, n - 1)
    flux = 2 * before * after / (before + after) * u.diff(dim=axis) * (n - 1)
    inner = flux.diff(dim=axis) * (n - 1)
    edge = torch.zeros_like(inner.narrow(axis, 0, 1))
    return torch.cat([edge, inner, edge], dim=axis)
