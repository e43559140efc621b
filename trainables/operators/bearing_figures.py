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
SHOWN = 300  # samples of the casing that are drawn


def draw_states(part: Batch, states: States, drive: Tensor, casing: Tensor) -> Figure:
    """Draw predicted and exact states of the first and the last window, with bands of two standard deviations.

    The standard deviations are `drive` (n, blocks, 3) and `casing` (n, 1), in the units of the states.
    """
    from matplotlib.figure import Figure

    windows = (0, len(part["label"]) - 1)
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(len(windows), len(STATES))
    blocks = np.arange(part["states"].shape[1]) * HOLD / RATE * 1e3
    for row, window in zip(axes, windows, strict=True):
        for column, panel in enumerate(row[:3]):
            exact, mean = (x[window, :, column].cpu().numpy() for x in (part["states"], states.drive))
            band = 2 * np.append(0.0, drive[window, :, column].cpu().numpy())
            panel.plot(blocks, exact, color="0.6", linewidth=4, label="reference")
            panel.fill_between(blocks, mean - band, mean + band, color="C0", alpha=0.3, label="2 sd")
            panel.plot(blocks, mean, color="C0", label="predicted")
        time = np.arange(SHOWN) / RATE * 1e3
        exact, mean = (x[window, :SHOWN].cpu().numpy() for x in (part["casing"], states.casing))
        casing_band = 2 * float(casing[window])
        row[3].plot(time, exact, color="0.6", linewidth=2, label="reference")
        row[3].fill_between(time, mean - casing_band, mean + casing_band, color="C0", alpha=0.3, label="2 sd")
        row[3].plot(time, mean, color="C0", linewidth=0.8, label="predicted")
        for panel, unit in zip(row, UNITS, strict=True):
            panel.set(xlabel="time [ms]", ylabel=unit)
    axes[0, 0].legend()
    return figure


def draw_residuals(part: Batch, states: States, drive: Drive, scale: Tensor) -> Figure:
    """Draw the rms residual of each equation over the time of a window.

    Units as for `bearing_metrics.physics`: `scale` (3,) for the drive.
    """
    from matplotlib.figure import Figure

    off = (states.drive[:, 1:] - drive.step(states.drive[:, :-1], part["inputs"])) / scale
    shake = casing_residual(states.casing, part["force"], part["taps"])
    curves = [*off.square().mean(dim=0).sqrt().unbind(dim=-1), shake.square().mean(dim=0).sqrt()]
    figure = Figure(figsize=(13, 3.2), layout="constrained")
    for panel, name, curve in zip(figure.subplots(1, len(STATES)), STATES, curves, strict=True):
        time = (np.arange(len(curve)) + 0.5) * (HOLD if name != "casing" else 1) / RATE * 1e3
        panel.semilogy(time, curve.cpu().numpy().clip(1e-7), color="C0")
        panel.set(title=name, xlabel="time [ms]", ylabel="rms residual")
    return figure


def draw_confusion(label: Tensor, probabilities: Tensor, classes: tuple[str, ...]) -> Figure:
    """Draw the confusion matrix: the shares of predicted classes among the windows of each class.

    `label` (n,), `probabilities` (n, classes).
    """
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
    """Draw accuracy over confidence; the area of a point grows with its number of windows.

    `label` (n,), `probabilities` (n, classes).
    """
    from matplotlib.figure import Figure

    count, confidence, accuracy = (bins.cpu().numpy() for bins in reliability(probabilities, label))
    filled = count > 0
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", label="calibrated")
    axis.scatter(confidence[filled], accuracy[filled], s=10 + 200 * count[filled] / count.sum(), color="C0")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    axis.legend()
    return figure


def draw_envelopes(part: Batch, classes: tuple[str, ...], speed: Tensor, rate: int) -> Figure:
    """Draw the mean spectrum over orders of the squared vibration of each class.

    Vertical lines mark the fault orders of a 6205 bearing.
    `speed` (n,) is the mean of each window in rad/s, `rate` the sampling rate in Hz.
    """
    from matplotlib.figure import Figure

    columns = 5
    lines = -(-len(classes) // columns)
    figure = Figure(figsize=(13, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    orders = torch.linspace(0.3, 12, 160)
    for index, (panel, name) in enumerate(zip(panels, classes, strict=False)):
        rows = (part["label"] == index).cpu()
        mean = envelope_spectrum(part["vibration"].cpu()[rows], speed.cpu()[rows], orders, rate).mean(dim=0)
        panel.plot(orders, mean, color="C0", linewidth=1)
        for colour, place in zip(("C3", "C2", "C1"), PLACES, strict=True):
            panel.axvline(GEOMETRY.orders[place], color=colour, linewidth=0.8, linestyle="--", label=place)
        panel.set(title=name, xlabel="order")
    panels[0].legend(fontsize="small")
    return figure


def envelope_spectrum(vibration: Tensor, speed: Tensor, orders: Tensor, rate: int) -> Tensor:
    """Return the amplitudes of the squared vibration relative to its mean, (n, orders), float64.

    `vibration` (n, samples) at the sampling rate `rate` in Hz, `speed` (n,) in rad/s, constant in a window, `orders`
    (orders,) in cycles per turn.
    """
    energy = vibration.double().square()
    varying = energy / energy.mean(dim=1, keepdim=True) - 1
    time = torch.arange(vibration.shape[1], dtype=torch.float64) / rate
    window = torch.hann_window(len(time), dtype=torch.float64)
    phase = speed.double()[:, None, None] * orders.double()[:, None] * time
    cosine, sine = ((varying * window)[:, None] * wave for wave in (phase.cos(), phase.sin()))
    return (cosine.sum(dim=-1).square() + sine.sum(dim=-1).square()).sqrt() * 2 / window.sum()
