"""What all trainables over a Born machine have in common: its shape, and what is asked of it on held-out points."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Data, Metrics, Trainable
from gatesweep.trainables.born import figures, metrics
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.embedding import HIGHEST, Kind
from gatesweep.trainables.born.mixture import Mixture, gaussians, kernels
from gatesweep.trainables.born.mps import BornMachine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = [0.05, 0.10]  # of attacks, in fractions of the inputs' range


class Born(Trainable):
    """A Born machine of points in the unit cube, `machine`, with an embedding of `dim` functions and bonds of `bond`.

    Held-out metrics, all in double precision, where amplitudes near 0 do not lie: `accuracy`, `nll` and
    `joint_nll_per_dim` (`metrics.likelihoods`); `normalisation_error`; every `frechet_every` epochs `frechet` and
    `sliced_w1` of `generated` points (`metrics.generation`); every `robustness_every` epochs the accuracy of `attacked`
    points after an attack of each size in `robustness`, by `attack_steps` steps: `robust_accuracy_10` for 0.10, a
    tenth of the inputs' range. After each epoch the tensors are scaled so that Z is one (`norm_control`), which no loss
    or metric sees; with weight decay, the optimizer does.
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
        super().__init__(lr=lr, weight_decay=weight_decay)
        require(1 <= dim <= HIGHEST[embedding], "trainable.dim", dim, f"1 to {HIGHEST[embedding]} for {embedding}")
        require(bond >= 1, "trainable.bond", bond, "at least 1")
        require(std > 0, "trainable.std", std, "above 0")
        least = 2 * data.n_classes
        require(generated >= least, "trainable.generated", generated, f"at least {least}, two of each class")
        most = len(data.part("val")[1])
        require(1 <= attacked <= most, "trainable.attacked", attacked, f"1 to {most}, the held-out points")
        for field, count in (
            ("frechet_every", frechet_every),
            ("robustness_every", robustness_every),
            ("attack_steps", attack_steps),
        ):
            require(count >= 1, f"trainable.{field}", count, "at least 1")
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
        """The machine in double precision, where the device has it."""
        dtype = torch.float32 if self.progress.device.type == "mps" else torch.float64
        return copy.deepcopy(self.machine).to(dtype)

    @torch.no_grad()
    def draw(self, labels: Tensor, seed: int = 0) -> Tensor:
        """(N, n): points of p(x|c) for labels (N,), the same for the same seed."""
        uniforms = torch.rand(len(labels), self.machine.n_features, generator=torch.Generator().manual_seed(seed))
        return self.machine.sample(labels, uniforms.to(labels.device))

    @torch.no_grad()
    def evaluate(self, data: Data, part: str = "val") -> Metrics:
        """Metrics of a part of the data, without the loss where that is not `val`."""
        assert isinstance(data, BornData)
        found = super().evaluate(data) if part == "val" else {}
        with torch.autocast(self.progress.device.type, enabled=False):
            wide = self.exact()
            found["normalisation_error"] = metrics.normalisation_error(self.machine, wide)
            return found | self._judged(data, wide, self.draw, part, everything=False)

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        if self.norm_control:
            self.machine.renormalise()

    def oracle(self, data: Data) -> Metrics:
        """The density that the points were drawn from, or a kernel estimate of it, and real points as drawn ones."""
        assert isinstance(data, BornData)
        known = data.part("train")
        return self._stand_in(data, data.exact or kernels(*known), partial(_others, known))

    def trivial(self, data: Data) -> Metrics:
        """A Gaussian for each class, with its mean and standard deviations: what no amplitude is needed for."""
        assert isinstance(data, BornData)
        model = gaussians(*data.part("train"))
        return self._stand_in(data, model, model.draw)

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, BornData)
        drawn = {"samples": lambda: figures.draw_samples(data, self.draw)}
        if data.n_features == 2:
            return drawn | {"density": lambda: figures.draw_density(data, self.exact())}
        return drawn

    @torch.no_grad()
    def _stand_in(self, data: BornData, model: Mixture, draw: Callable[[Tensor], Tensor]) -> Metrics:
        return {"normalisation_error": 0.0} | self._judged(data, model, draw, "val", everything=True)

    def _judged(
        self, data: BornData, model: metrics.Density, draw: Callable[[Tensor], Tensor], part: str, *, everything: bool
    ) -> Metrics:
        """What is due of the metrics of a part, or everything."""
        x, labels = data.part(part)
        found = metrics.likelihoods(model, x, labels)
        if everything or self.due(self.frechet_every):
            found |= metrics.generation(draw, x, labels, data.n_classes, self.generated)
        if self.robustness and (everything or self.due(self.robustness_every)):
            # Parts are in the order of their classes: evenly spaced points hold as many of each as the part does.
            some = torch.linspace(0, len(x) - 1, self.attacked, device=x.device).long()
            found |= metrics.robustness(model, _wide(x[some]), labels[some], self.robustness, self.attack_steps)
        return found


def _wide(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()


def _others(known: Batch, labels: Tensor) -> Tensor:
    """(N, n): other real points of the classes asked for, from the start again where there are no more."""
    x, of = known
    found = x.new_empty(len(labels), x.shape[1])
    for label in labels.unique():
        asked = (labels == label).nonzero()[:, 0]
        found[asked] = x[of == label][torch.arange(len(asked), device=x.device) % int((of == label).sum())]
    return found
