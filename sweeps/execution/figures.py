"""Figures of a run, `figures/<kind>-e<epoch>.png`: the kinds of its family, and the losses of every trainable."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gatesweep.core import rng
from gatesweep.core.errors import InputError
from gatesweep.core.evaluation import require_split
from gatesweep.core.files import renamed_into
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT, Epoch
from gatesweep.core.record import STEP_LOSS, curves
from gatesweep.core.shortfall import Threshold
from gatesweep.core.trainable import Data, Split, Trainable
from gatesweep.sweeps.config.schema import FiguresConfig
from gatesweep.sweeps.records.layout import FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = "losses"  # the kind that this module draws, from the curves
NO_TERMS = ("train/loss", "train/grad_norm", STEP_LOSS)  # names under train/ that are no terms of the loss


def check_figures(section: FiguresConfig, trainable: Trainable | None = None, data: Data | None = None) -> None:
    """Raise InputError for a kind of figure that neither the trainable nor this module draws; a function draws none."""
    kinds = [LOSSES, *(trainable.figures(data) if trainable is not None and data is not None else [])]
    for kind in section.kinds or []:
        if kind not in kinds:
            raise InputError(f"figures.kinds: got {kind!r}, expected some of {', '.join(kinds)}")


def figures_due(section: FiguresConfig, epoch: Epoch) -> bool:
    """Return True for an epoch that gets figures: the last one of a run, and each `every`-th one from the first on."""
    if epoch.outcome in CUT_SHORT or section.kinds == []:
        return False
    return epoch.outcome is not None or (section.every is not None and (epoch.index - 1) % section.every == 0)


def draw_figures(
    folder: Path,
    trainable: Trainable | None,
    data: Data | None,
    epoch: Epoch,
    *,
    kinds: Sequence[str] | None,
    gate: Gate,
) -> None:
    """Write the figures of one epoch; `kinds` None means all. The random generators stay as they were.

    A figure that cannot be drawn leaves its traceback in place of the picture, and the trial goes on.
    Raises OSError where the folder cannot be made.
    """
    generators = rng.state()
    history = curves(epoch.state()["history"])
    drawings: dict[str, Callable[[], Figure]] = {LOSSES: partial(draw_losses, history, gate)}
    with torch.no_grad():
        if trainable is not None and data is not None:
            drawings |= trainable.eval().figures(data)
        (folder / FIGURES).mkdir(exist_ok=True)
        for kind in drawings if kinds is None else kinds:
            _draw(drawings[kind], folder / FIGURES / f"{kind}-e{epoch.index:04d}.png")
    rng.restore(generators)


def draw_split(folder: Path, trainable: Trainable, data: Data, split: Split) -> list[Path]:
    """Write all figures of a trainable on a split, and return their files; the random generators stay as they were.

    Raises MissingSplit where its figures are of val alone, and OSError.
    """
    require_split(trainable.figures, split)
    generators = rng.state()
    with torch.no_grad():
        drawings = trainable.eval().figures(data, *([] if split == "val" else [split]))
        paths = [folder / f"{kind}.png" for kind in drawings]
        for draw, path in zip(drawings.values(), paths, strict=True):
            _draw(draw, path)
    rng.restore(generators)
    return [path for path in paths if path.exists()]


def epoch_figures(folder: Path, epoch: int) -> list[Path]:
    """Return the files of one epoch's figures, by name."""
    return sorted((folder / FIGURES).glob(f"*-e{epoch:04d}.png"))


def draw_losses(history: Mapping[str, Sequence[float]], gate: Gate) -> Figure:
    """Draw the loss of every step and epoch, its terms, and each gated metric with its threshold.

    `history` holds the curves by metric name, as `core.record.curves` returns them. The failing side of each threshold
    is shaded.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    terms = [name for name in history if name.startswith("train/") and not name.startswith(NO_TERMS)]
    panels = 1 + bool(terms) + len(gate.rules)
    columns = min(3, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = iter(figure.subplots(rows, columns, squeeze=False).flat)
    _draw_loss(next(axes), history)
    if terms:
        _draw_terms(next(axes), history, terms)
    for rule in gate.rules:
        _draw_gated_metric(next(axes), history, rule)
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.set_visible(False)
    return figure


def _draw(draw: Callable[[], Figure], path: Path) -> None:
    """Write a figure; one that cannot be drawn leaves its traceback in place of the picture. Raises OSError."""
    try:
        _write_figure(draw(), path)
    except Exception:
        path.with_suffix(".txt").write_text(traceback.format_exc())


def _draw_loss(axis: Axes, history: Mapping[str, Sequence[float]]) -> None:
    steps, epochs = history[STEP_LOSS], history["epoch"]
    per_epoch = len(steps) / len(epochs)
    axis.plot([(step + 1) / per_epoch for step in range(len(steps))], steps, color="0.75", label="each step")
    for name in ("train/loss", "val/loss"):
        if name in history:
            axis.plot(epochs, history[name], marker=".", label=name)
    if steps and 0 < 20 * min(steps) < max(steps):
        axis.set_yscale("log")
    axis.set(title="loss", xlabel="epoch")
    axis.legend()


def _draw_terms(axis: Axes, history: Mapping[str, Sequence[float]], terms: Sequence[str]) -> None:
    for name in terms:
        axis.plot(history["epoch"], history[name], marker=".", label=name.removeprefix("train/"))
    values = [value for name in terms for value in history[name] if value is not None]
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axis.set_yscale("log")
    axis.set(title="what else training reports", xlabel="epoch")
    axis.legend(fontsize="small")


def _draw_gated_metric(axis: Axes, history: Mapping[str, Sequence[float]], rule: Threshold) -> None:
    axis.plot(history["epoch"], history[rule.metric], marker=".", color="C0")
    axis.margins(y=0.15)
    low, high = axis.get_ylim()
    low, high = min(low, rule.bound), max(high, rule.bound)
    room = 0.05 * ((high - low) or 1.0)
    low, high = low - room, high + room
    axis.axhspan(*((low, rule.bound) if rule.comparison.startswith(">") else (rule.bound, high)), color="0.9")
    axis.axhline(rule.bound, color="C3", linewidth=1)
    axis.set(title=f"{rule.metric} {rule.comparison} {rule.bound:g}", xlabel="epoch", ylim=(low, high))


def _write_figure(figure: Figure, path: Path) -> None:
    """Write a figure aside, then rename it: the publisher never sees half of one."""
    with renamed_into(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
