"""Derivatives of predicted fields: by matrices on a grid, or by the chain rule through the network's last layers."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from gatesweep.trainables.operators.fno import FNO
from gatesweep.trainables.operators.grid import Grid, Kind, along, derivative

Residual = Literal["spectral", "finite_difference", "autograd", "none"]


class Derivatives(Protocol):
    """Fields (B, fields, rows, columns) and their derivatives."""

    values: Tensor
    stencils: Stencils

    def __call__(self, axis: int, order: int) -> Tensor:
        """The derivative of every field along rows (0) or columns (1), once or twice."""


class Stencils(nn.Module):
    """The matrices of a grid, as buffers: two for each axis."""

    def __init__(self, grid: Grid, residual: Residual) -> None:
        super().__init__()
        kind: Kind = "finite_difference" if residual == "finite_difference" else "spectral"
        for axis, one in enumerate(grid.axes):
            for order in (1, 2):
                matrix = derivative(one, order, kind).float()
                self.register_buffer(f"matrix_{axis}_{order}", matrix, persistent=False)

    def forward(self, field: Tensor, axis: int, order: int) -> Tensor:
        return along(self.get_buffer(f"matrix_{axis}_{order}").to(field.dtype), field, axis)


class OfField:
    """Derivatives of values on a grid."""

    def __init__(self, values: Tensor, stencils: Stencils) -> None:
        self.values, self.stencils = values, stencils

    def __call__(self, axis: int, order: int) -> Tensor:
        return self.stencils(self.values, axis, order)


class OfNetwork:
    """Derivatives of base + envelope * network.project(hidden), which acts on each point for itself.

    Only `hidden` (B, width, rows, columns), `base` (B, fields, rows, columns) and `envelope` (rows, columns) are
    differentiated by the grid's matrices; the nonlinear projection by the chain rule, exactly, so that what it adds
    beyond the grid's resolution does not alias. `spread` (fields, 1, 1) multiplies the first of the network's outputs.
    Source: Li et al., arXiv:2111.03794, section 3.3.
    """

    def __init__(
        self, hidden: Tensor, network: FNO, base: Tensor, envelope: Tensor, spread: Tensor, stencils: Stencils
    ) -> None:
        self.hidden, self.network, self.base, self.envelope = hidden, network, base, envelope
        self.spread, self.stencils = spread, stencils
        self.output = network.project(hidden)
        self.known: dict[int, tuple[Tensor, Tensor]] = {}  # by axis: first and second derivatives of the output
        self.values = base + envelope * self._scaled(self.output)

    def _scaled(self, output: Tensor) -> Tensor:
        return self.spread * output[:, : len(self.spread)]

    def __call__(self, axis: int, order: int) -> Tensor:
        if axis not in self.known:
            path = [self.stencils(self.hidden, axis, one) for one in (1, 2)]
            self.known[axis] = self.network.slopes(self.hidden, path[0], path[1])
        first, second = (self._scaled(one) for one in self.known[axis])
        value, bend = self._scaled(self.output), self.stencils(self.envelope, axis, 1)
        base = self.stencils(self.base, axis, order)
        if order == 1:
            return base + bend * value + self.envelope * first
        bow = self.stencils(self.envelope, axis, 2)
        return base + bow * value + 2 * bend * first + self.envelope * second


def interior(field: Tensor, grid: Grid) -> Tensor:
    """A field (..., rows, columns) without the ends of axes that are not periodic: differences are coarser there."""
    if not grid.rows.periodic:
        field = field[..., 1:-1, :]
    return field if grid.columns.periodic else field[..., 1:-1]


def relative_l2(found: Tensor, exact: Tensor) -> Tensor:
    """(B, fields): the norm of an error over the norm of what is exact."""
    return torch.linalg.vector_norm(found - exact, dim=(-2, -1)) / torch.linalg.vector_norm(exact, dim=(-2, -1))
