"""Flow through a porous medium: a field in two dimensions, given how permeable the medium is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import Derivatives, OfField
from gatesweep.trainables.operators.grid import Axis, Grid
from gatesweep.trainables.operators.problems import Problem

Medium = Literal["smooth", "two_phase"]


@dataclass(frozen=True)
class Darcy(Problem):
    """-div(a grad u) = 1 on the unit square, u = 0 around it: pressure in a porous medium.

    `smooth`: log a is a random field of standard deviation 0.5; `two_phase`: a is 12 where that field is positive and
    3 where it is not. What flows out through the boundary is what the source brings.
    """

    medium: Medium = "smooth"
    evolves: ClassVar[bool] = False
    WAVES: ClassVar[int] = 4  # half waves along each side
    FINER: ClassVar[int] = 2  # the reference's grid, at least

    @property
    def differentiable(self) -> bool:
        return self.medium == "smooth"

    def grid(self, rows: int, columns: int) -> Grid:
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=False))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        return torch.randn(count, (self.WAVES + 1) ** 2, dtype=torch.float64, generator=draws)

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        half = torch.pi * torch.arange(self.WAVES + 1, dtype=torch.float64)
        scale = reference.amplitudes(torch.hypot(half[:, None], half), 1.0)
        scale[0, 0] = 0.0
        scale = scale / scale.square().sum().sqrt()
        rows, columns = (torch.cos(half[:, None] * axis.coordinates()) for axis in grid.axes)
        coefficients = drawn.unflatten(1, scale.shape) * scale
        field = torch.einsum("nkl,kr,lc->nrc", coefficients, rows, columns)[:, None]
        return torch.exp(field) if self.medium == "smooth" else torch.where(field > 0, 12.0, 3.0)

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        fine = grid.refined(self.FINER)
        mediums = self.inputs(drawn, fine)[:, 0].numpy()
        solved = [torch.from_numpy(reference.darcy(medium)) for medium in mediums]
        return torch.stack(solved)[:, None, :: self.FINER, :: self.FINER]

    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        if isinstance(of, OfField):  # by volumes, as the reference: across a jump of a, only the flux has a derivative
            return 1 + _divergence(inputs, of.values, -2) + _divergence(inputs, of.values, -1)
        bent = inputs * (of(0, 2) + of(1, 2))
        return 1 + bent + of.stencils(inputs, 0, 1) * of(0, 1) + of.stencils(inputs, 1, 1) * of(1, 1)

    def rate(self, inputs: Tensor, of: Derivatives) -> Tensor:
        return torch.ones_like(of.values)  # the source

    def base(self, inputs: Tensor) -> Tensor:
        return torch.zeros_like(inputs)

    def envelope(self, grid: Grid) -> Tensor:
        x, y = grid.coordinates()
        return 16 * x * (1 - x) * y * (1 - y)

    def free(self, field: Tensor) -> Tensor:
        return field[..., 1:-1, 1:-1]

    def drift(self, inputs: Tensor, of: Derivatives, weights: tuple[Tensor, Tensor]) -> Tensor:
        """(n, 1): what flows out through the four sides, less the source's 1."""
        flux = [-inputs[:, 0] * of(axis, 1)[:, 0] for axis in (0, 1)]
        through_rows = (flux[0][:, -1] - flux[0][:, 0]) @ weights[1]
        through_columns = (flux[1][:, :, -1] - flux[1][:, :, 0]) @ weights[0]
        return (through_rows + through_columns - 1)[:, None]

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        return None


def _divergence(a: Tensor, u: Tensor, axis: int) -> Tensor:
    """The part along an axis of div(a grad u), by fluxes through the faces between points; 0 at its ends."""
    n = a.shape[axis]
    before, after = a.narrow(axis, 0, n - 1), a.narrow(axis, 1, n - 1)
    flux = 2 * before * after / (before + after) * u.diff(dim=axis) * (n - 1)
    inner = flux.diff(dim=axis) * (n - 1)
    edge = torch.zeros_like(inner.narrow(axis, 0, 1))
    return torch.cat([edge, inner, edge], dim=axis)
