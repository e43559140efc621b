"""Born machine trained to classify only: the loss does not see the density."""

from __future__ import annotations

from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.data import Batch
from gatesweep.trainables.born.trainable import Born


class BornClassifier(Born):
    """Classifier with p(c|x) = psi(x, c)^2 / sum of psi(x, c')^2 over all classes c'; the loss is mean -log p(c|x).

    Source: Stoudenmire and Schwab, arXiv:1605.05775, who minimise squared errors instead of the cross-entropy.
    """

    stackable = frozenset({"lr", "weight_decay"})

    def forward(self, batch: Batch) -> Losses:
        """Compute `loss`, the mean -log p(c|x) in nats, of points (B, n) and labels (B,)."""
        x, labels = batch
        log_probabilities = self.recomputed(self.machine, x).log_softmax(dim=1)
        return {"loss": -log_probabilities.gather(1, labels[:, None]).mean()}
