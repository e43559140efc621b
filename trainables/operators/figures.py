"""Figures of operators: fields beside their solutions, where they break the equation, and the spectrum of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gatesweep.trainables.operators.data import OperatorData
from gatesweep.trainables.operators.derivatives import OfField, interior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gatesweep.trainables.operators.operator import PhysicsOperator

SHOWN = 3  # held-out samples


@torch.no_grad()
def draw_fields(trainable: PhysicsOperator, data: OperatorData) -> Figure:
    """For some held-out samples: solution, prediction, error, and the residual in units of the rate of change."""
    from matplotlib.figure import Figure

    inputs, exact = (part[:SHOWN] for part in data.held_out())
    problem, at = data.problem, trainable.coarse
    of = OfField(trainable.predict(inputs, at)[0].values, at.stencils)
    left = interior(problem.residual(inputs, of), at.grid) / trainable.rate[:, None, None]
    rows = len(inputs) * len(problem.fields)
    figure = Figure(figsize=(13, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, squeeze=False)
    vertical, horizontal = ("t", "x") if problem.evolves else ("x", "y")
    for row, line in enumerate(panels):
        sample, field = divmod(row, len(problem.fields))
        name, answer, found = problem.fields[field], exact[sample, field].cpu(), of.values[sample, field].cpu()
        low, high = answer.min().item(), answer.max().item()
        for panel, shown, title, limits in (
            (line[0], answer, f"{name}, solution", (low, high)),
            (line[1], found, f"{name}, predicted", (low, high)),
            (line[2], found - answer, "error", None),
            (line[3], left[sample, field].cpu(), "residual", None),
        ):
            most = shown.abs().max().item() or 1.0
            lowest, highest = limits or (-most, most)
            colours = "viridis" if limits else "RdBu_r"
            image = panel.imshow(shown.numpy(), colours, origin="lower", aspect="auto", extent=(0, 1, 0, 1))
            image.set_clim(lowest, highest)
            figure.colorbar(image, ax=panel)
            panel.set(title=title, xlabel=horizontal, ylabel=vertical)
    return figure


@torch.no_grad()
def draw_spectrum(trainable: PhysicsOperator, data: OperatorData) -> Figure:
    """Amplitudes of the solution and of the error along the columns, over held-out samples, in the last row.

    For fields that vanish around the square, in the middle row.
    """
    from matplotlib.figure import Figure

    inputs, exact = data.held_out()
    problem = data.problem
    found = trainable.predict(inputs, trainable.coarse)[0].values
    row = exact.shape[2] - 1 if problem.evolves else exact.shape[2] // 2
    figure = Figure(figsize=(4.6 * len(problem.fields), 3.6), layout="constrained")
    panels = figure.subplots(1, len(problem.fields), squeeze=False)[0]
    for field, panel in enumerate(panels):
        for shown, label in ((exact, "solution"), (found, "predicted"), (found - exact, "error")):
            spectrum = torch.fft.rfft(shown[:, field, row].cpu(), norm="forward").abs().square().mean(dim=0).sqrt()
            panel.semilogy(spectrum.numpy(), label=label)
        panel.axvline(trainable.modes_columns, color="0.7", linewidth=1, zorder=0)
        panel.set(title=problem.fields[field], xlabel="mode", ylabel="amplitude (rms)")
    panels[0].legend()
    return figure
