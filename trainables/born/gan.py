"""Born machine that learns to draw from a critic, and to classify again whenever its accuracy drops."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Data, Losses, Metrics, Step
from gatesweep.trainables.born.attacks import surprise
from gatesweep.trainables.born.critic import Critic, CriticLoss, loss_of_critic, loss_of_drawn
from gatesweep.trainables.born.data import Batch, BornData
from gatesweep.trainables.born.trainable import Born

PRETRAINING, ADVERSARIAL, RETRAINING = range(3)
BETAS = (0.5, 0.9)  # of Adam: low momentum, because machine and critic change each other's loss


class BornGAN(Born):
    """Born machine with a critic (a conditional GAN). It classifies first; then its samples must convince the critic.

    A run has three phases. Each lasts whole epochs, and the next one is decided after each evaluation:

    * 0, pretraining on -log p(c|x): ends after `pretrain_epochs`, or once held-out accuracy reaches `pretrain_goal`;
      with `pretrain_epochs` 0 the run begins in phase 1;
    * 1, adversarial training: ends when accuracy is more than `tolerance` below the goal, which is `goal` or, without
      one, the best accuracy of pretraining;
    * 2, retraining on -log p(c|x): ends when accuracy is at most `tolerance` / 2 below the goal, or after
      `retrain_epochs`; phase 1 follows.

    The phase lives in buffers, so every epoch is recorded and gated, and a run resumes in the middle of a phase.
    Phases 0 and 2 have their own optimizer ("classifier") for the same tensors: Adam's moments from one loss would
    mislead the other.

    In phase 1 each batch makes `critic_steps` updates of the critic, each with fresh samples, then one update of the
    machine. There are `r_real` real points for each drawn one. Additional metrics: `phase`, that of the epoch just
    ended, and `retrained`, the number of times that retraining has begun so far.
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
        """Check the fields and build the critic; `fields` are those of `Born`. Raises InputError for a bad value."""
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
            check_size(f"trainable.{field}", count)
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
        self.register_buffer("goal", torch.tensor(goal or 0.0))  # without `goal`, pretraining raises it

    def optimizers(self) -> dict[str, Optimizer]:
        """Build three AdamW: `main` and `classifier` for the machine's tensors, `critic` for the critic."""
        own = list(self.machine.parameters())
        return {
            "main": AdamW(own, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay),
            "classifier": AdamW(own, lr=self.classifier_lr, weight_decay=self.weight_decay),
            "critic": AdamW(self.critic.parameters(), lr=self.critic_lr, betas=BETAS, weight_decay=0.0),
        }

    def train_step(self, batch: Batch, step: Step) -> Losses:
        """Train on one batch as the phase requires; returns `loss`, in phase 1 also the mean `critic_loss`."""
        if int(self.phase) != ADVERSARIAL:  # a host sync
            losses = self(batch)
            step.update(losses["loss"], "classifier")
            return losses
        x, labels = batch
        # Row i has the label of real point i, as the gradient penalty needs; classes are as frequent as in the batch.
        drawn_labels = labels.repeat(math.ceil(1 / self.r_real))[: max(1, round(len(x) / self.r_real))]
        mean_critic_loss = x.new_zeros(())
        for _ in range(self.critic_steps):
            drawn = self._draw(drawn_labels).detach()
            critic_loss = loss_of_critic(self.critic_loss, self.critic, x, labels, drawn, drawn_labels)
            step.update(critic_loss, "critic")
            mean_critic_loss = mean_critic_loss + critic_loss.detach() / self.critic_steps
        loss = loss_of_drawn(self.critic_loss, self.critic, self._draw(drawn_labels), drawn_labels)
        step.update(loss)
        return {"loss": loss, "critic_loss": mean_critic_loss}

    def forward(self, batch: Batch) -> Losses:
        """Compute `loss` of pretraining and retraining: the mean -log p(c|x) in nats."""
        return {"loss": surprise(self.machine, *batch).mean()}

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        """Report phase and number of retrainings, then choose the phase of the next epoch.

        `metrics` are those of all ranks together, so every rank chooses the same phase.
        """
        super().end_epoch(data, metrics)
        accuracy, phase = metrics["val/accuracy"], int(self.phase)
        metrics |= {"val/phase": float(phase), "val/retrained": float(self.retrained)}
        self.phase_epochs += 1
        next_phase = self._next_phase(phase, accuracy)
        if next_phase != phase:
            self.phase.fill_(next_phase)
            self.phase_epochs.zero_()
            self.retrained += next_phase == RETRAINING

    def _next_phase(self, phase: int, accuracy: float) -> int:
        """Phase of the next epoch, after an epoch of `phase` that ended with this held-out accuracy."""
        epochs = int(self.phase_epochs)
        if phase == PRETRAINING:
            if self.fixed_goal is None:
                self.goal.clamp_(min=accuracy)
            reached = self.pretrain_goal is not None and accuracy >= self.pretrain_goal
            return ADVERSARIAL if reached or epochs >= self.pretrain_epochs else PRETRAINING
        shortfall = float(self.goal) - accuracy
        if phase == ADVERSARIAL:
            return RETRAINING if shortfall > self.tolerance else ADVERSARIAL
        return ADVERSARIAL if shortfall <= self.tolerance / 2 or epochs >= self.retrain_epochs else RETRAINING

    def _draw(self, labels: Tensor) -> Tensor:
        """Samples (M, n) of p(x|c) for labels (M,), differentiable with respect to the tensors."""
        uniforms = torch.rand(len(labels), self.machine.n_features, device=labels.device)
        with torch.autocast(labels.device.type, enabled=False):
            return self.machine.sample(labels, uniforms)
