"""A Fourier neural operator whose spectral layers are real matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.trainables.operators.grid import Axis, Grid

PADDING = 0.25  # added to the length of an axis that is not periodic: the period of its Fourier series is 1.25


class FNO(nn.Module):
    """Lifting, blocks, projection: fields (B, inputs, rows, columns) to (B, outputs, rows, columns) on any grid.

    `coordinates` is the number of channels that `coordinate_channels` adds to the input. `modes` counts the Fourier
    modes kept along rows, of each sign, and along columns. Source: Li et al., arXiv:2010.08895.
    """

    def __init__(
        self, inputs: int, outputs: int, *, coordinates: int, width: int, modes: tuple[int, int], layers: int
    ) -> None:
        super().__init__()
        self.lift = Pointwise(inputs + coordinates, width)
        self.blocks = nn.ModuleList(Block(width, modes, last=layer == layers - 1) for layer in range(layers))
        self.widen, self.narrow = Pointwise(width, 2 * width), Pointwise(2 * width, outputs)

    def hidden(self, inputs: Tensor, coordinates: Tensor, transform: Transform, run: Callable[..., Tensor]) -> Tensor:
        """Return the hidden field (B, width, rows, columns) that `project` maps to outputs.

        `inputs` (B, inputs, rows, columns), `coordinates` (channels, rows, columns). `run(block, ...)` calls a block,
        so that the caller can checkpoint activations.
        """
        where = coordinates.expand(len(inputs), *coordinates.shape).to(inputs.dtype)
        field = self.lift(torch.cat([inputs, where], dim=1))
        for block in self.blocks:
            field = run(block, field, transform)
        return field

    def project(self, hidden: Tensor) -> Tensor:
        """Map hidden fields (B, width, rows, columns) to outputs (B, outputs, rows, columns), point by point."""
        return self.narrow(F.gelu(self.widen(hidden)))

    def slopes(self, hidden: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and second derivatives of `project(hidden)` along an axis, (B, outputs, rows, columns) each.

        `first` and `second` are those of `hidden` along this axis, all three (B, width, rows, columns). The chain rule
        for GELU(x) = x Phi(x): GELU' = Phi + x phi and GELU'' = (2 - x^2) phi.
        """
        at = self.widen(hidden)
        once, twice = (self.widen.weight @ derivative.flatten(2) for derivative in (first, second))
        once, twice = once.view_as(at), twice.view_as(at)
        density = torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
        slope = (1 + torch.erf(at / math.sqrt(2))) / 2 + at * density
        bend = (2 - at.square()) * density
        activated = (slope * once, bend * once.square() + slope * twice)
        first, second = ((self.narrow.weight @ each.flatten(2)).unflatten(2, at.shape[2:]) for each in activated)
        return first, second


class Block(nn.Module):
    """Sum of a spectral and a pointwise map of (B, width, rows, columns), then GELU except in the last block."""

    def __init__(self, width: int, modes: tuple[int, int], *, last: bool) -> None:
        super().__init__()
        self.spectral, self.pointwise, self.last = Spectral(width, modes), Pointwise(width, width), last

    def forward(self, field: Tensor, transform: Transform) -> Tensor:
        """Map a field (B, width, rows, columns) to one of the same shape."""
        mixed = self.spectral(field, transform) + self.pointwise(field)
        return mixed if self.last else F.gelu(mixed)


class Spectral(nn.Module):
    """A linear map of channels for each Fourier mode: a convolution with a learned kernel."""

    def __init__(self, width: int, modes: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = modes
        scale = 1 / width
        self.weight = nn.Parameter(scale * torch.rand(2 * rows, columns, width, width, 2))  # real and imaginary

    def forward(self, field: Tensor, transform: Transform) -> Tensor:
        """Map a field (B, width, rows, columns) to one of the same shape, in float32."""
        with torch.autocast(field.device.type, enabled=False):  # amplitudes need more than the 8 bits of bf16
            modes = transform(field.float())
            product = _channel_products(self.weight)
            mixed = modes.flatten(-2) @ product
            return transform.inverse(mixed.unflatten(-1, (2, -1)))


class Pointwise(nn.Module):
    """A linear map of the channels of (B, channels, rows, columns), the same at each point."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) / math.sqrt(inputs))

    def forward(self, field: Tensor) -> Tensor:
        """Map (B, inputs, rows, columns) to (B, outputs, rows, columns)."""
        flat = self.weight @ field.flatten(2) + self.bias[:, None]
        return flat.unflatten(2, field.shape[2:])


class Transform(nn.Module):
    """The Fourier transform of fields on a grid, truncated to `modes` (rows, columns), and its inverse.

    The transform is the trapezoidal rule for the Fourier integrals over an axis. The inverse evaluates the series at
    the grid's points. The same modes therefore have the same amplitudes on any grid that resolves them. A field is
    taken as 0 beyond the end of an axis that is not periodic, up to 1 + PADDING. For few modes and few points, matrix
    products are cheaper than an FFT. They are real, which mixed precision, compilation, DDP and vmap all support.
    """

    def __init__(self, grid: Grid, modes: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = modes
        analysis, synthesis = _matrices(grid.columns, torch.arange(columns))
        # Real fields: a mode with a negative wave number along columns is the conjugate of its positive twin.
        twice = torch.cat([torch.ones(1), torch.full((columns - 1,), 2.0)])
        self.register_buffer("to_columns", torch.cat([analysis.real, analysis.imag], dim=1).float(), persistent=False)
        back = torch.cat([twice[:, None] * synthesis.real, -twice[:, None] * synthesis.imag])
        self.register_buffer("from_columns", back.float(), persistent=False)
        analysis, synthesis = _matrices(grid.rows, torch.cat([torch.arange(rows), torch.arange(-rows, 0)]))
        self.register_buffer("to_rows", _complex_product(analysis).float(), persistent=False)
        self.register_buffer("from_rows", _complex_product(synthesis).float(), persistent=False)

    def forward(self, field: Tensor) -> Tensor:
        """Return the modes of fields (B, channels, points, points): (2 rows, columns, B, 2, channels).

        The axis of length 2 has the real and the imaginary part.
        """
        halfway = (field @ self.get_buffer("to_columns")).unflatten(-1, (2, -1))
        return torch.einsum("bcrsm,rskt->kmbtc", halfway, self.get_buffer("to_rows"))

    def inverse(self, modes: Tensor) -> Tensor:
        """Return the fields (B, channels, points, points) of modes (2 rows, columns, B, 2, channels)."""
        halfway = torch.einsum("kmbtc,ktrs->bcrsm", modes, self.get_buffer("from_rows"))
        return halfway.flatten(-2) @ self.get_buffer("from_columns")


def coordinate_channels(grid: Grid) -> Tensor:
    """Return input channels that say where each point is, (channels, rows, columns), float32.

    A periodic axis has two, the cosine and sine of its angle; any other axis has one, from -1 to 1.
    """
    channels = []
    for axis, coordinate in zip(grid.axes, grid.coordinates(), strict=True):
        angle = 2 * math.pi * coordinate
        channels += [angle.cos(), angle.sin()] if axis.periodic else [2 * coordinate - 1]
    return torch.stack([channel.expand(grid.shape) for channel in channels]).float()


def check_modes(modes: tuple[int, int], grid: Grid) -> dict[str, tuple[int, int]]:
    """Return, by configuration key, the requested number of modes and the largest number that the grid resolves."""
    return {
        key: (mode, int(axis.points / 2 if axis.periodic else (1 + PADDING) * (axis.points - 1) / 2))
        for key, mode, axis in zip(("modes_rows", "modes_columns"), modes, grid.axes, strict=True)
    }


def _matrices(axis: Axis, waves: Tensor) -> tuple[Tensor, Tensor]:
    """Return the complex matrices (points, modes) to wave numbers and (modes, points) back."""
    period = 1.0 if axis.periodic else 1.0 + PADDING
    angle = 2 * math.pi * axis.coordinates()[:, None] * waves / period
    wave = torch.polar(torch.ones_like(angle), angle)
    return axis.quadrature()[:, None] / period * wave.conj(), wave.T


def _complex_product(matrix: Tensor) -> Tensor:
    """Return a complex matrix (n, m) as a real one, (n, 2, m, 2), that acts on real and imaginary parts."""
    return torch.stack(
        [torch.stack([matrix.real, matrix.imag], dim=-1), torch.stack([-matrix.imag, matrix.real], dim=-1)], dim=1
    )


def _channel_products(weight: Tensor) -> Tensor:
    """Return real matrices (rows, columns, 2 inputs, 2 outputs) of weights (rows, columns, inputs, outputs, 2)."""
    real, imaginary = weight.unbind(-1)
    return torch.cat([torch.cat([real, imaginary], dim=-1), torch.cat([-imaginary, real], dim=-1)], dim=-2)
