"""Figures of autoencoders: reconstructed fields, generated fields, and the use of a codebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.trainable import Split, split_batches
from gatesweep.trainables.autoencoders.data import Batch, TokenData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {"pt": "log(pT / GeV)", "eta": "eta", "phi": "phi [rad]", "pixel": "intensity"}


@torch.no_grad()
def draw_reconstruction(data: TokenData, split: Split, reconstruct: Callable[[Tensor, Tensor], Tensor]) -> Figure:
    """Draw, for each field of a split's tokens, histograms of original values, reconstructed values and errors."""
    from matplotlib.figure import Figure

    present = [
        (features[ids > 0], reconstruct(features, ids)[ids > 0].float()) for features, ids in split_batches(data, split)
    ]
    original, reconstructed = (torch.cat(parts) for parts in zip(*present, strict=True))
    before, after = data.physical(original).cpu().numpy(), data.physical(reconstructed).cpu().numpy()
    errors = data.errors(reconstructed, original)
    figure = Figure(figsize=(4.2 * len(data.fields), 6), layout="constrained")
    axes = figure.subplots(2, len(data.fields), squeeze=False)
    for column, (field, columns) in enumerate(data.fields.items()):
        low, high = np.quantile(before[..., columns], [0.001, 0.999])
        bins = np.linspace(low, high, 61)
        axes[0, column].hist(before[..., columns].ravel(), bins, color="0.8", label=split)
        axes[0, column].hist(after[..., columns].ravel(), bins, histtype="step", color="C0", label="reconstructed")
        axes[0, column].set(title=field, xlabel=UNITS[field], ylabel="values")
        error = errors[field].cpu().numpy().ravel()
        axes[1, column].hist(error, np.linspace(0, max(np.quantile(error, 0.99), 1e-6), 61), color="C0")
        axes[1, column].axvline(np.median(error), color="C3", linewidth=1, label=f"median {np.median(error):.3g}")
        axes[1, column].set(xlabel=f"absolute error of {UNITS[field]}", ylabel="values")
    for axis in (axes[0, 0], *axes[1]):
        axis.legend()
    return figure


def draw_samples(data: TokenData, generated: Batch, real: Batch) -> Figure:
    """Draw, for each field, histograms of generated and of real tokens; both are batches (B, T, F), (B, T)."""
    from matplotlib.figure import Figure

    batches = (generated, real)
    values, real_values = (data.physical(features[ids > 0].float()).cpu().numpy() for features, ids in batches)
    figure = Figure(figsize=(4.2 * len(data.fields), 3.2), layout="constrained")
    axes = figure.subplots(1, len(data.fields), squeeze=False)[0]
    for axis, (field, columns) in zip(axes, data.fields.items(), strict=True):
        bins = np.histogram_bin_edges(real_values[:, columns], 60)
        axis.hist(real_values[:, columns].ravel(), bins, color="0.8", density=True, label="held-out")
        axis.hist(values[:, columns].ravel(), bins, histtype="step", color="C0", density=True, label="generated")
        axis.set(title=field, xlabel=UNITS[field], ylabel="density")
    axes[0].legend()
    return figure


def draw_codebook(usage: Tensor) -> Figure:
    """Draw the number of tokens of each code, `usage` (K,), from the most used to the least used."""
    from matplotlib.figure import Figure

    counts = np.sort(usage.cpu().numpy())[::-1]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(np.arange(len(counts)), counts, step="post", color="C0")
    axis.axhline(counts.mean(), color="C3", linewidth=1, label="all used alike")
    axis.set(title=f"{int((counts > 0).sum())} of {len(counts)} codes used", xlabel="code", ylabel="tokens")
    axis.legend()
    return figure
