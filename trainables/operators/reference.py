"""Reference solutions in float64: random Fourier series, and solvers whose error is far below that of any network."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WAVES = 6  # of a random function on a ring
BEND = 25.0  # where spectra bend, in squared wave numbers


def amplitudes(waves: Tensor, power: float) -> Tensor:
    """Standard deviations of Fourier coefficients at wave numbers `waves` (radians a length), 1 at 0: those of a random
    field with covariance (1 - laplacian / BEND) ** (-2 power)."""
    return (1 + waves.square() / BEND) ** -power


def draw_series(count: int, draws: torch.Generator, *, mean: float, size: float = 0.6) -> Tensor:
    """(count, 1 + 2 WAVES), float64: coefficients of random periodic functions: mean, cosines, sines.

    `size` is their root mean square about the mean, on average, and `mean` the standard deviation of their means. With
    power 1 (arXiv:2010.08895, section 5.1) the shortest waves fade within one step of a grid's time; hence 1.5.
    """
    coefficients = torch.randn(count, 1 + 2 * WAVES, dtype=torch.float64, generator=draws)
    scale = amplitudes(2 * math.pi * torch.arange(1, WAVES + 1, dtype=torch.float64), 1.5)
    scale = size * scale / scale.norm()
    return coefficients * torch.cat([torch.tensor([mean], dtype=torch.float64), scale, scale])


def series(coefficients: Tensor, x: Tensor, *, decay: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
    """(count, ..., points): periodic functions at x - shift, each wave k damped by exp(-decay (2 pi k)^2)."""
    waves = 2 * math.pi * torch.arange(1, WAVES + 1, dtype=torch.float64)
    angle = waves[:, None] * (x - shift)[..., None, :]  # (..., waves, points)
    damping = torch.exp(-torch.as_tensor(decay, dtype=torch.float64)[..., None] * waves.square()[:, None])
    mean, cosines, sines = coefficients.split([1, WAVES, WAVES], dim=1)
    basis = torch.stack([angle.cos(), angle.sin()]) * damping
    waved = torch.einsum("nsk,s...kp->n...p", torch.stack([cosines, sines], dim=1), basis)
    return waved + mean.reshape(-1, *[1] * (waved.ndim - 1))


def burgers(initial: Tensor, times: Tensor, viscosity: float, *, steps: int = 512) -> Tensor:
    """(count, times, points): u_t + u u_x = viscosity u_xx on a periodic [0, 1], from u at t = 0 (count, points).

    Fourier collocation with the 2/3 rule, and Runge-Kutta of order four behind an integrating factor for the viscous
    term. `steps` are taken for each unit of time, which must be a multiple of what lies between two `times`.
    """
    n = initial.shape[1]
    waves = 2 * math.pi * torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64)
    kept = waves < 2 * math.pi * n / 3
    half = torch.exp(-viscosity * waves.square() / (2 * steps))
    slope = torch.where(kept, -0.5j * waves / steps, 0.0)

    def advance(u: Tensor) -> Tensor:
        return slope * torch.fft.rfft(torch.fft.irfft(u, n=n).square())

    def step(u: Tensor) -> Tensor:
        a = advance(u)
        b = advance(half * (u + a / 2))
        c = advance(half * u + b / 2)
        d = advance(half.square() * u + half * c)
        return half.square() * (u + a / 6) + half * (b + c) / 3 + d / 6

    u = torch.where(kept, torch.fft.rfft(initial), 0.0)
    found, done = [], 0
    for time in times.tolist():
        due = round(time * steps)
        assert abs(due - time * steps) < 1e-9, "times must be multiples of the solver's step"
        for _ in range(due - done):
            u = step(u)
        done = due
        found.append(torch.fft.irfft(u, n=n))
    return torch.stack(found, dim=1)


def darcy(permeability: NDArray[np.float64], source: float | NDArray[np.float64] = 1.0) -> NDArray[np.float64]:
    """(rows, columns): -div(a grad u) = f on the unit square with u = 0 around it, a given on points with both ends.

    Finite volumes around the points, with the harmonic mean of a on their faces: of second order where a is smooth,
    and flux is kept where it jumps.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    shape = permeability.shape
    through_rows = _faces(permeability) * (shape[0] - 1) ** 2
    through_columns = _faces(permeability.T).T * (shape[1] - 1) ** 2
    before, after = through_rows[:-1, 1:-1], through_rows[1:, 1:-1]
    left, right = through_columns[1:-1, :-1], through_columns[1:-1, 1:]
    right_of = right.copy()
    right_of[:, -1] = 0.0  # the neighbour is on the boundary
    sideways, down = -right_of.ravel()[:-1], -after[:-1].ravel()
    inner = shape[1] - 2
    offsets = [0, 1, -1, inner, -inner]
    system = diags([(before + after + left + right).ravel(), sideways, sideways, down, down], offsets, format="csc")
    forces = np.broadcast_to(np.asarray(source, dtype=np.float64), shape)[1:-1, 1:-1]
    solution = np.zeros(shape)
    solution[1:-1, 1:-1] = spsolve(system, forces.ravel()).reshape(forces.shape)
    return solution


def _faces(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows - 1, columns): harmonic means of neighbours in a column."""
    return 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])


def magneto_thermal(
    state: Tensor,
    times: Tensor,
    source: Tensor,
    phase: Tensor,
    *,
    diffusion: float,
    rise: float,
    heating: float,
) -> Tensor:
    """(count, 2, times, points): A_t = eta(T) A_xx + J and T_t = diffusion T_xx + heating A_x^2, periodic on [0, 1].

    eta(T) = diffusion (1 + rise T), and J = source (count, points) times cos(2 pi (f t + p)), with (f, p) the rows of
    `phase` (count, 2). By the method of lines from `state` (count, 2, points): Fourier collocation in x, Dormand and
    Prince's order eight in t with rtol 1e-8 and atol 1e-9, all samples at once.
    """
    from scipy.integrate import solve_ivp

    n = state.shape[-1]
    waves = 2 * math.pi * np.fft.rfftfreq(n, 1 / n)
    slope, curve = 1j * np.where(waves < waves[-1], waves, 0.0), -np.square(waves)
    shape, forcing, turns = tuple(state.shape), source.numpy(), phase.numpy()

    def rate(time: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        fields = flat.reshape(shape)
        spectrum = np.fft.rfft(fields)
        curved = np.fft.irfft(curve * spectrum, n=n)
        field = np.fft.irfft(slope * spectrum[:, 0], n=n)
        driven = forcing * np.cos(2 * math.pi * (turns[:, :1] * time + turns[:, 1:]))
        potential = diffusion * (1 + rise * fields[:, 1]) * curved[:, 0] + driven
        return np.stack([potential, diffusion * curved[:, 1] + heating * field**2], axis=1).ravel()

    found = solve_ivp(
        rate, (0.0, float(times[-1])), state.numpy().ravel(), "DOP853", times.numpy(), rtol=1e-8, atol=1e-9
    )
    assert found.success, found.message
    return torch.from_numpy(found.y.T.copy()).reshape(len(times), *shape).permute(1, 2, 0, 3)
