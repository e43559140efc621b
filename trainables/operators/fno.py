"""A Fourier neural operator whose spectral layers are real matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.trainables.operators.grid import Axis, Grid

PADDING = 0.25  # of the length of an axis that is not periodic: its Fourier series has a period so much longer


class Transform(nn.Module):
    """The Fourier transform of fields on a grid, truncated, and back.

    The transform is the trapezoidal rule for the integrals over an axis, and the inverse is the series at its points:
    the same modes have the same amplitudes on any grid that resolves them. An axis that is not periodic is taken to
    be followed by zeros up to 1 + PADDING. Few modes of few points are cheaper as matrix products than as an FFT, and
    the products are real: nothing in the way of mixed precision, compilation, DDP or vmap.
    """

    def __init__(self, grid: Grid, modes: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = modes
        analysis, synthesis = _matrices(grid.columns, torch.arange(columns))
        # Real fields: the waves that run backwards along the columns are those that run forwards, conjugated.
        twice = torch.cat([torch.ones(1), torch.full((columns - 1,), 2.0)])
        self.register_buffer("to_columns", torch.cat([analysis.real, analysis.imag], dim=1).float(), persistent=False)
        back = torch.cat([twice[:, None] * synthesis.real, -twice[:, None] * synthesis.imag])
        self.register_buffer("from_columns", back.float(), persistent=False)
        analysis, synthesis = _matrices(grid.rows, torch.cat([torch.arange(rows), torch.arange(-rows, 0)]))
        self.register_buffer("to_rows", _complex_product(analysis).float(), persistent=False)
        self.register_buffer("from_rows", _complex_product(synthesis).float(), persistent=False)

    def forward(self, field: Tensor) -> Tensor:
        """(2 rows, columns, B, 2, channels): real and imaginary parts of the modes of (B, channels, points, points)."""
        halfway = (field @ self.get_buffer("to_columns")).unflatten(-1, (2, -1))
        return torch.einsum("bcrsm,rskt->kmbtc", halfway, self.get_buffer("to_rows"))

    def inverse(self, modes: Tensor) -> Tensor:
        halfway = torch.einsum("kmbtc,ktrs->bcrsm", modes, self.get_buffer("from_rows"))
        return halfway.flatten(-2) @ self.get_buffer("from_columns")


def _matrices(axis: Axis, waves: Tensor) -> tuple[Tensor, Tensor]:
    """(points, modes) to wave numbers, and (modes, points) back."""
    period = 1.0 if axis.periodic else 1.0 + PADDING
    angle = 2 * math.pi * axis.coordinates()[:, None] * waves / period
    wave = torch.polar(torch.ones_like(angle), angle)
    return axis.quadrature()[:, None] / period * wave.conj(), wave.T


def _complex_product(matrix: Tensor) -> Tensor:
    """(n, 2, m, 2): a complex matrix (n, m) as it acts on real and imaginary parts."""
    return torch.stack(
        [torch.stack([matrix.real, matrix.imag], dim=-1), torch.stack([-matrix.imag, matrix.real], dim=-1)], dim=1
    )


class Pointwise(nn.Module):
    """A linear map of the channels of (B, channels, rows, columns), the same at each point."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) / math.sqrt(inputs))

    def forward(self, field: Tensor) -> Tensor:
        flat = self.weight @ field.flatten(2) + self.bias[:, None]
        return flat.unflatten(2, field.shape[2:])


class Spectral(nn.Module):
    """A linear map of the channels of each Fourier mode, one for each mode: a convolution with a learned kernel."""

    def __init__(self, width: int, modes: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = modes
        scale = 1 / width
        self.weight = nn.Parameter(scale * torch.rand(2 * rows, columns, width, width, 2))  # real and imaginary

    def forward(self, field: Tensor, transform: Transform) -> Tensor:
        with torch.autocast(field.device.type, enabled=False):  # amplitudes span more than 8 bits hold
            modes = transform(field.float())
            product = _complex_product_of(self.weight)
            mixed = modes.flatten(-2) @ product
            return transform.inverse(mixed.unflatten(-1, (2, -1)))


def _complex_product_of(weight: Tensor) -> Tensor:
    """(rows, columns, 2 inputs, 2 outputs) from complex weights (rows, columns, inputs, outputs, 2)."""
    real, imaginary = weight.unbind(-1)
    return torch.cat([torch.cat([real, imaginary], dim=-1), torch.cat([-imaginary, real], dim=-1)], dim=-2)


class Block(nn.Module):
    """A spectral and a pointwise map, added; GELU unless it is the last."""

    def __init__(self, width: int, modes: tuple[int, int], *, last: bool) -> None:
        super().__init__()
        self.spectral, self.pointwise, self.last = Spectral(width, modes), Pointwise(width, width), last

    def forward(self, field: Tensor, transform: Transform) -> Tensor:
        mixed = self.spectral(field, transform) + self.pointwise(field)
        return mixed if self.last else F.gelu(mixed)


class FNO(nn.Module):
    """Lifting, blocks, projection: fields (B, inputs, rows, columns) to (B, outputs, rows, columns) on any grid.

    Coordinates are channels of the input: t itself, or cosine and sine on a periodic axis. `modes` are kept along the
    rows, of either sign, and along the columns. Source: Li et al., arXiv:2010.08895.
    """

    def __init__(
        self, inputs: int, outputs: int, *, coordinates: int, width: int, modes: tuple[int, int], layers: int
    ) -> None:
        super().__init__()
        self.lift = Pointwise(inputs + coordinates, width)
        self.blocks = nn.ModuleList(Block(width, modes, last=layer == layers - 1) for layer in range(layers))
        self.widen, self.narrow = Pointwise(width, 2 * width), Pointwise(2 * width, outputs)

    def hidden(self, inputs: Tensor, coordinates: Tensor, transform: Transform, run: Callable[..., Tensor]) -> Tensor:
        """(B, width, rows, columns): what `project` turns into outputs. `run(block, ...)` calls a block."""
        where = coordinates.expand(len(inputs), *coordinates.shape).to(inputs.dtype)
        field = self.lift(torch.cat([inputs, where], dim=1))
        for block in self.blocks:
            field = run(block, field, transform)
        return field

    def project(self, hidden: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(hidden)))

    def slopes(self, hidden: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The first and second derivatives of `project(hidden)` along a path on which these are those of `hidden`."""
        at = self.widen(hidden)
        once, twice = (self.widen.weight @ one.flatten(2) for one in (first, second))
        once, twice = once.view_as(at), twice.view_as(at)
        density = torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
        slope = (1 + torch.erf(at / math.sqrt(2))) / 2 + at * density  # of GELU
        bend = (2 - at.square()) * density
        found = (slope * once, bend * once.square() + slope * twice)
        first, second = ((self.narrow.weight @ one.flatten(2)).unflatten(2, at.shape[2:]) for one in found)
        return first, second


def coordinate_channels(grid: Grid) -> Tensor:
    """(channels, rows, columns), float32: where each point is."""
    channels = []
    for axis, one in zip(grid.axes, grid.coordinates(), strict=True):
        angle = 2 * math.pi * one
        channels += [angle.cos(), angle.sin()] if axis.periodic else [2 * one - 1]
    return torch.stack([channel.expand(grid.shape) for channel in channels]).float()


def check_modes(modes: tuple[int, int], grid: Grid) -> dict[str, tuple[int, int]]:
    """By field: the modes asked for and how many a grid resolves."""
    return {
        field: (mode, int(axis.points / 2 if axis.periodic else (1 + PADDING) * (axis.points - 1) / 2))
        for field, mode, axis in zip(("modes_rows", "modes_columns"), modes, grid.axes, strict=True)
    }
