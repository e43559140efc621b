"""Figures of the circuit VAE: the latent by filter type, and the responses of decoded circuits beside the true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.trainables.circuits.circuit import OMEGA_0, Mask, Values
from gatesweep.trainables.circuits.data import Part
from gatesweep.trainables.circuits.physics import decibels, grid, response, roots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12  # filter types, with one circuit of each


def draw_latent(mean: Tensor, part: Part) -> Figure:
    """Draw the latent means (n, latent) of a part in two dimensions, by PCA and by t-SNE, coloured by filter type."""
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points = mean.cpu().double().numpy()
    centred = points - points.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:2]
    projected = np.zeros((len(points), 2))
    projected[:, : len(components)] = centred @ components.T
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    with threadpool_limits(torch.get_num_threads()):
        perplexity = min(30.0, (len(points) - 1) / 3)
        embedded = TSNE(random_state=0, init="random", perplexity=perplexity, max_iter=500).fit_transform(points)
    for axis, shown, title in ((left, projected, "PCA"), (right, embedded, "t-SNE")):
        for index, name in enumerate(part.circuits.names):
            of_type = part.circuits.types == index
            axis.scatter(*shown[of_type].T, s=8, label=name)
        axis.set(title=f"latent means, {title}")
    left.legend(fontsize="small")
    return figure


def draw_bode(part: Part, mask: Mask, values: Values) -> Figure:
    """Draw |H| in dB over angular frequency for one circuit of each type, and for its decoded circuit.

    `mask` and `values` (n, 10, 3) are the decoded circuits of the part.
    """
    omega = grid(torch.device("cpu"), torch.float64)
    exact = torch.view_as_complex(part.tensors["response"].cpu().double().contiguous())
    decoded = response(torch.from_numpy(mask), torch.from_numpy(values), omega)
    examples = _examples(part)
    figure, panels = _panels(len(examples))
    for panel, index in zip(panels, examples, strict=True):
        panel.semilogx(omega * OMEGA_0, decibels(exact[index]), color="0.6", linewidth=4, label="circuit")
        panel.semilogx(omega * OMEGA_0, decibels(decoded[index]), color="C0", label="decoded")
        panel.set(title=_name(part, index), xlabel="angular frequency [rad/s]", ylabel="|H| [dB]", ylim=(-85, 30))
    panels[0].legend()
    return figure


def draw_poles_zeros(part: Part, mask: Mask, values: Values) -> Figure:
    """Draw the poles and zeros in rad/s of one circuit of each type, and of its decoded circuit.

    `mask` and `values` (n, 10, 3) are the decoded circuits of the part. The axes are linear near the origin and
    logarithmic beyond 100 rad/s.
    """
    decoded = roots(mask, values)
    examples = _examples(part)
    figure, panels = _panels(len(examples))
    for panel, index in zip(panels, examples, strict=True):
        for source, color, size, label in ((part.roots, "0.6", 11, "circuit"), (decoded, "C0", 6, "decoded")):
            for kind, marker in (("poles", "x"), ("zeros", "o")):
                root = getattr(source, kind)[index] * OMEGA_0
                root = root[np.isfinite(root)]
                if kind == "zeros" and source.at_origin[index] > 0:
                    root = np.append(root, 0.0)
                panel.plot(root.real, root.imag, marker, color=color, markersize=size, fillstyle="none")
                panel.lines[-1].set_label(f"{label}: {kind}")
        for scale in (panel.set_xscale, panel.set_yscale):
            scale("symlog", linthresh=1e2)
        powers = 10.0 ** np.arange(2, 9, 2)
        panel.set(xlim=(-1e9, 1e3), ylim=(-1e9, 1e9), xticks=[*-powers, 0], yticks=[*-powers, 0, *powers])
        panel.axvline(0, color="0.8", linewidth=1, zorder=0)
        panel.set(title=_name(part, index), xlabel="real part [rad/s]", ylabel="imaginary part [rad/s]")
    panels[0].legend(fontsize="small")
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and its `count` panels, three in a row."""
    from matplotlib.figure import Figure

    columns, rows = min(count, 3), -(-count // 3)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, list(panels[:count])


def _examples(part: Part) -> list[int]:
    """Return the index of the first circuit of each type, for at most `MAX_PANELS` types."""
    return [int((part.circuits.types == index).argmax()) for index in range(len(part.circuits.names))][:MAX_PANELS]


def _name(part: Part, index: int) -> str:
    return part.circuits.names[part.circuits.types[index]]
