"""Metrics of predicted fields: their error, and their distance from the equations that made the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from gatesweep.core.trainable import Metrics
from gatesweep.trainables.operators.derivatives import DifferentiableField, GridField, interior, relative_l2
from gatesweep.trainables.operators.problems import Problem
from gatesweep.trainables.operators.resolution import Resolution


def solution(
    problem: Problem, at: Resolution, inputs: Tensor, predicted: Tensor, exact: Tensor, scale: Tensor
) -> Metrics:
    """Compare predicted with exact fields (n, fields, rows, columns).

    * rel_l2: norm of the error over the norm of the solution, mean over samples and fields.
    * residual_rms: rms of the residual of the equations, in units of `scale` (fields,), the rms rate of change. The
      derivatives are finite differences on the grid, spectral along a periodic axis.
    * residual_ratio: residual_rms over that of the exact solution. The exact solution has a residual too, because
      differences in time are not exact.
    * drift: largest |drift| over time of the conserved quantity, over the size of the initial condition; mean over
      samples. For Darcy flow: |outflow - source| over the source.
    * energy_increase: sum of all growth of the energy from one time to the next, over the energy at the start; mean
      over samples.
    * given_error: largest deviation, over all samples, from the given values: the initial condition, or 0 on the
      boundary.
    * edge_error: rms residual of a boundary condition that is not built in, over the rms slope of the exact solution.
    """
    field, reference = GridField(predicted, at.stencils), GridField(exact, at.stencils)
    residual, floor = (residual_rms(problem, at, inputs, each, scale) for each in (field, reference))
    base, fixed = problem.base(inputs), at.envelope == 0
    metrics = {
        "rel_l2": relative_l2(predicted, exact).mean(),
        "residual_rms": residual,
        "residual_ratio": residual / floor,
        "drift": problem.drift(inputs, field, at.weights).abs().amax(dim=1).mean(),
        "given_error": ((predicted - base) * fixed).abs().max(),
    }
    energy = problem.energy(predicted, at.weights)
    if energy is not None:
        metrics["energy_increase"] = (energy.diff(dim=1).clamp(min=0).sum(dim=1) / energy[:, 0]).mean()
    edge = problem.edge(field)
    if edge is not None:
        slope = reference.derivative(axis=1, order=1)
        metrics["edge_error"] = edge.square().mean().sqrt() / slope.square().mean().sqrt()
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))  # one host sync


def residual_rms(problem: Problem, at: Resolution, inputs: Tensor, field: DifferentiableField, scale: Tensor) -> Tensor:
    """Return the root mean square of the residual over samples, fields and inner points, a scalar."""
    residual = interior(problem.residual(inputs, field), at.grid) / scale[:, None, None]
    return residual.square().mean().sqrt()
