"""A DC drive with the temperature of its winding, and the casing of its bearing, solved exactly step by step.

    L di/dt = v - R i - K w            J dw/dt = K i - b w - tau
    C dT/dt = R i^2 + b w^2 - h (T - T_a)
    x''/W^2 + 2 zeta x'/W + x = F      (x is the stiffness times the displacement, so it has the unit of a force)

The inputs v, tau and F are constant between their samples. Matrix exponentials then step i, w and x exactly. The heat
and every energy of a step are quadratic forms of the state at its beginning. They come from a matrix exponential too
(Van Loan, IEEE Trans. Autom. Control 23 (1978) 395). The time constants of a machine differ by orders of magnitude:
4 ms (L/R), 15 ms (J R/K^2), 0.3 ms (casing) and minutes (heat). Here the winding is light, with a thermal time constant
of 0.3 s, so that every state moves within the 85 ms of a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Motor:
    """A small DC motor, in SI units."""

    resistance: float = 0.6  # R, ohm
    inductance: float = 2.4e-3  # L, H
    constant: float = 0.1  # K, V s and N m/A
    inertia: float = 2.5e-4  # J, kg m^2
    friction: float = 2e-4  # b, N m s
    capacity: float = 1.5  # C, J/K
    cooling: float = 5.0  # h, W/K
    ambient: float = 25.0  # T_a, degrees Celsius

    @property
    def dynamics(self) -> Tensor:
        """Matrix (4, 4), float64, of d/dt (i, w, v, tau) with constant v and tau."""
        R, L, K, J, b = self.resistance, self.inductance, self.constant, self.inertia, self.friction
        rows = [[-R / L, -K / L, 1 / L, 0.0], [K / J, -b / J, 0.0, -1 / J], [0.0] * 4, [0.0] * 4]
        return torch.tensor(rows, dtype=torch.float64)

    def steady(self, v: Tensor, tau: Tensor) -> Tensor:
        """Return the steady state (i, w, T), (..., 3), for voltages v in V and torques tau in N m, (...,) each."""
        R, K, b = self.resistance, self.constant, self.friction
        w = (K * v - R * tau) / (K * K + R * b)
        i = (b * w + tau) / K
        return torch.stack([i, w, self.ambient + (R * i * i + b * w * w) / self.cooling], dim=-1)


@dataclass(frozen=True)
class Bearing:
    """Geometry of a ball bearing with a fixed outer race. The defaults are those of the SKF 6205-2RS."""

    balls: int = 9
    ball: float = 7.94  # diameter, mm
    pitch: float = 39.04  # diameter, mm
    contact: float = 0.0  # angle, rad

    @property
    def orders(self) -> dict[str, float]:
        """Characteristic fault frequencies in units of the shaft frequency, for `outer`, `inner`, `ball` and `cage`.

        Source: Randall and Antoni, Mech. Syst. Signal Process. 25 (2011) 485, eqs. 1 to 4, with one impact per spin of
        a ball.
        """
        ratio = self.ball / self.pitch * float(torch.tensor(self.contact, dtype=torch.float64).cos())
        return {
            "outer": self.balls / 2 * (1 - ratio),
            "inner": self.balls / 2 * (1 + ratio),
            "ball": self.pitch / (2 * self.ball) * (1 - ratio * ratio),
            "cage": (1 - ratio) / 2,
        }


def quadratic(dynamics: Tensor, form: Tensor, duration: float, shift: float = 0.0) -> Tensor:
    """Return Q (k, k), such that y0' Q y0 is the integral of y' M y over a step in which dy/dt = A y and y(0) = y0.

    `dynamics` is A (k, k), `form` is M (k, k), and `duration` is in s. The integrand is multiplied by exp(2 r t), where
    r is `shift` in 1/s.
    """
    size = len(dynamics)
    moved = dynamics + shift * torch.eye(size, dtype=dynamics.dtype)
    block = torch.zeros(2 * size, 2 * size, dtype=dynamics.dtype)
    block[:size, :size], block[:size, size:], block[size:, size:] = -moved.T, form, moved
    step = torch.linalg.matrix_exp(block * duration)
    return step[size:, size:].T @ step[:size, size:]


FLOWS = ("input", "copper", "friction", "load")


class Drive(nn.Module):
    """Exact steps of a motor of `duration` s with constant v and tau.

    The matrices act on y = (i, w, v, tau) at the beginning of a step. `decay` and `heat` give the temperature at its
    end. The energies of a step are v i (input), R i^2 (copper), b w^2 (friction) and tau w (load), in J, in this order
    (FLOWS).
    """

    next: Tensor  # (2, 4): i and w at the end of a step
    heat: Tensor  # (4, 4): quadratic form, K
    energies: Tensor  # (4, 4, 4): quadratic forms, one for each of FLOWS, J
    halves: Tensor  # (2,): L/2 and J/2

    def __init__(self, motor: Motor, duration: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.ambient = motor.ambient
        dynamics = motor.dynamics
        products = [
            _product(0, 2, 1.0),
            _product(0, 0, motor.resistance),
            _product(1, 1, motor.friction),
            _product(1, 3, 1.0),
        ]
        rate = motor.cooling / motor.capacity
        self.decay = math.exp(-rate * duration)
        heat = quadratic(dynamics, products[1] + products[2], duration, shift=rate / 2)
        for name, tensor in {
            "next": torch.linalg.matrix_exp(dynamics * duration)[:2],
            "heat": self.decay / motor.capacity * heat,
            "energies": torch.stack([quadratic(dynamics, product, duration) for product in products]),
            "halves": torch.tensor([motor.inductance / 2, motor.inertia / 2], dtype=torch.float64),
        }.items():
            self.register_buffer(name, tensor.to(dtype), persistent=False)

    def step(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return (i, w, T), (..., 3), at the end of a step from `state` (..., 3) with `inputs` (v, tau), (..., 2)."""
        y = torch.cat([state[..., :2], inputs], dim=-1)
        temperature = self.ambient + self.decay * (state[..., 2] - self.ambient) + form(y, self.heat)
        return torch.cat([y @ self.next.T, temperature[..., None]], dim=-1)

    def run(self, start: Tensor, inputs: Tensor) -> Tensor:
        """Return (i, w, T) before and after each step, (n, steps + 1, 3), from `start` (n, 3).

        `inputs` (n, steps, 2) are v and tau in each step.
        """
        states = [start]
        for held in inputs.unbind(dim=1):
            states.append(self.step(states[-1], held))
        return torch.stack(states, dim=1)

    def flows(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return the energies FLOWS in J, (..., 4), of steps from `state` (..., 3) with `inputs` (..., 2)."""
        y = torch.cat([state[..., :2], inputs], dim=-1)
        return torch.einsum("...a,fab,...b->...f", y, self.energies, y)

    def stored(self, state: Tensor) -> Tensor:
        """Return the energy of current and rotor in J, (...,), of `state` (..., 3)."""
        return state[..., :2].square() @ self.halves

    def imbalance(self, states: Tensor, inputs: Tensor) -> Tensor:
        """Return input - losses - work on the load - change of stored energy, per step, (..., steps), in J.

        It is 0 for the exact solution. `states` (..., steps + 1, 3), `inputs` (..., steps, 2).
        """
        supplied, *spent = self.flows(states[..., :-1, :], inputs).unbind(dim=-1)
        return supplied - sum(spent) - self.stored(states[..., 1:, :]) + self.stored(states[..., :-1, :])


class Casing:
    """Exact steps of `dt` s of n casings, with F constant in each step.

    `frequency` (n,) is W in rad/s, `damping` (n,) the ratio zeta. The state (x, x'/W) becomes `step` (n, 2, 2) times
    the state plus `push` (n, 2) times F. The samples of x alone obey, by the Cayley-Hamilton theorem,
    x[k+1] = trace x[k] - det x[k-1] + b0 F[k] + b1 F[k-1] exactly. `taps` (n, 4) are trace, det, b0 and b1.
    """

    def __init__(self, frequency: Tensor, damping: Tensor, dt: float) -> None:
        zeros, ones = torch.zeros_like(frequency), torch.ones_like(frequency)
        rows = [zeros, ones, zeros, -ones, -2 * damping, ones, zeros, zeros, zeros]
        dynamics = torch.stack(rows, dim=-1).unflatten(-1, (3, 3)) * frequency[..., None, None]
        exponential = torch.linalg.matrix_exp(dynamics * dt)
        self.step, self.push = exponential[..., :2, :2], exponential[..., :2, 2]
        trace = self.step.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        b1 = (self.step[..., 0, :] * self.push).sum(dim=-1) - trace * self.push[..., 0]
        self.taps = torch.stack([trace, torch.linalg.det(self.step), self.push[..., 0], b1], dim=-1)

    def run(self, force: Tensor) -> Tensor:
        """Return (x, x'/W), (n, samples + 1, 2), from rest under `force` (n, samples)."""
        states = [torch.zeros_like(force[:, :1]).repeat(1, 2)]
        for held in force.unbind(dim=1):
            states.append(torch.einsum("nij,nj->ni", self.step, states[-1]) + self.push * held[:, None])
        return torch.stack(states, dim=1)


def casing_residual(x: Tensor, force: Tensor, taps: Tensor) -> Tensor:
    """Return the distance of each sample of x from the one that follows from earlier samples and the force.

    `x` (n, samples + 1), `force` (n, samples), `taps` (n, 4) of the casings, see `Casing`. The result (n, samples - 1)
    is in units of the rms that the force adds to x in a step. It is 0 for the exact solution.
    """
    trace, det, b0, b1 = taps[..., None, :].unbind(dim=-1)
    pushed = b0 * force[..., 1:] + b1 * force[..., :-1]
    off = x[..., 2:] - trace * x[..., 1:-1] + det * x[..., :-2] - pushed
    return off / pushed.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def form(y: Tensor, matrix: Tensor) -> Tensor:
    """Return y' M y, (...,), for y (..., k) and M (k, k)."""
    return ((y @ matrix) * y).sum(dim=-1)


def _product(first: int, second: int, factor: float) -> Tensor:
    """Return the symmetric matrix (4, 4) of the quadratic form `factor` y[first] y[second]."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[first, second] += factor / 2
    matrix[second, first] += factor / 2
    return matrix
