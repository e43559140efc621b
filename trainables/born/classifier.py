"""A Born machine that classifies: what it could draw is nobody's concern."""

from __future__ import annotations

from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.data import Batch
from gatesweep.trainables.born.trainable import Born


class BornClassifier(Born):
    """-log p(c|x), with p(c|x) the square of the amplitude of a class over the sum of those of all.

    Source: Stoudenmire and Schwab, arXiv:1605.05775, with the cross-entropy in the place of squared errors.
    """

    stackable = frozenset({"lr", "weight_decay"})

    def forward(self, batch: Batch) -> Losses:
        x, labels = batch
        found = self.recomputed(self.machine, x).log_softmax(dim=1)
        return {"loss": -found.gather(1, labels[:, None]).mean()}
