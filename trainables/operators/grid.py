"""Regular grids of two axes, and the matrices that differentiate along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["spectral", "finite_difference"]


@dataclass(frozen=True)
class Axis:
    """Equally spaced points on [0, 1]. A periodic axis leaves out the end 1; any other axis has both ends."""

    points: int
    periodic: bool

    @property
    def step(self) -> float:
        """Distance between neighbouring points."""
        return 1.0 / (self.points if self.periodic else self.points - 1)

    def coordinates(self) -> Tensor:
        """Return the points, (points,), float64."""
        return torch.arange(self.points, dtype=torch.float64) * self.step

    def quadrature(self) -> Tensor:
        """Return the weights of the trapezoidal rule, (points,), float64. Their sum is 1."""
        weights = torch.full((self.points,), self.step, dtype=torch.float64)
        if not self.periodic:
            weights[0] = weights[-1] = self.step / 2
        return weights

    def refined(self, times: int) -> Axis:
        """Return an axis whose step is `times` smaller. Every `times`-th of its points belongs to this axis too."""
        return Axis(times * self.points if self.periodic else times * (self.points - 1) + 1, self.periodic)


@dataclass(frozen=True)
class Grid:
    """Rectangular grid: the rows are times or x, the columns are x or y."""

    rows: Axis
    columns: Axis

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Both axes, rows first."""
        return self.rows, self.columns

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.rows.points, self.columns.points

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Return the coordinates of rows (rows, 1) and of columns (columns,), float64. They broadcast to the grid."""
        return self.rows.coordinates()[:, None], self.columns.coordinates()

    def refined(self, times: int) -> Grid:
        """Return a grid whose steps are `times` smaller along both axes."""
        return Grid(self.rows.refined(times), self.columns.refined(times))


def derivative_matrix(axis: Axis, order: int, kind: Kind) -> Tensor:
    """Return the matrix (points, points), float64, that differentiates values on an axis once or twice.

    `spectral` is exact for every wave that a periodic axis resolves. An axis that is not periodic always has finite
    differences. They use five points: the first derivative is of fourth order, and so is the second away from the ends.
    """
    assert order in (1, 2)
    if kind == "spectral" and axis.periodic:
        return _spectral_matrix(axis, order)
    n, matrix = axis.points, torch.zeros(axis.points, axis.points, dtype=torch.float64)
    for point in range(n):
        first = point - 2 if axis.periodic else min(max(point - 2, 0), n - 5)
        around = torch.arange(first, first + 5)
        matrix[point, around % n] = _difference_weights(around - point, order) / axis.step**order
    return matrix


def along(matrix: Tensor, field: Tensor, axis: int) -> Tensor:
    """Apply a matrix to a field (..., rows, columns) along its rows (axis 0) or its columns (axis 1)."""
    return matrix @ field if axis == 0 else field @ matrix.mT


def _difference_weights(offsets: Tensor, order: int) -> Tensor:
    """Return the weights (n,) of values at n offsets in a derivative at 0, exact for polynomials of degree n - 1."""
    powers = torch.arange(len(offsets), dtype=torch.float64)
    moments = torch.zeros(len(offsets), dtype=torch.float64)
    moments[order] = math.factorial(order)
    return torch.linalg.solve(offsets.double() ** powers[:, None], moments)


def _spectral_matrix(axis: Axis, order: int) -> Tensor:
    n = axis.points
    waves = 2j * torch.pi * torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64)
    factor = waves**order
    if order == 1 and n % 2 == 0:
        factor[-1] = 0  # the derivative of a cosine at half the sampling rate is 0 on the grid
    spectrum = torch.fft.rfft(torch.eye(n, dtype=torch.float64), dim=0)
    return torch.fft.irfft(factor[:, None] * spectrum, n=n, dim=0)
