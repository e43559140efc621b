"""A DC drive, its winding's temperature and the casing of its bearing, solved exactly step by step.

    L di/dt = v - R i - K w            J dw/dt = K i - b w - tau
    C dT/dt = R i^2 + b w^2 - h (T - T_a)
    x''/W^2 + 2 zeta x'/W + x = F      (x in units of force: the stiffness times the displacement)

Inputs v, tau and F are held between their samples. Then i, w and x step by matrix exponentials; the heat and every
energy of a step are quadratic in what the step began with, by an exponential too (Van Loan, IEEE Trans. Autom. Control
23 (1978) 395). The time scales differ by orders of magnitude in a machine: 4 ms (L/R), 15 ms (J R/K^2), 0.3 ms (casing)
and minutes (heat). So that every state moves within the 85 ms of a window, T is that of a light winding of 0.3 s.
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
        """(4, 4): d/dt of (i, w, v, tau), in which v and tau are held."""
        R, L, K, J, b = self.resistance, self.inductance, self.constant, self.inertia, self.friction
        rows = [[-R / L, -K / L, 1 / L, 0.0], [K / J, -b / J, 0.0, -1 / J], [0.0] * 4, [0.0] * 4]
        return torch.tensor(rows, dtype=torch.float64)

    def steady(self, v: Tensor, tau: Tensor) -> Tensor:
        """(..., 3): the state (i, w, T) in which the drive stays at v and tau."""
        R, K, b = self.resistance, self.constant, self.friction
        w = (K * v - R * tau) / (K * K + R * b)
        i = (b * w + tau) / K
        return torch.stack([i, w, self.ambient + (R * i * i + b * w * w) / self.cooling], dim=-1)


@dataclass(frozen=True)
class Bearing:
    """The geometry of a ball bearing whose outer race is at rest; that of the SKF 6205-2RS unless said otherwise."""

    balls: int = 9
    ball: float = 7.94  # diameter, mm
    pitch: float = 39.04  # diameter, mm
    contact: float = 0.0  # angle, rad

    @property
    def orders(self) -> dict[str, float]:
        """How often each part of the bearing is passed, per turn of the shaft: outer and inner race, ball and cage.

        Source: Randall and Antoni, Mech. Syst. Signal Process. 25 (2011) 485, eqs. 1 to 4; here for a shaft frequency
        of 1, and one strike of a ball a spin.
        """
        ratio = self.ball / self.pitch * float(torch.tensor(self.contact, dtype=torch.float64).cos())
        return {
            "outer": self.balls / 2 * (1 - ratio),
            "inner": self.balls / 2 * (1 + ratio),
            "ball": self.pitch / (2 * self.ball) * (1 - ratio * ratio),
            "cage": (1 - ratio) / 2,
        }


def quadratic(dynamics: Tensor, form: Tensor, duration: float, shift: float = 0.0) -> Tensor:
    """The matrix Q with y0' Q y0 = integral of y' `form` y over a step of y' = `dynamics` y from y0.

    With a `shift` r the integrand counts exp(2 r t) times.
    """
    size = len(dynamics)
    moved = dynamics + shift * torch.eye(size, dtype=dynamics.dtype)
    block = torch.zeros(2 * size, 2 * size, dtype=dynamics.dtype)
    block[:size, :size], block[:size, size:], block[size:, size:] = -moved.T, form, moved
    step = torch.linalg.matrix_exp(block * duration)
    return step[size:, size:].T @ step[:size, size:]


FLOWS = ("input", "copper", "friction", "load")


class Drive(nn.Module):
    """Steps of a motor of `duration` seconds, in which v and tau are held; y is (i, w, v, tau) at a step's beginning.

    `next` (2, 4) gives i and w at the step's end; `decay` and `heat` (4, 4) the temperature; `energies` (4, 4, 4) what
    flows in a step, in J and in the order of FLOWS: v i, R i^2, b w^2, tau w. `halves` (2,): L/2 and J/2.
    """

    next: Tensor
    heat: Tensor
    energies: Tensor
    halves: Tensor

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
        """(..., 3): (i, w, T) at the end of a step that began with `state` (..., 3), under (v, tau) (..., 2)."""
        y = torch.cat([state[..., :2], inputs], dim=-1)
        temperature = self.ambient + self.decay * (state[..., 2] - self.ambient) + form(y, self.heat)
        return torch.cat([y @ self.next.T, temperature[..., None]], dim=-1)

    def run(self, start: Tensor, inputs: Tensor) -> Tensor:
        """(n, steps + 1, 3): (i, w, T) from `start` (n, 3) on, under `inputs` (n, steps, 2)."""
        states = [start]
        for held in inputs.unbind(dim=1):
            states.append(self.step(states[-1], held))
        return torch.stack(states, dim=1)

    def flows(self, state: Tensor, inputs: Tensor) -> Tensor:
        """(..., 4), in J: the energies of steps that begin with `state` (..., 3) under `inputs` (..., 2)."""
        y = torch.cat([state[..., :2], inputs], dim=-1)
        return torch.einsum("...a,fab,...b->...f", y, self.energies, y)

    def stored(self, state: Tensor) -> Tensor:
        """(...,): the energy of current and rotor in `state` (..., 3), in J."""
        return state[..., :2].square() @ self.halves

    def imbalance(self, states: Tensor, inputs: Tensor) -> Tensor:
        """(..., steps), in J: what was given in each step and is neither stored, lost nor done to the load.

        Of `states` (..., steps + 1, 3) and `inputs` (..., steps, 2); 0 for the exact solution.
        """
        given, *spent = self.flows(states[..., :-1, :], inputs).unbind(dim=-1)
        return given - sum(spent) - self.stored(states[..., 1:, :]) + self.stored(states[..., :-1, :])


class Casing:
    """Samples `dt` apart of casings with angular frequencies W and damping ratios zeta, (n,) each; F is held between.

    `step` (n, 2, 2) and `push` (n, 2) move (x, x'/W); x alone obeys
    x[k+1] = trace x[k] - det x[k-1] + b0 F[k] + b1 F[k-1] exactly (Cayley-Hamilton), with `taps` (n, 4) of these four.
    """

    def __init__(self, frequency: Tensor, damping: Tensor, dt: float) -> None:
        zero, one = torch.zeros_like(frequency), torch.ones_like(frequency)
        rows = [zero, one, zero, -one, -2 * damping, one, zero, zero, zero]
        dynamics = torch.stack(rows, dim=-1).unflatten(-1, (3, 3)) * frequency[..., None, None]
        exponential = torch.linalg.matrix_exp(dynamics * dt)
        self.step, self.push = exponential[..., :2, :2], exponential[..., :2, 2]
        trace = self.step.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        b1 = (self.step[..., 0, :] * self.push).sum(dim=-1) - trace * self.push[..., 0]
        self.taps = torch.stack([trace, torch.linalg.det(self.step), self.push[..., 0], b1], dim=-1)

    def run(self, force: Tensor) -> Tensor:
        """(n, samples + 1, 2): (x, x'/W), from rest, under `force` (n, samples)."""
        states = [torch.zeros_like(force[:, :1]).repeat(1, 2)]
        for held in force.unbind(dim=1):
            states.append(torch.einsum("nij,nj->ni", self.step, states[-1]) + self.push * held[:, None])
        return torch.stack(states, dim=1)


def casing_residual(x: Tensor, force: Tensor, taps: Tensor) -> Tensor:
    """(n, samples - 1): how far x (n, samples + 1) is from its next sample under `force` (n, samples), in units of the
    rms that the force adds to x at a sample; 0 for the exact solution."""
    trace, det, b0, b1 = taps[..., None, :].unbind(dim=-1)
    pushed = b0 * force[..., 1:] + b1 * force[..., :-1]
    off = x[..., 2:] - trace * x[..., 1:-1] + det * x[..., :-2] - pushed
    return off / pushed.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)


def form(y: Tensor, matrix: Tensor) -> Tensor:
    """(...,): y' M y for y (..., k)."""
    return ((y @ matrix) * y).sum(dim=-1)


def _product(first: int, second: int, factor: float) -> Tensor:
    """(4, 4), symmetric: the quadratic form `factor` y[first] y[second]."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[first, second] += factor / 2
    matrix[second, first] += factor / 2
    return matrix
