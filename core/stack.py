"""Trials of one shape trained as one: `torch.func.vmap` over their stacked weights, and one AdamW for all.

The members of a stack differ only in weights, buffers, learning rate and weight decay. These are rows of stacked
tensors, and each member's module and optimizer hold views of their rows. Only the training steps are taken together:
evaluation, gate, early stopping and checkpoints are those of a trial that trains alone.
Source of the idea: Wang et al., arXiv:2102.02344.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from gatesweep.core import rng
from gatesweep.core.distributed import world_size
from gatesweep.core.loop import NOT_FINITE, Epoch, Run
from gatesweep.core.settings import Settings
from gatesweep.core.stack_step import MemberTraining, Stack, Unstackable
from gatesweep.core.trainable import Batch, Data, Diverged, Metrics, Trainable, owns_step

TIMED_BATCHES = 4
COMPARED_TYPES = (bool, int, float, str, tuple, type(None))  # attributes of these types must be equal in all members
OPTIMIZER_ATTRIBUTES = ("lr", "weight_decay")  # attributes that may differ: only the optimizer reads them
PositionedEpochs = list[tuple[int, Epoch]]  # each with the position of its member


@dataclass(frozen=True)
class Member:
    """One trainable of a stack, and the random generators right after its construction (`core.rng.state()`)."""

    trainable: Trainable
    generators: dict[str, Any]
    resume: dict[str, Any] | None = None
    """An earlier result of `Epoch.state()`; None: a fresh run."""


def fit_stack(
    members: Sequence[Member], data: Data, settings: Settings, *, measure: bool = True, recorded: int | None = None
) -> Generator[PositionedEpochs, Collection[int] | None, None]:
    """`core.loop.fit` of several trainables: yields lists of epochs, each with its position in `members`.

    Positions that are sent to the generator are stopped. Each member ends with the weights that it would have alone, up
    to rounding; where its loss draws random numbers, it draws others of the same distribution. Members that are behind
    train first, so members may resume from different epochs.

    Args:
        measure: time some steps before the first epoch, stacked and one by one, and refuse a stack that is slower. A
            stack that becomes slower as its members end goes on one by one.
        recorded: as in `fit`.

    Raises Unstackable before the first epoch, and InputError as `fit` does.
    """
    seconds_alone = _check_stack(members, data, settings, measure)
    runs = {position: _start_run(member, data, settings) for position, member in enumerate(members)}
    past = [
        (position, _own_state(run, epoch))
        for position, run in runs.items()
        for epoch in run.epochs_after(run.epoch if recorded is None else recorded)
    ]
    if past:
        _remove_ended(runs, past, (yield past))
    stack: Stack | None = None
    stacked_pays = True
    while runs:
        group = _next_group(runs, stacked_pays)
        if len(group) > 1:
            if stack is None or stack.runs != group:
                stack = Stack(group)
            trainings = stack.train(data.train(group[0].epoch))
            stacked_pays = stack.seconds <= seconds_alone
            trained = [_finish_epoch(run, data, training) for run, training in zip(group, trainings, strict=True)]
        else:
            trained = [_train_alone(group[0], data)]
        positions = {id(run): position for position, run in runs.items()}
        epochs = [(positions[id(run)], epoch) for run, epoch in zip(group, trained, strict=True)]
        _remove_ended(runs, epochs, (yield epochs))


def _next_group(runs: dict[int, Run], stacked: bool) -> list[Run]:
    """Return the runs that train next: those furthest behind, or, one by one, the run with the highest gate score."""
    if stacked:
        first = min(run.epoch for run in runs.values())
        return [run for run in runs.values() if run.epoch == first]
    return [max(runs.values(), key=lambda run: run.settings.gate.score(run.history[-1]["metrics"]))]


def _remove_ended(runs: dict[int, Run], epochs: PositionedEpochs, stopped: Collection[int] | None) -> None:
    """Remove the runs that have an outcome, and those that the caller stopped."""
    for position in {position for position, epoch in epochs if epoch.outcome} | set(stopped or ()):
        runs.pop(position, None)


def _start_run(member: Member, data: Data, settings: Settings) -> Run:
    rng.restore(member.generators)
    run = Run(member.trainable, settings, lambda module: module)
    if member.resume is None:
        run.trainable.begin(data)
    else:
        run.load_state_dict(member.resume)
    run.generators = rng.state()
    return run


def _train_alone(run: Run, data: Data) -> Epoch:
    rng.restore(run.generators)
    epoch = run.run_epoch(data, lambda metrics, losses: run.train_epoch(data.train(run.epoch), metrics, losses))
    return _own_state(run, epoch)


def _finish_epoch(run: Run, data: Data, training: MemberTraining) -> Epoch:
    """Evaluate a member whose steps the stack has taken, and return its epoch."""

    def train(metrics: Metrics, losses: list[float]) -> None:
        metrics |= training.metrics
        losses += training.losses
        if not training.finite:
            raise Diverged(NOT_FINITE)

    rng.restore(run.generators)
    return _own_state(run, run.run_epoch(data, train))


def _own_state(run: Run, epoch: Epoch) -> Epoch:
    """Return the epoch with a state of copies: no views of stacked tensors, and the member's own generators."""
    run.generators = generators = rng.state()
    return replace(epoch, state=lambda: {**_clone_tensors(run.state_dict()), "rng": generators})


def _clone_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _clone_tensors(item) for key, item in value.items()}
    return [_clone_tensors(item) for item in value] if isinstance(value, list) else value


def _check_stack(members: Sequence[Member], data: Data, settings: Settings, measure: bool) -> float:
    """Try the stack on copies of its members; returns the seconds that a step of one member takes alone.

    Without `measure` nothing is timed, and the result is infinite. Raises Unstackable where the members cannot be
    stacked, or where a stacked step takes longer than the members' steps one by one.
    """
    _check_members(members, settings)
    runs = [Run(copy.deepcopy(member.trainable), settings, lambda module: module) for member in members]
    batches = data.train(0)[:TIMED_BATCHES]
    single = Run(copy.deepcopy(members[0].trainable), settings, lambda module: module)
    try:
        stack = Stack(runs)
        stack.train(batches)
    except RuntimeError as error:  # vmap has no rule for an operation, a tensor decides a branch, or memory ran out
        raise Unstackable(str(error)) from error
    if not measure:
        return math.inf
    alone = min(_time_epoch(single, batches) for _ in range(3)) / len(batches)
    stacked = min(_time_epoch(stack, batches) for _ in range(2)) / len(batches) / len(members)
    if stacked > alone:
        raise Unstackable(f"a step takes {alone:.2g} s alone, and {stacked:.2g} s as one of {len(members)}")
    return alone


def _time_epoch(trained: Run | Stack, batches: Sequence[Batch]) -> float:
    began = perf_counter()
    with contextlib.suppress(Diverged):
        trained.train_epoch(batches, {}, []) if isinstance(trained, Run) else trained.train(batches)
    return perf_counter() - began


def _check_members(members: Sequence[Member], settings: Settings) -> None:
    """Raise Unstackable where settings or trainables rule a stack out, before any step is tried."""
    first = members[0].trainable
    for name, used in {
        "a step of its own": owns_step(first),
        "several workers": world_size() > 1,
        "training.precision=fp16": settings.precision == "fp16",
        "training.compile": settings.compile,
        "training.activation_checkpointing": settings.activation_checkpointing,
        "training.log_grad_norm_every": settings.log_grad_norm_every is not None,
    }.items():
        if used:
            raise Unstackable(f"not with {name}")
    signature = _signature(first)
    if any(_signature(member.trainable) != signature for member in members[1:]):
        raise Unstackable("the trainables differ in more than tensors of the same shape")


def _signature(trainable: Trainable) -> list[Any]:
    """Return what must be equal in all members: their modules, the layout of their tensors, and plain attributes."""
    tensors = [*trainable.named_parameters(), *trainable.named_buffers()]
    layout = [(name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for name, tensor in tensors]
    return layout + [(name, type(module), _plain_attributes(module)) for name, module in trainable.named_modules()]


def _plain_attributes(module: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, COMPARED_TYPES) and key not in OPTIMIZER_ATTRIBUTES
    }
