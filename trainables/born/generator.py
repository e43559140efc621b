"""Born machine trained as a density: it learns the joint density of points and classes, and draws new points."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born


class BornGenerator(Born):
    """Generator; its loss is hybrid * class_nll + (1 - hybrid) * joint_nll, both means over the batch in nats.

    `class_nll` is -log p(c|x). `joint_nll` is -log p(x, c) per feature, with the exact Z. With `hybrid` 0 the machine
    learns the density alone, with 1 it learns to classify alone.
    Source: Han et al., arXiv:1709.01662, for the density.
    """

    stackable = frozenset({"lr", "weight_decay", "hybrid"})
    hybrid: Tensor

    def __init__(self, data: BornData, *, hybrid: float = 0.1, **fields: Any) -> None:
        """Check the fields; `fields` are those of `Born`. Raises InputError for a bad value."""
        super().__init__(data, **fields)
        require(0 <= hybrid <= 1, "trainable.hybrid", hybrid, "0 to 1")
        self.register_stacked(hybrid=hybrid)

    def forward(self, batch: Batch) -> Losses:
        """Compute `loss`, `class_nll` and `joint_nll` of points (B, n) and labels (B,)."""
        x, labels = batch
        weights, own = self.recomputed(self.machine, x), labels[:, None]
        nll = -weights.log_softmax(dim=1).gather(1, own).mean()
        joint = (self.machine.log_partition().logsumexp(0) - weights.gather(1, own).mean()) / x.shape[1]
        return {"loss": self.hybrid * nll + (1 - self.hybrid) * joint, "class_nll": nll, "joint_nll": joint}
