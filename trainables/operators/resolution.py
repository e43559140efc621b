"""Everything that a network and its losses need from one grid."""

from __future__ import annotations

from torch import Tensor, nn

from gatesweep.trainables.operators.derivatives import Stencils
from gatesweep.trainables.operators.fno import Transform, coordinate_channels
from gatesweep.trainables.operators.grid import Grid
from gatesweep.trainables.operators.problems import Problem


class Resolution(nn.Module):
    """Buffers that follow from a grid, none of them part of the state: one model may be used on several grids.

    `coordinates` (channels, rows, columns) are input channels, `envelope` (rows, columns) is the problem's, `along`
    (rows,) and `across` (columns,) are weights of the trapezoidal rule. All are float32.
    """

    coordinates: Tensor
    envelope: Tensor
    along: Tensor
    across: Tensor

    def __init__(self, problem: Problem, grid: Grid, modes: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.transform, self.stencils = Transform(grid, modes), Stencils(grid, "spectral")
        for name, value in {
            "coordinates": coordinate_channels(grid),
            "envelope": problem.envelope(grid).clone(),
            "along": grid.rows.quadrature(),
            "across": grid.columns.quadrature(),
        }.items():
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights of the trapezoidal rule, along rows (rows,) and along columns (columns,)."""
        return self.along, self.across
