"""Trials of one shape, trained as one: `torch.func.vmap` over their stacked weights, and one AdamW for all.

The members of a stack differ in weights, buffers, learning rate and weight decay alone. These are rows of stacked
tensors, of which each module and each optimizer keeps views: only the steps are taken together, and evaluation, gate,
patience and checkpoints are those of a trial that trains alone. Source of the idea: Wang et al., arXiv:2102.02344.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import AdamW

from core import rng
from core.data import mixed
from core.distributed import world_size
from core.loop import Epoch, Run, Settings, grouped
from core.precision import autocast, exact
from core.trainable import Batch, Data, Diverged, Losses, Mean, Metrics, Trainable, owns_step, samples

SAMPLE = 4  # batches that are timed both ways
PLAIN = (bool, int, float, str, tuple, type(None))
RATES = ("lr", "weight_decay")  # what only the optimizer reads
Epochs = list[tuple[int, Epoch]]  # with the position of whose they are
Share = tuple[Metrics, list[float], bool]


class Unstackable(Exception):
    """Says why trainables cannot train as one stack, or had better not."""


@dataclass(frozen=True)
class Member:
    """One trainable of a stack, and the random generators as its construction left them: `core.rng.state()`."""

    trainable: Trainable
    generators: dict[str, Any]
    resume: dict[str, Any] | None = None  # an earlier `Epoch.state()`


def fit_stack(
    members: Sequence[Member], data: Data, settings: Settings, *, measure: bool = True, recorded: int | None = None
) -> Generator[Epochs, Collection[int] | None, None]:
    """`core.loop.fit` of several trainables: yields the next epoch of each, by its position in `members`.

    Positions that are sent back are stopped. Each member ends with the weights it would have alone, up to rounding;
    where its loss draws random numbers, they are others of the same distribution. Those behind train first, so that
    members may resume from different epochs. With `measure`, some steps are timed both ways before the first epoch: a
    stack that is slower than its members one by one is none, and one that thins until it is goes on one by one.
    Raises Unstackable before the first epoch.
    """
    alone = _compared(members, data, settings, measure)
    runs = {position: _begun(member, data, settings) for position, member in enumerate(members)}
    past = [
        (position, _own(run, epoch))
        for position, run in runs.items()
        for epoch in run.past(run.epoch if recorded is None else recorded)
    ]
    if past:
        _leave(runs, past, (yield past))
    stack: Stack | None = None
    pays = True
    while runs:
        group = _turn(runs, pays)
        if len(group) > 1:
            if stack is None or stack.runs != group:
                stack = Stack(group)
            shares = stack.train(data.train(group[0].epoch))
            pays = stack.seconds <= alone
            trained = [_given(run, data, share) for run, share in zip(group, shares, strict=True)]
        else:
            trained = [_by_itself(group[0], data)]
        positions = {id(run): position for position, run in runs.items()}
        epochs = [(positions[id(run)], epoch) for run, epoch in zip(group, trained, strict=True)]
        _leave(runs, epochs, (yield epochs))


def _turn(runs: dict[int, Run], together: bool) -> list[Run]:
    """Who trains next: those furthest behind, or the one that is nearest to its gate."""
    if together:
        first = min(run.epoch for run in runs.values())
        return [run for run in runs.values() if run.epoch == first]
    return [max(runs.values(), key=lambda run: run.settings.gate.score(run.history[-1]["metrics"]))]


def _leave(runs: dict[int, Run], epochs: Epochs, stopped: Collection[int] | None) -> None:
    for position in {one for one, epoch in epochs if epoch.outcome} | set(stopped or ()):
        runs.pop(position, None)


def _begun(member: Member, data: Data, settings: Settings) -> Run:
    rng.restore(member.generators)
    run = Run(member.trainable, settings, lambda module: module)
    if member.resume is None:
        run.trainable.begin(data)
    else:
        run.load_state_dict(member.resume)
    run.generators = rng.state()
    return run


def _by_itself(run: Run, data: Data) -> Epoch:
    rng.restore(run.generators)
    return _own(run, run.advance(data, lambda metrics, losses: run.train(data.train(run.epoch), metrics, losses)))


def _given(run: Run, data: Data, share: Share) -> Epoch:
    """The epoch of a member whose steps are done."""

    def train(metrics: Metrics, losses: list[float]) -> None:
        metrics |= share[0]
        losses += share[1]
        if not share[2]:
            raise Diverged("a training loss or its gradient was not finite")

    rng.restore(run.generators)
    return _own(run, run.advance(data, train))


def _own(run: Run, epoch: Epoch) -> Epoch:
    """An epoch whose state holds the member's own tensors and generators, and nothing of the others'."""
    run.generators = generators = rng.state()
    return replace(epoch, state=lambda: {**_copied(run.state_dict()), "rng": generators})


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _compared(members: Sequence[Member], data: Data, settings: Settings, measure: bool) -> float:
    """Seconds that a step of one member takes alone; with `measure`, Unstackable where a stack's takes longer than
    those of all members one by one."""
    _check(members, settings)
    runs = [Run(copy.deepcopy(member.trainable), settings, lambda module: module) for member in members]
    batches = data.train(0)[:SAMPLE]
    by_itself = Run(copy.deepcopy(members[0].trainable), settings, lambda module: module)
    try:
        stack = Stack(runs)
        stack.train(batches)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise Unstackable(f"{type(error).__name__}: {error}") from error
    if not measure:
        return math.inf
    alone = min(_seconds(by_itself, batches) for _ in range(3)) / len(batches)
    stacked = min(_seconds(stack, batches) for _ in range(2)) / len(batches) / len(members)
    if stacked > alone:
        raise Unstackable(f"a step takes {alone:.2g} s alone, and {stacked:.2g} s as one of {len(members)}")
    return alone


def _seconds(one: Run | Stack, batches: Sequence[Batch]) -> float:
    began = perf_counter()
    with contextlib.suppress(Diverged):
        one.train(batches, {}, []) if isinstance(one, Run) else one.train(batches)
    return perf_counter() - began


def _check(members: Sequence[Member], settings: Settings) -> None:
    """Raise Unstackable where it can be told without a step."""
    first = members[0].trainable
    for name, without in {
        "a step of its own": owns_step(first),
        "several workers": world_size() > 1,
        "training.precision=fp16": settings.precision == "fp16",
        "training.compile": settings.compile,
        "training.activation_checkpointing": settings.activation_checkpointing,
        "training.watch": settings.watch is not None,
    }.items():
        if without:
            raise Unstackable(f"not with {name}")
    shape = _shape(first)
    if any(_shape(member.trainable) != shape for member in members[1:]):
        raise Unstackable("the trainables differ in more than tensors of the same shape")


def _shape(trainable: Trainable) -> list[Any]:
    """What has to be equal: the modules, the shapes of their tensors, and whatever is no tensor but the rates."""
    tensors = [*trainable.named_parameters(), *trainable.named_buffers()]
    return [(name, one.shape, one.dtype, one.device, one.requires_grad) for name, one in tensors] + [
        (
            name,
            type(module),
            {key: value for key, value in vars(module).items() if isinstance(value, PLAIN) and key not in RATES},
        )
        for name, module in trainable.named_modules()
    ]


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
            raise ValueError(f"the optimizers took different numbers of steps: {sorted(counts)}")
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
        """One pass over the batches: each member's metrics, the loss of every step, and whether all were finite."""
        began, epoch, length = perf_counter(), self.runs[0].epoch, self.settings.max_epochs
        rng.seed_everything(mixed(*[run.seed for run in self.runs], epoch))
        for run in self.runs:
            run.trainable.train()
        mean, norms = Mean(), Mean()
        history, finite, gradient = [], [], torch.zeros(())
        for batch, done, share, first, last in grouped(batches, self.settings.accumulate):
            self.set_progress((epoch + done) / length)
            losses = self._losses(batch)
            with exact(self.settings.precision, self.device):
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
        raise ValueError(f"optimizers: got {name} and {len(others)} more, expected one plain AdamW of all parameters")
    return optimizer


def _by_member(steps: list[Tensor]) -> list[list[float]]:
    """For each member its numbers, from tensors (members,)."""
    return torch.stack(steps, dim=1).tolist()
