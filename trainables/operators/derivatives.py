"""Derivatives of predicted fields: by matrices on a grid, or by the chain rule through the network's last layers."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from gatesweep.trainables.operators.fno import FNO
from gatesweep.trainables.operators.grid import Grid, Kind, along, derivative_matrix

Residual = Literal["spectral", "finite_difference", "autograd", "none"]


class DifferentiableField(Protocol):
    """Fields on a grid that can be differentiated."""

    values: Tensor  # (B, fields, rows, columns)
    stencils: Stencils  # the grid's differentiation matrices

    def derivative(self, *, axis: int, order: int) -> Tensor:
        """Return the first or second derivative (order 1 or 2) along rows (axis 0) or columns (axis 1).

        Its shape is that of `values`.
        """


class Stencils(nn.Module):
    """Differentiation matrices of a grid, as buffers: first and second order for each axis.

    `finite_difference` has differences on both axes. Any other `residual` has spectral matrices on periodic axes.
    """

    def __init__(self, grid: Grid, residual: Residual) -> None:
        super().__init__()
        kind: Kind = "finite_difference" if residual == "finite_difference" else "spectral"
        for axis, points in enumerate(grid.axes):
            for order in (1, 2):
                matrix = derivative_matrix(points, order, kind).float()
                self.register_buffer(f"matrix_{axis}_{order}", matrix, persistent=False)

    def forward(self, field: Tensor, axis: int, order: int) -> Tensor:
        """Differentiate a field (..., rows, columns) along rows (axis 0) or columns (axis 1); the shape stays."""
        return along(self.get_buffer(f"matrix_{axis}_{order}").to(field.dtype), field, axis)


class GridField:
    """Values on a grid, differentiated by the grid's matrices."""

    def __init__(self, values: Tensor, stencils: Stencils) -> None:
        self.values, self.stencils = values, stencils

    def derivative(self, *, axis: int, order: int) -> Tensor:
        """See `DifferentiableField.derivative`."""
        return self.stencils(self.values, axis, order)


class NetworkField:
    """The field base + envelope * network.project(hidden), differentiated through the network's last layers.

    `network.project` acts on each point separately, so the chain rule gives its derivatives exactly: waves that it adds
    beyond the grid's resolution do not alias. The grid's matrices differentiate only `hidden` (B, width, rows,
    columns), `base` (B, fields, rows, columns) and `envelope` (rows, columns). `spread` (fields, 1, 1) multiplies the
    first `fields` outputs of the network; further outputs are no part of the field.
    Source: Li et al., arXiv:2111.03794, section 3.3.
    """

    def __init__(
        self, hidden: Tensor, network: FNO, base: Tensor, envelope: Tensor, spread: Tensor, stencils: Stencils
    ) -> None:
        self.hidden, self.network, self.base, self.envelope = hidden, network, base, envelope
        self.spread, self.stencils = spread, stencils
        self.output = network.project(hidden)
        self.slopes: dict[int, tuple[Tensor, Tensor]] = {}  # by axis: first and second derivatives of the output
        self.values = base + envelope * self._scaled(self.output)

    def derivative(self, *, axis: int, order: int) -> Tensor:
        """See `DifferentiableField.derivative`."""
        if axis not in self.slopes:
            path = [self.stencils(self.hidden, axis, each) for each in (1, 2)]
            self.slopes[axis] = self.network.slopes(self.hidden, path[0], path[1])
        first, second = (self._scaled(slope) for slope in self.slopes[axis])
        value, bend = self._scaled(self.output), self.stencils(self.envelope, axis, 1)
        base = self.stencils(self.base, axis, order)
        if order == 1:
            return base + bend * value + self.envelope * first
        bow = self.stencils(self.envelope, axis, 2)
        return base + bow * value + 2 * bend * first + self.envelope * second

    def _scaled(self, output: Tensor) -> Tensor:
        return self.spread * output[:, : len(self.spread)]


def interior(field: Tensor, grid: Grid) -> Tensor:
    """Cut the ends of axes that are not periodic off a field (..., rows, columns): differences are coarser there."""
    if not grid.rows.periodic:
        field = field[..., 1:-1, :]
    return field if grid.columns.periodic else field[..., 1:-1]


def relative_l2(predicted: Tensor, exact: Tensor) -> Tensor:
    """Return the norm of the error over the norm of the exact field, (B, fields), for fields (..., rows, columns)."""
    return torch.linalg.vector_norm(predicted - exact, dim=(-2, -1)) / torch.linalg.vector_norm(exact, dim=(-2, -1))
