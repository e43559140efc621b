"""Figures of operators: fields beside their solutions, residuals of the equations, and the spectrum of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.trainables.operators.problems import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 3  # held-out samples, each a row of panels for every field


def draw_fields(problem: Problem, exact: Tensor, predicted: Tensor, residual: Tensor) -> Figure:
    """Draw solution, prediction, error and residual, one row of panels for each sample and field.

    `exact` and `predicted` are (n, fields, rows, columns). `residual` (n, fields, inner rows, inner columns) is in
    units of the rms rate of change.
    """
    from matplotlib.figure import Figure

    rows = len(exact) * len(problem.fields)
    figure = Figure(figsize=(13, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, squeeze=False)
    vertical, horizontal = ("t", "x") if problem.evolves else ("x", "y")
    for row, line in enumerate(panels):
        sample, field = divmod(row, len(problem.fields))
        name, answer, guess = problem.fields[field], exact[sample, field].cpu(), predicted[sample, field].cpu()
        low, high = answer.min().item(), answer.max().item()
        for panel, shown, title, limits in (
            (line[0], answer, f"{name}, solution", (low, high)),
            (line[1], guess, f"{name}, predicted", (low, high)),
            (line[2], guess - answer, "error", None),
            (line[3], residual[sample, field].cpu(), "residual", None),
        ):
            largest = shown.abs().max().item() or 1.0
            lowest, highest = limits or (-largest, largest)
            colours = "viridis" if limits else "RdBu_r"
            image = panel.imshow(shown.numpy(), colours, origin="lower", aspect="auto", extent=(0, 1, 0, 1))
            image.set_clim(lowest, highest)
            figure.colorbar(image, ax=panel)
            panel.set(title=title, xlabel=horizontal, ylabel=vertical)
    return figure


def draw_spectrum(problem: Problem, exact: Tensor, predicted: Tensor, modes: int) -> Figure:
    """Draw the rms amplitudes over samples of solution, prediction and error, by Fourier mode along the columns.

    `exact` and `predicted` (n, fields, rows, columns) are taken at the last time; where nothing evolves, in the middle
    row. A vertical line marks the number of `modes` that the operator keeps along the columns.
    """
    from matplotlib.figure import Figure

    row = exact.shape[2] - 1 if problem.evolves else exact.shape[2] // 2
    figure = Figure(figsize=(4.6 * len(problem.fields), 3.6), layout="constrained")
    panels = figure.subplots(1, len(problem.fields), squeeze=False)[0]
    for field, panel in enumerate(panels):
        for shown, label in ((exact, "solution"), (predicted, "predicted"), (predicted - exact, "error")):
            spectrum = torch.fft.rfft(shown[:, field, row].cpu(), norm="forward").abs().square().mean(dim=0).sqrt()
            panel.semilogy(spectrum.numpy(), label=label)
        panel.axvline(modes, color="0.7", linewidth=1, zorder=0)
        panel.set(title=problem.fields[field], xlabel="mode", ylabel="amplitude (rms)")
    panels[0].legend()
    return figure
