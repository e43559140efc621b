"""A Born machine that classifies what an attacker made of its inputs, and may learn to draw new ones as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.attacks import ascend, random_start, surprise, worst_start
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born

Method = Literal["pgd", "fgsm", "trades"]


class BornAdversarial(Born):
    """-log p(c|x) of inputs as they are and as an attacker (L2, `eps` of their range) leaves them.

    `pgd` and `fgsm` (many steps, or one long one to the signs' corner) weigh the two by `clean_weight` and
    1 - `clean_weight`; `trades` adds `beta` KL(p(.|x) || p(.|attacked)) to the first, and its attacker climbs that.
    The attack starts at the worst of `training_tries` random points of its ball, which grows from nothing to `eps` over
    the first `ramp` of the run; what it may reach is said at `attack`.
    `weight_generative` adds the joint -log p(x, c) per feature. Inputs are attacked in training only: the held-out
    `loss` is -log p(c|x) of inputs as they are, and `robust_accuracy` is by the attack of `Born`, always the same.
    Source: Madry et al., arXiv:1706.06083; Wong et al., arXiv:2001.03994; Zhang et al., arXiv:1901.08573.
    """

    stackable = frozenset({"lr", "weight_decay", "eps", "ramp", "clean_weight", "beta", "weight_generative"})
    eps: Tensor
    ramp: Tensor
    clean_weight: Tensor
    beta: Tensor
    weight_generative: Tensor

    def __init__(
        self,
        data: BornData,
        *,
        method: Method = "pgd",
        eps: float = 0.12,
        ramp: float = 0.5,
        training_steps: int = 2,
        training_tries: int = 20,
        clean_weight: float = 0.3,
        beta: float = 1.0,
        weight_generative: float = 0.0,
        **fields: Any,
    ) -> None:
        super().__init__(data, **fields)
        require(0 <= eps <= 1, "trainable.eps", eps, "a fraction of the inputs' range, 0 to 1")
        require(0 < ramp <= 1, "trainable.ramp", ramp, "a fraction of the run, above 0 up to 1")
        require(training_steps >= 1, "trainable.training_steps", training_steps, "at least 1")
        require(training_tries >= 1, "trainable.training_tries", training_tries, "at least 1")
        require(0 <= clean_weight <= 1, "trainable.clean_weight", clean_weight, "0 to 1")
        require(beta >= 0, "trainable.beta", beta, "at least 0")
        require(weight_generative >= 0, "trainable.weight_generative", weight_generative, "at least 0")
        self.method, self.training_steps, self.training_tries = method, training_steps, training_tries
        self.register_stacked(
            eps=eps, ramp=ramp, clean_weight=clean_weight, beta=beta, weight_generative=weight_generative
        )

    def forward(self, batch: Batch) -> Losses:
        x, labels = batch
        weights, own = self.recomputed(self.machine, x), labels[:, None]
        clean = weights.log_softmax(dim=1)
        nll = -clean.gather(1, own).mean()
        if not self.training:
            return {"loss": nll}
        found = self.attack(x, labels, self._objective(clean.detach(), labels))
        attacked = self._objective(clean, labels)(found).mean()
        joint = (self.machine.log_partition().logsumexp(0) - weights.gather(1, own).mean()) / x.shape[1]
        if self.method == "trades":
            loss = nll + self.beta * attacked
        else:
            loss = self.clean_weight * nll + (1 - self.clean_weight) * attacked
        loss = loss + self.weight_generative * joint
        return {"loss": loss, "class_nll": nll, "attacked": attacked, "joint_nll": joint}

    def attack(self, x: Tensor, labels: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, n): where an attacker as strong as this moment of the run asks for takes points (B, n).

        It stays where the amplitude of the point's class has the sign that it has at the point. Probability is 0 on
        the line where that sign changes, and grows again beyond: to raise it there would hold the line where it is,
        while to raise it on the near side pushes the line away.
        """
        side = self._own_sign(x, labels)

        def near(moved: Tensor) -> Tensor:
            return torch.where(self._own_sign(moved.detach(), labels) == side, objective(moved), -torch.inf)

        eps = self.eps * (self.progress / self.ramp).clamp(max=1)
        if self.method == "fgsm":  # from a random point, by a step of 1.25 eps: Wong et al., algorithm 3
            start = random_start(x, eps, "linf")
            return ascend(near, x, eps, start, "linf", steps=1, step_size=1.25 * eps)
        start = worst_start(near, x, eps, self.training_tries)
        return ascend(near, x, eps, start, steps=self.training_steps)

    def _own_sign(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B,): the sign of the amplitude of each point's class."""
        return self.machine.amplitudes(x)[0].gather(1, labels[:, None])[:, 0].sign()

    def _objective(self, clean: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """What an attacker wants much of and training little of, of points (B, n): values (B,)."""
        if self.method == "trades":
            return lambda x: (clean.exp() * (clean - self.machine.class_log_probabilities(x))).sum(dim=1)
        return lambda x: surprise(self.machine, x, labels)
