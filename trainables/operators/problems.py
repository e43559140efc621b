"""The problems that operators learn: what is drawn, its exact solution, the equation, and what it conserves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import Derivatives
from gatesweep.trainables.operators.grid import Axis, Grid

Name = Literal["heat", "burgers", "advection_diffusion", "darcy", "magneto_thermal"]
Boundary = Literal["periodic", "insulated"]
MEAN = 0.25  # standard deviation of an initial condition's mean


@dataclass(frozen=True)
class Problem(ABC):
    """Fields (n, fields, rows, columns) that follow from inputs (n, inputs, rows, columns), on [0, 1] by [0, 1].

    Where rows are times, the first inputs are the fields at t = 0, the same in every row. Predictions are built as
    `base` + `envelope` * network, which is exact at the start (or on the boundary). All quantities are dimensionless.
    """

    fields: ClassVar[tuple[str, ...]] = ("u",)
    evolves: ClassVar[bool] = True
    edged: ClassVar[bool] = False  # whether a boundary condition is not built in

    @property
    def differentiable(self) -> bool:
        """Whether the equation holds point by point."""
        return True

    def grid(self, rows: int, columns: int) -> Grid:
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=True))

    @abstractmethod
    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """(count, parameters), float64: what the samples differ in."""

    @abstractmethod
    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """(n, inputs, rows, columns), float64."""

    @abstractmethod
    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """(n, fields, rows, columns), float64: the solution at the points of a grid, however it is found."""

    @abstractmethod
    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        """(n, fields, rows, columns): what the equations leave over, 0 for their solution."""

    def rate(self, inputs: Tensor, of: Derivatives) -> Tensor:
        """The term of the equations by whose size residuals are judged: the rate of change."""
        return of(0, 1)

    def base(self, inputs: Tensor) -> Tensor:
        return inputs[:, : len(self.fields)]

    def envelope(self, grid: Grid) -> Tensor:
        """(rows, columns): 0 where the solution is given."""
        return grid.rows.coordinates()[:, None].expand(grid.shape)

    def free(self, field: Tensor) -> Tensor:
        """A field (..., rows, columns) where it is not given."""
        return field[..., 1:, :]

    def drift(self, inputs: Tensor, of: Derivatives, weights: tuple[Tensor, Tensor]) -> Tensor:
        """(n, rows): by how much the conserved quantity is off, relative to the size (rms) of the initial condition.

        `weights` are those of the trapezoidal rule, along rows and along columns.
        """
        start, across = inputs[:, 0, 0], weights[1]
        return (of.values[:, 0] @ across - (start @ across)[:, None]) / size(start, across)

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        """(n, rows): what can only fall as time goes on, where there is such a thing."""
        return fields[:, 0].square() @ weights[1]

    def edge(self, of: Derivatives) -> Tensor | None:
        """(n, fields, rows, ends): what a boundary condition that is not built in leaves over."""
        return None


def size(start: Tensor, weights: Tensor) -> Tensor:
    """(n, 1): root mean square of initial conditions (n, columns)."""
    return (start.square() @ weights).sqrt().clamp(min=1e-6)[:, None]


def spread(coefficients: Tensor, grid: Grid) -> Tensor:
    """(n, 1, rows, columns): a periodic function of the columns, the same in every row."""
    return reference.series(coefficients, grid.columns.coordinates())[:, None, None].expand(-1, 1, *grid.shape)


@dataclass(frozen=True)
class Periodic(Problem):
    """One field on a ring, from a random periodic function."""

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        return reference.draw_series(count, draws, mean=MEAN)

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        return spread(drawn, grid)


@dataclass(frozen=True)
class AdvectionDiffusion(Periodic):
    """u_t + speed u_x = diffusion u_xx on a ring: every wave moves and fades by itself. With speed 0, heat."""

    diffusion: float
    speed: float = 0.0

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        times = grid.rows.coordinates()
        x = grid.columns.coordinates() - self.speed * times[:, None]
        return reference.series(drawn, x, decay=self.diffusion * times[:, None])[:, None]

    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        return of(0, 1) + self.speed * of(1, 1) - self.diffusion * of(1, 2)


@dataclass(frozen=True)
class InsulatedHeat(Problem):
    """u_t = diffusion u_xx with u_x = 0 at both ends: cosines of half waves, which fade."""

    diffusion: float
    edged: ClassVar[bool] = True

    def grid(self, rows: int, columns: int) -> Grid:
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=False))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        return reference.draw_series(count, draws, mean=MEAN)[:, : 1 + reference.WAVES]

    def _at(self, drawn: Tensor, x: Tensor, times: Tensor) -> Tensor:
        whole = torch.cat([drawn, torch.zeros_like(drawn[:, 1:])], dim=1)  # no sines
        decay = self.diffusion / 4 * times[:, None]
        return reference.series(whole, (x / 2).expand(len(times), -1), decay=decay)[:, None]

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        return self._at(drawn, grid.columns.coordinates(), torch.zeros(grid.rows.points, dtype=torch.float64))

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        return self._at(drawn, grid.columns.coordinates(), grid.rows.coordinates())

    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        return of(0, 1) - self.diffusion * of(1, 2)

    def edge(self, of: Derivatives) -> Tensor | None:
        return of(1, 1)[..., [0, -1]]


@dataclass(frozen=True)
class Burgers(Periodic):
    """u_t + u u_x = diffusion u_xx on a ring: fronts steepen until the viscosity holds them."""

    diffusion: float

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        times = -(-128 // grid.columns.points)
        fine = grid.columns.refined(times)
        start = reference.series(drawn, fine.coordinates())
        between = grid.rows.points - 1
        steps = between * -(-512 // between)
        return reference.burgers(start, grid.rows.coordinates(), self.diffusion, steps=steps)[:, None, :, ::times]

    def residual(self, inputs: Tensor, of: Derivatives) -> Tensor:
        return of(0, 1) + of.values * of(1, 1) - self.diffusion * of(1, 2)
