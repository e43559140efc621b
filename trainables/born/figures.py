"""Figures of Born machines: drawn points beside real ones, and the density with the border between classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.trainables.born.data import BornData
from gatesweep.trainables.born.metrics import Density

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 500  # points of each class in a figure of planar data
SERIES = 20  # series of each class, one line each
CLASSES = 10  # classes in a figure, at most
GRID = 200  # cells of the density's figure along each axis


def draw_samples(data: BornData, split: str, draw: Callable[[Tensor], Tensor]) -> Figure:
    """Show points of a split, of each class, above drawn ones, a column for each class.

    `draw` maps labels (N,) to points (N, n). At most CLASSES classes are shown.
    """
    from matplotlib.figure import Figure

    x, labels = data.part(split)
    shown = min(data.n_classes, CLASSES)
    count = SHOWN if data.n_features == 2 else 4 if len(data.shape) == 2 else SERIES
    classes = torch.arange(shown, device=labels.device).repeat_interleave(count)
    drawn = draw(classes)
    figure = Figure(figsize=(max(2.2 * shown, 4.4), 5), layout="constrained")
    axes = figure.subplots(2, shown, squeeze=False)
    for label in range(shown):
        for axis, points in zip(axes[:, label], (x[labels == label][:count], drawn[classes == label]), strict=True):
            _show(axis, data.shape, points.float().cpu().numpy())
        axes[0, label].set_title(f"class {data.names[label]}")
    for axis, name in zip(axes[:, 0], (split, "drawn"), strict=True):
        axis.set_ylabel(name)
    return figure


@torch.no_grad()
def draw_density(data: BornData, split: str, model: Density) -> Figure:
    """Show p(x) of two features, with points of a split and the border where the most likely class changes."""
    from matplotlib.figure import Figure

    x, labels = data.part(split)
    line = (torch.arange(GRID, device=x.device) + 0.5) / GRID
    points = torch.cartesian_prod(line, line).double()
    weights = model.log_weights(points)
    density = (weights.logsumexp(dim=1) - model.log_partition().logsumexp(0)).exp().reshape(GRID, GRID).T.cpu().numpy()
    best = weights.argmax(dim=1).reshape(GRID, GRID).T.cpu().numpy()
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(density, origin="lower", extent=(0, 1, 0, 1), cmap="Blues", aspect="equal")
    axis.contour(line.cpu().numpy(), line.cpu().numpy(), best, levels=np.arange(data.n_classes - 1) + 0.5, colors="k")
    for label in range(data.n_classes):
        shown = x[labels == label][: SHOWN // 5].cpu().numpy()
        axis.plot(shown[:, 0], shown[:, 1], ".", markersize=3, label=f"class {data.names[label]}")
    axis.set(title="p(x), and where the class changes", xlabel="first feature", ylabel="second feature")
    axis.legend(loc="upper right")
    figure.colorbar(image, label="density of 2 x - 1")
    return figure


def _show(axis: Axes, shape: tuple[int, ...], points: np.ndarray) -> None:
    """Plot points (m, n) as a cloud (two features), as a column of images, or as lines."""
    if shape == (2,):
        axis.plot(points[:, 0], points[:, 1], ".", markersize=2)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 1], yticks=[0, 1])
    elif len(shape) == 2:
        images = points[:4].reshape(-1, *shape)
        axis.imshow(np.concatenate(list(images)), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    else:
        axis.plot(points.T, color="C0", linewidth=0.7, alpha=0.6)
        axis.set(ylim=(0, 1), xticks=[0, shape[0] - 1])
