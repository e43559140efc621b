"""Born machine trained on attacked inputs, so that it stays right under attack; it can learn the density as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Losses
from gatesweep.trainables.born.attacks import ascend, random_start, surprise, worst_start
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born

Method = Literal["pgd", "fgsm", "trades"]


class BornAdversarial(Born):
    """Classifier trained on inputs as they are and on inputs that an attacker moved by up to `eps` of their range.

    * `pgd` and `fgsm`: loss = clean_weight * class_nll + (1 - clean_weight) * attacked, with `attacked` the mean
      -log p(c|x) of attacked inputs. The attack of `pgd` is `training_steps` steps of L2 ascent. That of `fgsm` is one
      step along the signs of the gradient, from a random point; its `eps` is the largest move of each coordinate.
    * `trades`: loss = class_nll + beta * attacked, with `attacked` the mean KL(p(.|x) || p(.|attacked x)), which is
      also what its attacker climbs.

    The attack of `pgd` and `trades` starts at the worst of `training_tries` random points of the ball. The ball grows
    linearly from 0 to `eps` over the first `ramp` of the run. `attack` tells where the attacker may go.
    `weight_generative` adds that multiple of `joint_nll`, -log p(x, c) per feature.

    Inputs are attacked in training only. The held-out `loss` is -log p(c|x) of inputs as they are, and the metrics
    `robust_accuracy_*` come from the attack of `Born`, whatever the method.
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
        """Check the fields; `fields` are those of `Born`. Raises InputError for a bad value."""
        super().__init__(data, **fields)
        require(0 <= eps <= 1, "trainable.eps", eps, "a fraction of the inputs' range, 0 to 1")
        require(0 < ramp <= 1, "trainable.ramp", ramp, "a fraction of the run, above 0 up to 1")
        check_size("trainable.training_steps", training_steps)
        check_size("trainable.training_tries", training_tries)
        require(0 <= clean_weight <= 1, "trainable.clean_weight", clean_weight, "0 to 1")
        require(beta >= 0, "trainable.beta", beta, "at least 0")
        require(weight_generative >= 0, "trainable.weight_generative", weight_generative, "at least 0")
        self.method, self.training_steps, self.training_tries = method, training_steps, training_tries
        self.register_stacked(
            eps=eps, ramp=ramp, clean_weight=clean_weight, beta=beta, weight_generative=weight_generative
        )

    def forward(self, batch: Batch) -> Losses:
        """Compute `loss` of points (B, n) and labels (B,); in training also `class_nll`, `attacked` and `joint_nll`."""
        x, labels = batch
        weights, own = self.recomputed(self.machine, x), labels[:, None]
        clean = weights.log_softmax(dim=1)
        nll = -clean.gather(1, own).mean()
        if not self.training:
            return {"loss": nll}
        moved = self.attack(x, labels, self._objective(clean.detach(), labels))
        attacked = self._objective(clean, labels)(moved).mean()
        joint = (self.machine.log_partition().logsumexp(0) - weights.gather(1, own).mean()) / x.shape[1]
        if self.method == "trades":
            loss = nll + self.beta * attacked
        else:
            loss = self.clean_weight * nll + (1 - self.clean_weight) * attacked
        loss = loss + self.weight_generative * joint
        return {"loss": loss, "class_nll": nll, "attacked": attacked, "joint_nll": joint}

    def attack(self, x: Tensor, labels: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """Attack points (B, n), as strongly as the progress of the run asks for; returns (B, n).

        The attacker stays where the amplitude of the point's class has the same sign as at the point. On the line where
        the sign changes the probability is 0, and beyond the line it grows again. Training on a point beyond the line
        would hold the line in place; training on a point before it pushes the line away.
        """
        side = self._own_sign(x, labels)

        def near(moved: Tensor) -> Tensor:
            """The objective, and minus infinity where the sign has changed."""
            return torch.where(self._own_sign(moved.detach(), labels) == side, objective(moved), -torch.inf)

        eps = self.eps * (self.progress / self.ramp).clamp(max=1)
        if self.method == "fgsm":  # random start, step of 1.25 eps: Wong et al., algorithm 3
            start = random_start(x, eps, "linf")
            return ascend(near, x, eps, start, "linf", steps=1, step_size=1.25 * eps)
        start = worst_start(near, x, eps, self.training_tries)
        return ascend(near, x, eps, start, steps=self.training_steps)

    def _own_sign(self, x: Tensor, labels: Tensor) -> Tensor:
        """Sign of the amplitude of each point's own class, (B,)."""
        return self.machine.amplitudes(x)[0].gather(1, labels[:, None])[:, 0].sign()

    def _objective(self, clean: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """Function of points (B, n) with values (B,) that the attacker maximises and training minimises."""
        if self.method == "trades":
            return lambda x: (clean.exp() * (clean - self.machine.class_log_probabilities(x))).sum(dim=1)
        return lambda x: surprise(self.machine, x, labels)
