"""The steps of a stack: the losses of all members by `torch.func.vmap`, and one AdamW for all their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import AdamW

from gatesweep.core import rng
from gatesweep.core.data import micro_batches, mix_seeds
from gatesweep.core.loop import Run
from gatesweep.core.precision import autocast, autocast_disabled
from gatesweep.core.trainable import Batch, Losses, Mean, Metrics, samples


class Unstackable(Exception):
    """Says why trainables cannot train as one stack, or are faster one by one."""


class MemberTraining(NamedTuple):
    """The training of one member in one epoch."""

    metrics: Metrics
    losses: list[float]
    """The loss of every step."""
    finite: bool
    """True if every loss and every gradient norm was finite."""


class Stack:
    """The stacked tensors of all members, and their training steps.

    `weights` and AdamW's `exp_avg` and `exp_avg_sq` have the shape (members, parameters), the trained parameters of a
    member flattened and joined; `buffers` have the shape (members, ...). The members' modules and optimizers hold views
    of their rows from then on. Raises Unstackable where the optimizers do not fit together.
    """

    def __init__(self, runs: list[Run]) -> None:
        self.runs, self.settings = runs, runs[0].settings
        self.base = runs[0].trainable
        self.device = runs[0].device
        self.shapes = {name: param.shape for name, param in self.base.named_parameters() if param.requires_grad}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.optimizers = [_adamw(run) for run in runs]
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers]
        self.betas, self.eps = groups[0]["betas"], groups[0]["eps"]
        if any((group["betas"], group["eps"]) != (self.betas, self.eps) for group in groups):
            raise Unstackable("the optimizers differ in more than learning rate and weight decay")
        self.initial_rates, self.decays = (  # (members, 1)
            torch.tensor([[group[name]] for group in groups], device=self.device)
            for name in ("initial_lr", "weight_decay")
        )
        self._stack_weights()
        self.buffers = self._stack_buffers()
        self.seconds = 0.0
        """Seconds of the last epoch's training, for one member and step."""

    def train(self, batches: Sequence[Batch]) -> list[MemberTraining]:
        """Train all members on the batches once; returns one result a member.

        The seconds among its metrics are an equal share of the stack's.
        """
        began, epoch = perf_counter(), self.runs[0].epoch
        rng.seed_everything(mix_seeds(*[run.seed for run in self.runs], epoch))
        for run in self.runs:
            run.trainable.train()
        mean, norms = Mean(), Mean()
        step_losses, finite, gradient = [], [], torch.zeros(())
        for batch, epoch_fraction, share, first, last in micro_batches(batches, self.settings.accumulate):
            self.set_progress((epoch + epoch_fraction) / self.settings.max_epochs)
            losses = self._losses(batch)
            with autocast_disabled(self.settings.precision, self.device):
                loss = losses["loss"].sum() if share == 1 else losses["loss"].sum() * share
                (batch_gradient,) = torch.autograd.grad(loss, self.weights)
            gradient = batch_gradient if first else gradient + batch_gradient
            if last:
                norm = torch.linalg.vector_norm(gradient, dim=1)
                self._update(gradient, norm)
                norms.add({"grad_norm": norm})
                finite.append(norm)
            mean.add(losses, samples(batch))
            step_losses.append(losses["loss"].detach())
        self._sync_optimizers()
        # The training's host sync: until here the device's work is queued, not awaited.
        curves, totals, norm_totals, norm_curves = (
            _by_member(tensors) for tensors in (step_losses, mean.totals, norms.totals, finite)
        )
        seconds = (perf_counter() - began) / len(self.runs)
        self.seconds = seconds / len(batches)
        speed = {
            "system/train_seconds": seconds,
            "system/samples_per_second": sum(map(samples, batches)) / seconds,
            "system/seconds": seconds,
        }
        trainings = []
        for curve, total, norm_total, norm_curve in zip(curves, totals, norm_totals, norm_curves, strict=True):
            means = mean.means(total) | norms.means(norm_total)
            metrics = {f"train/{name}": value for name, value in means.items()} | speed
            trainings.append(MemberTraining(metrics, curve, all(map(math.isfinite, [*curve, *norm_curve]))))
        return trainings

    def set_progress(self, progress: float) -> None:
        """Set the fraction of the run done (0 to 1) of all members, and their learning rates."""
        self.buffers["progress"].fill_(progress)
        self.progress, self.rates = progress, self.initial_rates * self.settings.schedule(progress)

    def _stack_weights(self) -> None:
        """Stack weights and moments. Raises Unstackable where the optimizers took different numbers of steps."""
        rows = [[dict(run.trainable.named_parameters())[name] for name in self.shapes] for run in self.runs]
        self.weights = torch.stack([torch.cat([param.detach().flatten() for param in row]) for row in rows])
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        counts = set()
        for row, optimizer, *flat in zip(
            rows, self.optimizers, self.weights, self.exp_avg, self.exp_avg_sq, strict=True
        ):
            views = (tensor.split(self.sizes) for tensor in flat)
            for param, weights, exp_avg, exp_avg_sq in zip(row, *views, strict=True):
                state = optimizer.state[param]
                if state:
                    exp_avg.copy_(state["exp_avg"].flatten())
                    exp_avg_sq.copy_(state["exp_avg_sq"].flatten())
                counts.add(float(state.get("step", 0)))
                state["step"] = torch.tensor(float(state.get("step", 0)))
                state["exp_avg"], state["exp_avg_sq"] = exp_avg.view_as(param), exp_avg_sq.view_as(param)
                param.data = weights.view_as(param)
        if len(counts) > 1:
            raise Unstackable(f"the optimizers took different numbers of steps: {sorted(counts)}")
        self.steps = int(counts.pop())
        self.weights.requires_grad_()

    def _stack_buffers(self) -> dict[str, Tensor]:
        """Stack the buffers that may differ. A buffer that is in no checkpoint and equal in all is a constant."""
        stacked = {}
        for name, buffer in self.base.named_buffers():
            rows = [run.trainable.get_buffer(name) for run in self.runs]
            path, _, leaf = name.rpartition(".")
            persistent = leaf not in self.base.get_submodule(path)._non_persistent_buffers_set
            if persistent or not all(torch.equal(buffer, row) for row in rows):
                stacked[name] = torch.stack(rows)
                for run, row in zip(self.runs, stacked[name], strict=True):
                    setattr(run.trainable.get_submodule(path), leaf, row)
        return stacked

    def _losses(self, batch: Batch) -> Losses:
        """Return the losses of all members: tensors (members,)."""

        def member_losses(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Losses:
            return functional_call(self.base, (parameters, buffers), (batch,))

        columns = zip(self.shapes.items(), self.weights.split(self.sizes, dim=1), strict=True)
        parameters = {name: column.view(-1, *shape) for (name, shape), column in columns}
        with autocast(self.settings.precision, self.device):
            return vmap(member_losses, randomness="different")(parameters, self.buffers)

    @torch.no_grad()
    def _update(self, gradient: Tensor, norm: Tensor) -> None:
        """Clip, then take one AdamW step, each row at its own rate; gradient (members, parameters), norm (members,).

        Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2.
        """
        if self.settings.clip_norm is not None:
            gradient *= (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1)[:, None]
        self.steps += 1
        (beta1, beta2), weights = self.betas, self.weights.detach()
        weights *= 1 - self.rates * self.decays
        self.exp_avg.lerp_(gradient, 1 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = self.exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(self.eps)
        weights.addcdiv_(self.exp_avg * (self.rates / (1 - beta1**self.steps)), denominator, value=-1)

    def _sync_optimizers(self) -> None:
        """Write the number of steps and the learning rate into each member's optimizer, for its checkpoints."""
        for run, optimizer in zip(self.runs, self.optimizers, strict=True):
            run.step.set_progress(self.progress)
            for state in optimizer.state.values():
                state["step"].fill_(self.steps)


def _adamw(run: Run) -> AdamW:
    """Return a member's optimizer. Raises Unstackable where it is not one plain AdamW of all parameters."""
    (name, optimizer), *others = run.step.optimizers.items()
    (group, *groups) = optimizer.param_groups
    covers_all = len(group["params"]) == sum(param.requires_grad for param in run.trainable.parameters())
    if others or groups or type(optimizer) is not AdamW or group["amsgrad"] or group["maximize"] or not covers_all:
        raise Unstackable(f"optimizers: got {name} and {len(others)} more, expected one plain AdamW of all parameters")
    return optimizer


def _by_member(tensors: list[Tensor]) -> list[list[float]]:
    """Copy tensors (members,) to the host: for each member the list of its numbers."""
    return torch.stack(tensors, dim=1).tolist()
