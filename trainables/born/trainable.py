"""Base class of all trainables with a Born machine: its fields, its held-out metrics, oracle and baseline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Data, Metrics, Split, Trainable
from gatesweep.trainables.born import figures, metrics
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.embedding import HIGHEST, Kind
from gatesweep.trainables.born.mixture import Mixture, gaussians, kernels
from gatesweep.trainables.born.mps import BornMachine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [0.05, 0.10]  # default sizes of attacks, as fractions of the inputs' range


class Born(Trainable):
    """Trainable with a `BornMachine`, `machine`, that has `dim` functions for each feature and bonds of size `bond`.

    Subclasses add the loss. Held-out metrics of all of them:

    * at every evaluation `accuracy`, `nll`, `joint_nll_per_dim` (`metrics.likelihoods`) and `normalisation_error`;
    * every `frechet_every` epochs `frechet` and `sliced_w1` of `generated` drawn points (`metrics.generation`);
    * every `robustness_every` epochs, for each size in `robustness`, the share of `attacked` held-out points that keep
      their class under attacks of `attack_steps` steps; for size 0.10, a tenth of the inputs' range, the metric is
      `robust_accuracy_10`.

    Likelihoods and attacks are computed in double precision, because single precision is wrong where an amplitude is
    near 0. With `norm_control` the tensors are scaled after each epoch so that Z is 1. No loss and no metric depends on
    that scale, but weight decay does.
    """

    def __init__(
        self,
        data: BornData,
        *,
        embedding: Kind = "legendre",
        dim: int = 10,
        bond: int = 6,
        std: float = 0.05,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        norm_control: bool = True,
        generated: int = 1000,
        frechet_every: int = 2,
        robustness: list[float] | None = None,
        attack_steps: int = 20,
        attacked: int = 250,
        robustness_every: int = 5,
    ) -> None:
        """Check the fields and build the machine; `std` is its initial spread. Raises InputError for a bad value."""
        super().__init__(lr=lr, weight_decay=weight_decay)
        require(1 <= dim <= HIGHEST[embedding], "trainable.dim", dim, f"1 to {HIGHEST[embedding]} for {embedding}")
        check_size("trainable.bond", bond)
        require(std > 0, "trainable.std", std, "above 0")
        fewest = 2 * data.n_classes
        require(generated >= fewest, "trainable.generated", generated, f"at least {fewest}, two of each class")
        held_out = len(data.part("val")[1])
        require(1 <= attacked <= held_out, "trainable.attacked", attacked, f"1 to {held_out}, the held-out points")
        for field, count in (
            ("frechet_every", frechet_every),
            ("robustness_every", robustness_every),
            ("attack_steps", attack_steps),
        ):
            check_size(f"trainable.{field}", count)
        robustness = SIZES if robustness is None else robustness
        percents = [round(100 * eps) for eps in robustness]
        whole = all(0 < eps <= 1 and abs(100 * eps - round(100 * eps)) < 1e-6 for eps in robustness)
        expected = "different sizes in whole percents of the range, above 0 up to 1"
        require(whole and len(set(percents)) == len(percents), "trainable.robustness", list(robustness), expected)
        self.norm_control, self.generated, self.frechet_every = norm_control, generated, frechet_every
        self.robustness, self.attack_steps = tuple(robustness), attack_steps
        self.attacked, self.robustness_every = attacked, robustness_every
        self.machine = BornMachine(
            n_features=data.n_features, n_classes=data.n_classes, embedding=embedding, dim=dim, bond=bond, std=std
        )

    def exact(self) -> BornMachine:
        """Copy the machine, in double precision where the device has it (Apple's has not)."""
        dtype = torch.float32 if self.progress.device.type == "mps" else torch.float64
        return copy.deepcopy(self.machine).to(dtype)

    @torch.no_grad()
    def draw(self, labels: Tensor, seed: int = 0) -> Tensor:
        """Draw points of p(x|c) for labels (N,); returns (N, n), the same for the same seed."""
        uniforms = torch.rand(len(labels), self.machine.n_features, generator=torch.Generator().manual_seed(seed))
        return self.machine.sample(labels, uniforms.to(labels.device))

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Compute the metrics of a split of the data."""
        assert isinstance(data, BornData)
        values = super().evaluate(data, split)
        with torch.autocast(self.progress.device.type, enabled=False):
            wide = self.exact()
            values["normalisation_error"] = metrics.normalisation_error(self.machine, wide)
            return values | self._measure(data, wide, self.draw, split, everything=False)

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        """Scale the tensors so that Z is 1, with `norm_control`."""
        if self.norm_control:
            self.machine.renormalise()

    def oracle(self, data: Data) -> Metrics:
        """Measure the exact density of planar points, or a kernel estimate for other data.

        Training points take the place of drawn ones.
        """
        assert isinstance(data, BornData)
        train = data.part("train")
        return self._measure_density(data, data.exact or kernels(*train), partial(_real_points, train))

    def trivial(self, data: Data) -> Metrics:
        """Measure one Gaussian for each class, with its means and standard deviations."""
        assert isinstance(data, BornData)
        model = gaussians(*data.part("train"))
        return self._measure_density(data, model, model.draw)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Offer the figures `samples` and, for two features, `density`."""
        assert isinstance(data, BornData)
        drawn = {"samples": lambda: figures.draw_samples(data, split, self.draw)}
        if data.n_features == 2:
            return drawn | {"density": lambda: figures.draw_density(data, split, self.exact())}
        return drawn

    @torch.no_grad()
    def _measure_density(self, data: BornData, model: Mixture, draw: Callable[[Tensor], Tensor]) -> Metrics:
        """All metrics of a known density, on the points of `val`."""
        return {"normalisation_error": 0.0} | self._measure(data, model, draw, "val", everything=True)

    def _measure(
        self, data: BornData, model: metrics.Density, draw: Callable[[Tensor], Tensor], part: str, *, everything: bool
    ) -> Metrics:
        """Metrics of a density on a part of the data: those that are due in this epoch, or all of them."""
        x, labels = data.part(part)
        values = metrics.likelihoods(model, x, labels)
        if everything or self.due(self.frechet_every):
            values |= metrics.generation(draw, x, labels, data.n_classes, self.generated)
        if self.robustness and (everything or self.due(self.robustness_every)):
            # Held-out points are sorted by class, so evenly spaced rows have the class shares of the whole part.
            rows = torch.linspace(0, len(x) - 1, min(self.attacked, len(x)), device=x.device).long()
            values |= metrics.robustness(model, _to_double(x[rows]), labels[rows], self.robustness, self.attack_steps)
        return values


def _to_double(x: Tensor) -> Tensor:
    """Points in double precision, where the device has it."""
    return x if x.device.type == "mps" else x.double()


def _real_points(train: Batch, labels: Tensor) -> Tensor:
    """Training points of the classes in labels (N,), (N, n); a class with too few points repeats its own."""
    x, train_labels = train
    points = x.new_empty(len(labels), x.shape[1])
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        count = int((train_labels == label).sum())  # a host sync
        points[rows] = x[train_labels == label][torch.arange(len(rows), device=x.device) % count]
    return points
