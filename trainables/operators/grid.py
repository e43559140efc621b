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
    """Equally spaced points on [0, 1]: without the last one where periodic, with both ends where not."""

    points: int
    periodic: bool

    @property
    def step(self) -> float:
        return 1.0 / (self.points if self.periodic else self.points - 1)

    def coordinates(self) -> Tensor:
        """(points,), float64."""
        return torch.arange(self.points, dtype=torch.float64) * self.step

    def quadrature(self) -> Tensor:
        """(points,), float64: weights of the trapezoidal rule; they sum to 1."""
        weights = torch.full((self.points,), self.step, dtype=torch.float64)
        if not self.periodic:
            weights[0] = weights[-1] = self.step / 2
        return weights

    def refined(self, times: int) -> Axis:
        """The axis with a step `times` smaller: every `times`-th of its points is one of ours."""
        return Axis(times * self.points if self.periodic else times * (self.points - 1) + 1, self.periodic)


@dataclass(frozen=True)
class Grid:
    """Rows (times, or x) by columns (x, or y)."""

    rows: Axis
    columns: Axis

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return self.rows, self.columns

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.points, self.columns.points

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Coordinates of rows (rows, 1) and of columns (columns,), float64: they broadcast to the grid."""
        return self.rows.coordinates()[:, None], self.columns.coordinates()

    def refined(self, times: int) -> Grid:
        return Grid(self.rows.refined(times), self.columns.refined(times))


def derivative(axis: Axis, order: int, kind: Kind) -> Tensor:
    """(points, points), float64: the matrix that differentiates values on an axis once or twice.

    `spectral` is exact for what a periodic axis resolves; an axis that is not periodic has differences anyway.
    Differences are those of five points, of fourth order for the first derivative and, away from the ends, for the
    second.
    """
    assert order in (1, 2)
    if kind == "spectral" and axis.periodic:
        return _spectral(axis, order)
    n, matrix = axis.points, torch.zeros(axis.points, axis.points, dtype=torch.float64)
    for point in range(n):
        first = point - 2 if axis.periodic else min(max(point - 2, 0), n - 5)
        around = torch.arange(first, first + 5)
        matrix[point, around % n] = _weights(around - point, order) / axis.step**order
    return matrix


def _weights(offsets: Tensor, order: int) -> Tensor:
    """What values at these offsets weigh in a derivative at 0: exact for polynomials of their number of terms."""
    powers = torch.arange(len(offsets), dtype=torch.float64)
    moments = torch.zeros(len(offsets), dtype=torch.float64)
    moments[order] = math.factorial(order)
    return torch.linalg.solve(offsets.double() ** powers[:, None], moments)


def _spectral(axis: Axis, order: int) -> Tensor:
    n = axis.points
    waves = 2j * torch.pi * torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64)
    factor = waves**order
    if order == 1 and n % 2 == 0:
        factor[-1] = 0  # the derivative of a cosine at half the sampling rate is 0 on the grid
    spectrum = torch.fft.rfft(torch.eye(n, dtype=torch.float64), dim=0)
    return torch.fft.irfft(factor[:, None] * spectrum, n=n, dim=0)


def along(matrix: Tensor, field: Tensor, axis: int) -> Tensor:
    """A field (..., rows, columns) after a matrix along its rows (axis 0) or columns (axis 1)."""
    return matrix @ field if axis == 0 else field @ matrix.mT
