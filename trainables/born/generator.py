"""A Born machine that learns the joint density of points and classes, exactly normalised, so that it can draw."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born


class BornGenerator(Born):
    """`hybrid` of the class's -log p(c|x), and the rest of the joint -log p(x, c) per feature.

    `hybrid` 0 learns the density alone, 1 to classify alone. Source: Han et al., arXiv:1709.01662.
    """

    stackable = frozenset({"lr", "weight_decay", "hybrid"})
    hybrid: Tensor

    def __init__(self, data: BornData, *, hybrid: float = 0.1, **fields: Any) -> None:
        super().__init__(data, **fields)
        require(0 <= hybrid <= 1, "trainable.hybrid", hybrid, "0 to 1")
        self.register_stacked(hybrid=hybrid)

    def forward(self, batch: Batch) -> Losses:
        x, labels = batch
        weights, own = self.recomputed(self.machine, x), labels[:, None]
        nll = -weights.log_softmax(dim=1).gather(1, own).mean()
        joint = (self.machine.log_partition().logsumexp(0) - weights.gather(1, own).mean()) / x.shape[1]
        return {"loss": self.hybrid * nll + (1 - self.hybrid) * joint, "class_nll": nll, "joint_nll": joint}
