"""Reference solutions in float64: random Fourier series, and solvers whose error is far below that of a network."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WAVES = 6  # cosines, and as many sines, of a random function on a ring
BEND = 25.0  # squared wave number above which spectra fall


def amplitudes(waves: Tensor, power: float) -> Tensor:
    """Return the standard deviations of Fourier coefficients at wave numbers `waves` (radians per unit length).

    They are those of a random field with covariance (1 - laplacian / BEND) ** (-2 power), and 1 at wave number 0. The
    shape is that of `waves`.
    """
    return (1 + waves.square() / BEND) ** -power


def draw_series(count: int, draws: torch.Generator, *, mean: float, size: float = 0.6) -> Tensor:
    """Draw coefficients of random periodic functions, (count, 1 + 2 WAVES), float64: mean, cosines, sines.

    `size` is the average root mean square of the functions about their mean, and `mean` is the standard deviation of
    the means. The power of the spectrum is 1.5: with 1 (arXiv:2010.08895, section 5.1) the shortest waves would decay
    within one time step of the grid.
    """
    coefficients = torch.randn(count, 1 + 2 * WAVES, dtype=torch.float64, generator=draws)
    scale = amplitudes(2 * math.pi * torch.arange(1, WAVES + 1, dtype=torch.float64), 1.5)
    scale = size * scale / scale.norm()
    return coefficients * torch.cat([torch.tensor([mean], dtype=torch.float64), scale, scale])


def series(coefficients: Tensor, x: Tensor, *, decay: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
    """Evaluate periodic functions at x - shift, with each wave k damped by exp(-decay (2 pi k)^2).

    `coefficients` (count, 1 + 2 WAVES) are those of `draw_series`; `x` is (..., points), `decay` and `shift` broadcast.
    Returns (count, ..., points).
    """
    waves = 2 * math.pi * torch.arange(1, WAVES + 1, dtype=torch.float64)
    angle = waves[:, None] * (x - shift)[..., None, :]  # (..., waves, points)
    damping = torch.exp(-torch.as_tensor(decay, dtype=torch.float64)[..., None] * waves.square()[:, None])
    mean, cosines, sines = coefficients.split([1, WAVES, WAVES], dim=1)
    basis = torch.stack([angle.cos(), angle.sin()]) * damping
    waved = torch.einsum("nsk,s...kp->n...p", torch.stack([cosines, sines], dim=1), basis)
    return waved + mean.reshape(-1, *[1] * (waved.ndim - 1))


def burgers(initial: Tensor, times: Tensor, viscosity: float, *, steps: int = 512) -> Tensor:
    """Solve u_t + u u_x = viscosity u_xx on a periodic [0, 1], from u at t = 0, `initial` (count, points).

    Fourier collocation with the 2/3 rule, and a Runge-Kutta method of order four with an integrating factor for the
    viscous term. The solver takes `steps` steps per unit of time; each of `times` (times,) must be a whole number of
    steps. Returns (count, times, points).
    """
    n = initial.shape[1]
    waves = 2 * math.pi * torch.fft.rfftfreq(n, 1 / n, dtype=torch.float64)
    kept = waves < 2 * math.pi * n / 3
    half = torch.exp(-viscosity * waves.square() / (2 * steps))
    slope = torch.where(kept, -0.5j * waves / steps, 0.0)

    def convection(u: Tensor) -> Tensor:
        """Return the change of the spectrum in a step by -u u_x."""
        return slope * torch.fft.rfft(torch.fft.irfft(u, n=n).square())

    def step(u: Tensor) -> Tensor:
        """Return the spectrum after one step."""
        a = convection(u)
        b = convection(half * (u + a / 2))
        c = convection(half * u + b / 2)
        d = convection(half.square() * u + half * c)
        return half.square() * (u + a / 6) + half * (b + c) / 3 + d / 6

    u = torch.where(kept, torch.fft.rfft(initial), 0.0)
    solutions, done = [], 0
    for time in times.tolist():
        due = round(time * steps)
        assert abs(due - time * steps) < 1e-9, "times must be multiples of the solver's step"
        for _ in range(due - done):
            u = step(u)
        done = due
        solutions.append(torch.fft.irfft(u, n=n))
    return torch.stack(solutions, dim=1)


def darcy(permeability: NDArray[np.float64], source: float | NDArray[np.float64] = 1.0) -> NDArray[np.float64]:
    """Solve -div(a grad u) = f on the unit square with u = 0 on its boundary; returns u (rows, columns).

    `permeability` a (rows, columns) is given at points that include the boundary, and so is `source` f unless it is a
    number. The method is finite volumes around the points, with the harmonic mean of a on their faces. It is of second
    order where a is smooth, and conserves the flux where a jumps.
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
    """Solve A_t = eta(T) A_xx + J and T_t = diffusion T_xx + heating A_x^2, periodic on [0, 1].

    eta(T) = diffusion (1 + rise T). J = source (count, points) times cos(2 pi (f t + p)), where (f, p) are the columns
    of `phase` (count, 2). `state` (count, 2, points) holds A and T at t = 0. The method of lines: Fourier collocation
    in x, Dormand and Prince's method of order eight in t with rtol 1e-8 and atol 1e-9, all samples at once.
    Returns (count, 2, times, points).
    """
    from scipy.integrate import solve_ivp

    n = state.shape[-1]
    waves = 2 * math.pi * np.fft.rfftfreq(n, 1 / n)
    slope, curve = 1j * np.where(waves < waves[-1], waves, 0.0), -np.square(waves)
    shape, forcing, turns = tuple(state.shape), source.numpy(), phase.numpy()

    def rate(time: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the flattened time derivative of both fields."""
        fields = flat.reshape(shape)
        spectrum = np.fft.rfft(fields)
        curved = np.fft.irfft(curve * spectrum, n=n)
        field = np.fft.irfft(slope * spectrum[:, 0], n=n)
        driven = forcing * np.cos(2 * math.pi * (turns[:, :1] * time + turns[:, 1:]))
        potential = diffusion * (1 + rise * fields[:, 1]) * curved[:, 0] + driven
        return np.stack([potential, diffusion * curved[:, 1] + heating * field**2], axis=1).ravel()

    solution = solve_ivp(
        rate, (0.0, float(times[-1])), state.numpy().ravel(), "DOP853", times.numpy(), rtol=1e-8, atol=1e-9
    )
    assert solution.success, solution.message
    return torch.from_numpy(solution.y.T.copy()).reshape(len(times), *shape).permute(1, 2, 0, 3)


def _faces(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the harmonic means of neighbours in a column, (rows - 1, columns)."""
    return 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
