"""Figures of bearings: states with their uncertainty, residuals, classes, confidence, and spectra over orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.trainables.operators.bearing_data import Batch
from gatesweep.trainables.operators.bearing_metrics import STATES, States
from gatesweep.trainables.operators.faults import GEOMETRY, HOLD, PLACES, RATE
from gatesweep.trainables.operators.motor import Drive, casing_residual
from gatesweep.trainables.operators.uncertainty import reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = ("current [A]", "speed [rad/s]", "temperature [deg C]", "casing, stiffness times x")
SHOWN = 300  # samples of the casing


def draw_states(part: Batch, found: States, drive: Tensor, casing: Tensor) -> Figure:
    """The states of two windows and of their references, with two of their standard deviations: `drive` (n, blocks, 3),
    `casing` (n, 1)."""
    from matplotlib.figure import Figure

    windows = (0, len(part["label"]) - 1)
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(len(windows), len(STATES))
    blocks = np.arange(part["states"].shape[1]) * HOLD / RATE * 1e3
    for row, window in zip(axes, windows, strict=True):
        for column, panel in enumerate(row[:3]):
            exact, mean = (one[window, :, column].cpu().numpy() for one in (part["states"], found.drive))
            band = 2 * np.append(0.0, drive[window, :, column].cpu().numpy())
            panel.plot(blocks, exact, color="0.6", linewidth=4, label="reference")
            panel.fill_between(blocks, mean - band, mean + band, color="C0", alpha=0.3, label="2 sd")
            panel.plot(blocks, mean, color="C0", label="predicted")
        time = np.arange(SHOWN) / RATE * 1e3
        exact, mean = (one[window, :SHOWN].cpu().numpy() for one in (part["casing"], found.casing))
        wide = 2 * float(casing[window])
        row[3].plot(time, exact, color="0.6", linewidth=2, label="reference")
        row[3].fill_between(time, mean - wide, mean + wide, color="C0", alpha=0.3, label="2 sd")
        row[3].plot(time, mean, color="C0", linewidth=0.8, label="predicted")
        for panel, unit in zip(row, UNITS, strict=True):
            panel.set(xlabel="time [ms]", ylabel=unit)
    axes[0, 0].legend()
    return figure


def draw_residuals(part: Batch, found: States, drive: Drive, scale: Tensor) -> Figure:
    """The rms residual of each equation in the course of a window, in units of the change in a step."""
    from matplotlib.figure import Figure

    off = (found.drive[:, 1:] - drive.step(found.drive[:, :-1], part["inputs"])) / scale
    shake = casing_residual(found.casing, part["force"], part["taps"])
    curves = [*off.square().mean(dim=0).sqrt().unbind(dim=-1), shake.square().mean(dim=0).sqrt()]
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    for panel, name, curve in zip(figure.subplots(1, len(STATES)), STATES, curves, strict=True):
        time = (np.arange(len(curve)) + 0.5) * (HOLD if name != "casing" else 1) / RATE * 1e3
        panel.semilogy(time, curve.cpu().numpy().clip(1e-7), color="C0")
        panel.set(title=name, xlabel="time [ms]", ylabel="rms residual")
    return figure


def draw_confusion(label: Tensor, probabilities: Tensor, classes: tuple[str, ...]) -> Figure:
    """Which share of the windows of each class is given which."""
    from matplotlib.figure import Figure

    counts = torch.zeros(len(classes), len(classes))
    answer = probabilities.argmax(dim=1)
    counts.index_put_((label.cpu(), answer.cpu()), torch.ones(len(label)), accumulate=True)
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, column in np.argwhere(shares > 0.005):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{shares[row, column]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set(xlabel="predicted", ylabel="class")
    figure.colorbar(image, label="share of the class's windows")
    return figure


def draw_reliability(label: Tensor, probabilities: Tensor) -> Figure:
    """How often windows are classed rightly, by how sure the model is."""
    from matplotlib.figure import Figure

    count, confidence, accuracy = (one.cpu().numpy() for one in reliability(probabilities, label))
    filled = count > 0
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", label="calibrated")
    axis.scatter(confidence[filled], accuracy[filled], s=10 + 200 * count[filled] / count.sum(), color="C0")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    axis.legend()
    return figure


def draw_envelopes(part: Batch, classes: tuple[str, ...], speed: Tensor, rate: int) -> Figure:
    """The mean spectrum of the squared vibration of each class over orders, with the characteristic ones of a 6205.

    `speed` (n,): mean of each window in rad/s.
    """
    from matplotlib.figure import Figure

    columns = 5
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(13, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    orders = torch.linspace(0.3, 12, 160)
    for index, (panel, name) in enumerate(zip(panels, classes, strict=False)):
        chosen = (part["label"] == index).cpu()
        mean = envelope_spectrum(part["vibration"].cpu()[chosen], speed.cpu()[chosen], orders, rate).mean(dim=0)
        panel.plot(orders, mean, color="C0", linewidth=1)
        for colour, place in zip(("C3", "C2", "C1"), PLACES, strict=True):
            panel.axvline(GEOMETRY.orders[place], color=colour, linewidth=0.8, linestyle="--", label=place)
        panel.set(title=name, xlabel="order")
    panels[0].legend(fontsize="small")
    return figure


def envelope_spectrum(vibration: Tensor, speed: Tensor, orders: Tensor, rate: int) -> Tensor:
    """(n, orders): the amplitude of the squared vibration (n, samples) at orders of a constant speed (n,), relative to
    its mean."""
    energy = vibration.double().square()
    varying = energy / energy.mean(dim=1, keepdim=True) - 1
    time = torch.arange(vibration.shape[1], dtype=torch.float64) / rate
    window = torch.hann_window(len(time), dtype=torch.float64)
    phase = speed.double()[:, None, None] * orders.double()[:, None] * time
    cosine, sine = ((varying * window)[:, None] * wave for wave in (phase.cos(), phase.sin()))
    return (cosine.sum(dim=-1).square() + sine.sum(dim=-1).square()).sqrt() * 2 / window.sum()
