"""A Born machine that a critic teaches to draw, and that is taught again to classify whenever it forgets how."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gatesweep.core.data import require
from gatesweep.core.trainable import Data, Losses, Metrics, Step
from gatesweep.trainables.born.attacks import surprise
from gatesweep.trainables.born.critic import Critic, CriticLoss, loss_of_critic, loss_of_drawn
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born

PRETRAINING, ADVERSARIAL, RETRAINING = range(3)
BETAS = (0.5, 0.9)  # of Adam: less momentum, for the two chase one another


class BornGAN(Born):
    """-log p(c|x) first; then points drawn from p(x|c) are to pass a critic of points and their class.

    After each epoch: pretraining ends after `pretrain_epochs`, or once the held-out accuracy reaches `pretrain_goal`;
    the critic's phase ends when accuracy is more than `tolerance` below the goal (`goal`, or the best of pretraining);
    retraining ends when it is back within half of that, or after `retrain_epochs`. All of them are epochs of the run,
    and where it stands is in buffers, so that every epoch is recorded, gated, and can be resumed. Classification has an
    optimizer of its own ("classifier") over the same tensors: the moments of one loss mislead the other.

    In the critic's phase a batch makes `critic_steps` updates of the critic, each with fresh points, one for every
    `r_real` real ones, and one update of the machine. Metrics: `phase` (0 pretraining, 1 critic, 2 retraining: that of
    the epoch now over) and `retrained`, how often that began.
    """

    phase: Tensor
    phase_epochs: Tensor
    goal: Tensor
    retrained: Tensor

    def __init__(
        self,
        data: BornData,
        *,
        pretrain_epochs: int = 5,
        pretrain_goal: float | None = None,
        goal: float | None = None,
        tolerance: float = 0.05,
        retrain_epochs: int = 5,
        classifier_lr: float = 1e-2,
        critic_loss: CriticLoss = "bce",
        critic_steps: int = 2,
        critic_width: int = 64,
        critic_depth: int = 3,
        critic_lr: float = 1e-3,
        r_real: float = 1.0,
        **fields: Any,
    ) -> None:
        super().__init__(data, **fields)
        require(pretrain_epochs >= 0, "trainable.pretrain_epochs", pretrain_epochs, "at least 0")
        needed = goal is not None or pretrain_epochs > 0
        require(needed, "trainable.pretrain_epochs", pretrain_epochs, "at least 1, or a trainable.goal")
        for field, count in (
            ("retrain_epochs", retrain_epochs),
            ("critic_steps", critic_steps),
            ("critic_width", critic_width),
            ("critic_depth", critic_depth),
        ):
            require(count >= 1, f"trainable.{field}", count, "at least 1")
        for field, number in (("classifier_lr", classifier_lr), ("critic_lr", critic_lr), ("r_real", r_real)):
            require(number > 0, f"trainable.{field}", number, "above 0")
        for field, share in (("pretrain_goal", pretrain_goal), ("goal", goal), ("tolerance", tolerance)):
            require(share is None or 0 <= share <= 1, f"trainable.{field}", share, "a share, 0 to 1")
        self.pretrain_epochs, self.pretrain_goal, self.fixed_goal = pretrain_epochs, pretrain_goal, goal
        self.tolerance, self.retrain_epochs, self.classifier_lr = tolerance, retrain_epochs, classifier_lr
        self.critic_loss, self.critic_steps, self.critic_lr, self.r_real = critic_loss, critic_steps, critic_lr, r_real
        self.critic = Critic(data.n_features, data.n_classes, width=critic_width, depth=critic_depth)
        start = PRETRAINING if pretrain_epochs else ADVERSARIAL
        for name, value in (("phase", start), ("phase_epochs", 0), ("retrained", 0)):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("goal", torch.tensor(goal or 0.0))  # 0, until pretraining has one

    def optimizers(self) -> dict[str, Optimizer]:
        own = list(self.machine.parameters())
        return {
            "main": AdamW(own, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay),
            "classifier": AdamW(own, lr=self.classifier_lr, weight_decay=self.weight_decay),
            "critic": AdamW(self.critic.parameters(), lr=self.critic_lr, betas=BETAS, weight_decay=0.0),
        }

    def train_step(self, batch: Batch, step: Step) -> Losses:
        if int(self.phase) != ADVERSARIAL:  # a host sync
            losses = self(batch)
            step.update(losses["loss"], "classifier")
            return losses
        x, labels = batch
        of = labels.repeat(math.ceil(1 / self.r_real))[: max(1, round(len(x) / self.r_real))]  # as often as real ones
        against = x.new_zeros(())
        for _ in range(self.critic_steps):
            judged = loss_of_critic(self.critic_loss, self.critic, x, labels, self._draw(of).detach(), of)
            step.update(judged, "critic")
            against = against + judged.detach() / self.critic_steps
        loss = loss_of_drawn(self.critic_loss, self.critic, self._draw(of), of)
        step.update(loss)
        return {"loss": loss, "critic_loss": against}

    def forward(self, batch: Batch) -> Losses:
        """What pretraining and retraining minimise."""
        return {"loss": surprise(self.machine, *batch).mean()}

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        """Metrics are those of all ranks here, so that all take the same branch."""
        super().end_epoch(data, metrics)
        accuracy, phase = metrics["val/accuracy"], int(self.phase)
        metrics |= {"val/phase": float(phase), "val/retrained": float(self.retrained)}
        self.phase_epochs += 1
        following = self._following(phase, accuracy)
        if following != phase:
            self.phase.fill_(following)
            self.phase_epochs.zero_()
            self.retrained += following == RETRAINING

    def _following(self, phase: int, accuracy: float) -> int:
        """The phase after an epoch of `phase` that ended with this accuracy."""
        spent = int(self.phase_epochs)
        if phase == PRETRAINING:
            if self.fixed_goal is None:
                self.goal.clamp_(min=accuracy)
            reached = self.pretrain_goal is not None and accuracy >= self.pretrain_goal
            return ADVERSARIAL if reached or spent >= self.pretrain_epochs else PRETRAINING
        lost = float(self.goal) - accuracy
        if phase == ADVERSARIAL:
            return RETRAINING if lost > self.tolerance else ADVERSARIAL
        return ADVERSARIAL if lost <= self.tolerance / 2 or spent >= self.retrain_epochs else RETRAINING

    def _draw(self, labels: Tensor) -> Tensor:
        """(M, n): points of p(x|c), with a path back to the tensors."""
        uniforms = torch.rand(len(labels), self.machine.n_features, device=labels.device)
        with torch.autocast(labels.device.type, enabled=False):
            return self.machine.sample(labels, uniforms)
