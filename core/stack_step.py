"""What a step of a stack is: the losses of all members by `torch.func.vmap`, and one AdamW for all their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import AdamW

from gatesweep.core import rng
from gatesweep.core.data import mix_seeds
from gatesweep.core.loop import Run, grouped
from gatesweep.core.precision import autocast, autocast_disabled
from gatesweep.core.trainable import Batch, Losses, Mean, Metrics, samples

Share = tuple[Metrics, list[float], bool]  # of a member in an epoch: metrics, the loss of every step, all finite


class Unstackable(Exception):
    """Says why trainables cannot train as one stack, or had better not."""


class Stack:
    """The tensors of all members, and their steps."""

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
        self.initial, self.decays = (
            torch.tensor([[group[name]] for group in groups], device=self.device)
            for name in ("initial_lr", "weight_decay")
        )
        self._stack_weights()
        self.buffers = self._stack_buffers()
        self.seconds = 0.0  # a member's share of a step of the last epoch

    def _stack_weights(self) -> None:
        rows = [[dict(run.trainable.named_parameters())[name] for name in self.shapes] for run in self.runs]
        self.flat = torch.stack([torch.cat([param.detach().flatten() for param in row]) for row in rows])
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        counts = set()
        for row, optimizer, *flats in zip(rows, self.optimizers, self.flat, self.first, self.second, strict=True):
            for param, weights, first, second in zip(row, *(one.split(self.sizes) for one in flats), strict=True):
                state = optimizer.state[param]
                if state:
                    first.copy_(state["exp_avg"].flatten())
                    second.copy_(state["exp_avg_sq"].flatten())
                counts.add(float(state.get("step", 0)))
                state["step"] = torch.tensor(float(state.get("step", 0)))
                state["exp_avg"], state["exp_avg_sq"] = first.view_as(param), second.view_as(param)
                param.data = weights.view_as(param)
        if len(counts) > 1:
            raise Unstackable(f"the optimizers took different numbers of steps: {sorted(counts)}")
        self.count = int(counts.pop())
        self.flat.requires_grad_()

    def _stack_buffers(self) -> dict[str, Tensor]:
        """Those that differ, or may come to: what no checkpoint holds and is the same for all is a constant."""
        stacked = {}
        for name, buffer in self.base.named_buffers():
            each = [run.trainable.get_buffer(name) for run in self.runs]
            path, _, leaf = name.rpartition(".")
            kept = leaf not in self.base.get_submodule(path)._non_persistent_buffers_set
            if kept or not all(torch.equal(buffer, one) for one in each):
                stacked[name] = torch.stack(each)
                for run, row in zip(self.runs, stacked[name], strict=True):
                    setattr(run.trainable.get_submodule(path), leaf, row)
        return stacked

    def train(self, batches: Sequence[Batch]) -> list[Share]:
        """One pass over the batches: each member's metrics, the loss of every step, and whether all were finite.

        Seconds are a member's share of the stack's.
        """
        began, epoch, length = perf_counter(), self.runs[0].epoch, self.settings.max_epochs
        rng.seed_everything(mix_seeds(*[run.seed for run in self.runs], epoch))
        for run in self.runs:
            run.trainable.train()
        mean, norms = Mean(), Mean()
        history, finite, gradient = [], [], torch.zeros(())
        for batch, done, share, first, last in grouped(batches, self.settings.accumulate):
            self.set_progress((epoch + done) / length)
            losses = self._losses(batch)
            with autocast_disabled(self.settings.precision, self.device):
                loss = losses["loss"].sum() if share == 1 else losses["loss"].sum() * share
                (part,) = torch.autograd.grad(loss, self.flat)
            gradient = part if first else gradient + part
            if last:
                norm = torch.linalg.vector_norm(gradient, dim=1)
                self._update(gradient, norm)
                norms.add({"grad_norm": norm})
                finite.append(norm)
            mean.add(losses, samples(batch))
            history.append(losses["loss"].detach())
        self._settle()
        # The training's host sync: all before it is queued, not awaited.
        curves, totals, means, finite = (_by_member(one) for one in (history, mean.totals, norms.totals, finite))
        seconds = (perf_counter() - began) / len(self.runs)
        speed = {
            "system/train_seconds": seconds,
            "system/samples_per_second": sum(map(samples, batches)) / seconds,
            "system/seconds": seconds,
        }
        self.seconds = seconds / len(batches)
        return [
            (
                {f"train/{name}": value for name, value in (mean.means(total) | norms.means(norm)).items()} | speed,
                curve,
                all(map(math.isfinite, [*curve, *last])),
            )
            for curve, total, norm, last in zip(curves, totals, means, finite, strict=True)
        ]

    def set_progress(self, progress: float) -> None:
        self.buffers["progress"].fill_(progress)
        self.progress, self.rates = progress, self.initial * self.settings.schedule(progress)

    def _losses(self, batch: Batch) -> Losses:
        """Of every member: tensors (members,)."""

        def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Losses:
            return functional_call(self.base, (parameters, buffers), (batch,))

        pieces = zip(self.shapes.items(), self.flat.split(self.sizes, dim=1), strict=True)
        parameters = {name: piece.view(-1, *shape) for (name, shape), piece in pieces}
        with autocast(self.settings.precision, self.device):
            return vmap(of_one, randomness="different")(parameters, self.buffers)

    @torch.no_grad()
    def _update(self, gradient: Tensor, norm: Tensor) -> None:
        """AdamW, each row at its own rate. Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2."""
        if self.settings.clip_norm is not None:
            gradient *= (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1)[:, None]
        self.count += 1
        (beta1, beta2), weights = self.betas, self.flat.detach()
        weights *= 1 - self.rates * self.decays
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = self.second.sqrt().div_(math.sqrt(1 - beta2**self.count)).add_(self.eps)
        weights.addcdiv_(self.first * (self.rates / (1 - beta1**self.count)), spread, value=-1)

    def _settle(self) -> None:
        """Tell each member's optimizer what it cannot see: how many steps it took, and its rate."""
        for run, optimizer in zip(self.runs, self.optimizers, strict=True):
            run.step.set_progress(self.progress)
            for state in optimizer.state.values():
                state["step"].fill_(self.count)


def _adamw(run: Run) -> AdamW:
    """A member's optimizer, where a stack can do its work."""
    (name, optimizer), *others = run.step.optimizers.items()
    (group, *groups) = optimizer.param_groups
    whole = len(group["params"]) == sum(param.requires_grad for param in run.trainable.parameters())
    if others or groups or type(optimizer) is not AdamW or group["amsgrad"] or group["maximize"] or not whole:
        raise Unstackable(f"optimizers: got {name} and {len(others)} more, expected one plain AdamW of all parameters")
    return optimizer


def _by_member(steps: list[Tensor]) -> list[list[float]]:
    """For each member its numbers, from tensors (members,)."""
    return torch.stack(steps, dim=1).tolist()
