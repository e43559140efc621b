"""How well predicted fields answer: their error, and how far they break the equations that made the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from gatesweep.core.trainable import Metrics
from gatesweep.trainables.operators.derivatives import Derivatives, OfField, interior, relative_l2
from gatesweep.trainables.operators.problems import Problem
from gatesweep.trainables.operators.resolution import Resolution


def solution(problem: Problem, at: Resolution, inputs: Tensor, found: Tensor, exact: Tensor, scale: Tensor) -> Metrics:
    """Means over samples (n, fields, rows, columns).

    * rel_l2: of the error, in units of the solution's norm.
    * residual_rms: of the equations by central differences on the grid (spectral along a periodic axis), in units
      `scale` (fields,) of the rate of change; residual_ratio: over that of the exact solution, which is the floor
      that the differences in time set.
    * drift: the largest |drift| over time of the conserved quantity, over the size of the initial condition; for
      Darcy flow, of the outflow over the source.
    * energy_increase: of all steps in which the energy grew, in units of its start.
    * given_error: the largest deviation from what is given: the initial condition, or 0 around the medium.
    * edge_error: rms of what a boundary condition that is not built in leaves over, over that of the exact solution's
      gradient.
    """
    of, known = OfField(found, at.stencils), OfField(exact, at.stencils)
    residual, floor = (residual_rms(problem, at, inputs, one, scale) for one in (of, known))
    base, fixed = problem.base(inputs), at.envelope == 0
    metrics = {
        "rel_l2": relative_l2(found, exact).mean(),
        "residual_rms": residual,
        "residual_ratio": residual / floor,
        "drift": problem.drift(inputs, of, at.weights).abs().amax(dim=1).mean(),
        "given_error": ((found - base) * fixed).abs().max(),
    }
    energy = problem.energy(found, at.weights)
    if energy is not None:
        metrics["energy_increase"] = (energy.diff(dim=1).clamp(min=0).sum(dim=1) / energy[:, 0]).mean()
    edge = problem.edge(of)
    if edge is not None:
        metrics["edge_error"] = edge.square().mean().sqrt() / known(1, 1).square().mean().sqrt()
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))


def residual_rms(problem: Problem, at: Resolution, inputs: Tensor, of: Derivatives, scale: Tensor) -> Tensor:
    """The root mean square over samples, fields and inner points."""
    left = interior(problem.residual(inputs, of), at.grid) / scale[:, None, None]
    return left.square().mean().sqrt()
