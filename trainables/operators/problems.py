"""Problems that operators learn: random parameters, the exact solution, the equation, and the conserved quantity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.derivatives import DifferentiableField
from gatesweep.trainables.operators.grid import Axis, Grid

Name = Literal["heat", "burgers", "advection_diffusion", "darcy", "magneto_thermal"]
Boundary = Literal["periodic", "insulated"]
MEAN = 0.25  # standard deviation of an initial condition's mean


@dataclass(frozen=True)
class Problem(ABC):
    """Equations that map inputs (n, inputs, rows, columns) to fields (n, fields, rows, columns), on [0, 1] by [0, 1].

    Where rows are times, the first inputs are the fields at t = 0, repeated in every row. A prediction is `base` +
    `envelope` * network, so it is exact at the start (or on the boundary). All quantities are dimensionless.
    """

    fields: ClassVar[tuple[str, ...]] = ("u",)
    evolves: ClassVar[bool] = True  # rows are times
    edged: ClassVar[bool] = False  # True: there is a boundary condition that is not built in

    @property
    def differentiable(self) -> bool:
        """True if the equation holds point by point."""
        return True

    def grid(self, rows: int, columns: int) -> Grid:
        """Return the grid of the problem: times by a periodic x, unless a subclass says otherwise."""
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=True))

    @abstractmethod
    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw the random parameters of samples, (count, parameters), float64."""

    @abstractmethod
    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the inputs (n, inputs, rows, columns), float64, of drawn parameters (n, parameters)."""

    @abstractmethod
    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the solutions (n, fields, rows, columns), float64, of drawn parameters at the points of a grid."""

    @abstractmethod
    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return left side minus right side of the equations, (n, fields, rows, columns); 0 for their solution."""

    def rate(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return the term of the equations whose rms is the unit of residuals, (n, fields, rows, columns): u_t."""
        return field.derivative(axis=0, order=1)

    def base(self, inputs: Tensor) -> Tensor:
        """Return the given values, (n, fields, rows, columns): the initial condition in every row."""
        return inputs[:, : len(self.fields)]

    def envelope(self, grid: Grid) -> Tensor:
        """Return the factor of the network (rows, columns), which is 0 where the solution is given: here t."""
        return grid.rows.coordinates()[:, None].expand(grid.shape)

    def free(self, field: Tensor) -> Tensor:
        """Return the part of a field (..., rows, columns) that is not given: all times after the first."""
        return field[..., 1:, :]

    def drift(self, inputs: Tensor, field: DifferentiableField, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Return the change of the conserved quantity since t = 0, (n, rows), over the rms of the initial condition.

        `weights` are those of the trapezoidal rule, along rows (rows,) and along columns (columns,).
        """
        start, across = inputs[:, 0, 0], weights[1]
        return (field.values[:, 0] @ across - (start @ across)[:, None]) / size(start, across)

    def energy(self, fields: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor | None:
        """Return a quantity that can only fall with time, (n, rows), or None where there is none.

        `fields` (n, fields, rows, columns); `weights` as for `drift`.
        """
        return fields[:, 0].square() @ weights[1]

    def edge(self, field: DifferentiableField) -> Tensor | None:
        """Return the residual of a boundary condition that is not built in, (n, fields, rows, ends), or None."""
        return None


def size(start: Tensor, weights: Tensor) -> Tensor:
    """Return the root mean square (n, 1) of initial conditions (n, columns), with quadrature weights (columns,)."""
    return (start.square() @ weights).sqrt().clamp(min=1e-6)[:, None]


def spread(coefficients: Tensor, grid: Grid) -> Tensor:
    """Evaluate Fourier series (n, 1 + 2 WAVES) on the columns and repeat them in every row: (n, 1, rows, columns)."""
    return reference.series(coefficients, grid.columns.coordinates())[:, None, None].expand(-1, 1, *grid.shape)


@dataclass(frozen=True)
class Periodic(Problem):
    """One field on a ring that starts from a random periodic function."""

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw Fourier coefficients of initial conditions, (count, 1 + 2 WAVES), float64."""
        return reference.draw_series(count, draws, mean=MEAN)

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the initial condition in every row, (n, 1, rows, columns), float64."""
        return spread(drawn, grid)


@dataclass(frozen=True)
class AdvectionDiffusion(Periodic):
    """u_t + speed u_x = diffusion u_xx on a ring. Each wave moves and decays independently. Speed 0 gives heat."""

    diffusion: float
    speed: float = 0.0

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the exact series, shifted and damped, (n, 1, rows, columns), float64."""
        times = grid.rows.coordinates()
        x = grid.columns.coordinates() - self.speed * times[:, None]
        return reference.series(drawn, x, decay=self.diffusion * times[:, None])[:, None]

    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return u_t + speed u_x - diffusion u_xx, (n, 1, rows, columns)."""
        u_t, u_x = field.derivative(axis=0, order=1), field.derivative(axis=1, order=1)
        return u_t + self.speed * u_x - self.diffusion * field.derivative(axis=1, order=2)


@dataclass(frozen=True)
class InsulatedHeat(Problem):
    """u_t = diffusion u_xx with u_x = 0 at both ends. The solutions are cosines of half waves, which decay."""

    diffusion: float
    edged: ClassVar[bool] = True

    def grid(self, rows: int, columns: int) -> Grid:
        """Return a grid of times by x, both with their ends."""
        return Grid(Axis(rows, periodic=False), Axis(columns, periodic=False))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw cosine coefficients of initial conditions, (count, 1 + WAVES), float64."""
        return reference.draw_series(count, draws, mean=MEAN)[:, : 1 + reference.WAVES]

    def inputs(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the initial condition in every row, (n, 1, rows, columns), float64."""
        return self._at(drawn, grid.columns.coordinates(), torch.zeros(grid.rows.points, dtype=torch.float64))

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the exact damped series, (n, 1, rows, columns), float64."""
        return self._at(drawn, grid.columns.coordinates(), grid.rows.coordinates())

    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return u_t - diffusion u_xx, (n, 1, rows, columns)."""
        return field.derivative(axis=0, order=1) - self.diffusion * field.derivative(axis=1, order=2)

    def edge(self, field: DifferentiableField) -> Tensor | None:
        """Return u_x at both ends, (n, 1, rows, 2)."""
        return field.derivative(axis=1, order=1)[..., [0, -1]]

    def _at(self, drawn: Tensor, x: Tensor, times: Tensor) -> Tensor:
        coefficients = torch.cat([drawn, torch.zeros_like(drawn[:, 1:])], dim=1)  # no sines
        decay = self.diffusion / 4 * times[:, None]
        return reference.series(coefficients, (x / 2).expand(len(times), -1), decay=decay)[:, None]


@dataclass(frozen=True)
class Burgers(Periodic):
    """u_t + u u_x = diffusion u_xx on a ring. Fronts become steeper until the viscosity stops them."""

    diffusion: float

    def solve(self, drawn: Tensor, grid: Grid) -> Tensor:
        """Return the solution (n, 1, rows, columns), float64, from at least 128 points and 512 steps of time."""
        times = -(-128 // grid.columns.points)
        fine = grid.columns.refined(times)
        start = reference.series(drawn, fine.coordinates())
        between = grid.rows.points - 1
        steps = between * -(-512 // between)
        return reference.burgers(start, grid.rows.coordinates(), self.diffusion, steps=steps)[:, None, :, ::times]

    def residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return u_t + u u_x - diffusion u_xx, (n, 1, rows, columns)."""
        u_t, u_x = field.derivative(axis=0, order=1), field.derivative(axis=1, order=1)
        return u_t + field.values * u_x - self.diffusion * field.derivative(axis=1, order=2)
