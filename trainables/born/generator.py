"""A Born machine that learns the joint density of points and classes, exactly normalised, so that it can draw."""

from __future__ import annotations

from core.data import require
from core.trainable import Losses
from trainables.born.data import Batch, BornData
from trainables.born.embedding import Kind
from trainables.born.trainable import Born


class BornGenerator(Born):
    """`hybrid` of the class's -log p(c|x), and the rest of the joint -log p(x, c) per feature.

    `hybrid` 0 learns the density alone, 1 to classify alone. Source: Han et al., arXiv:1709.01662.
    """

    stackable = frozenset({"lr", "weight_decay", "hybrid"})

    def __init__(
        self,
        data: BornData,
        *,
        hybrid: float = 0.1,
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
        robustness_every: int = 10,
    ) -> None:
        super().__init__(
            data,
            embedding=embedding,
            dim=dim,
            bond=bond,
            std=std,
            lr=lr,
            weight_decay=weight_decay,
            norm_control=norm_control,
            generated=generated,
            frechet_every=frechet_every,
            robustness=robustness,
            attack_steps=attack_steps,
            attacked=attacked,
            robustness_every=robustness_every,
        )
        require(0 <= hybrid <= 1, "trainable.hybrid", hybrid, "0 to 1")
        self.hybrid = hybrid

    def forward(self, batch: Batch) -> Losses:
        x, labels = batch
        weights, own = self.recomputed(self.machine, x), labels[:, None]
        nll = -weights.log_softmax(dim=1).gather(1, own).mean()
        joint = (self.machine.log_partition().logsumexp(0) - weights.gather(1, own).mean()) / x.shape[1]
        return {"loss": self.hybrid * nll + (1 - self.hybrid) * joint, "class_nll": nll, "joint_nll": joint}
