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

from torch import Tensor

from gatesweep.core import rng
from gatesweep.core.distributed import world_size
from gatesweep.core.loop import NOT_FINITE, Epoch, Run, Settings
from gatesweep.core.stack_step import Share, Stack, Unstackable
from gatesweep.core.trainable import Batch, Data, Diverged, Metrics, Trainable, owns_step

SAMPLE = 4  # batches that are timed both ways
PLAIN = (bool, int, float, str, tuple, type(None))
RATES = ("lr", "weight_decay")  # what only the optimizer reads
Epochs = list[tuple[int, Epoch]]  # with the position of whose they are


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
            raise Diverged(NOT_FINITE)

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
    except RuntimeError as error:  # what vmap raises where it has no rule, or a tensor decides what is done; no memory
        raise Unstackable(str(error)) from error
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
