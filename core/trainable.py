"""The contract between the training core and a model family: `Trainable`, `Data`, and what passes between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from gatesweep.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = Any  # a tensor, or tuples, lists and dicts of tensors; the first axis of each tensor counts samples
Losses = dict[str, Tensor]  # scalars on the device; "loss" is the one that is minimised
Metrics = dict[str, float]  # scalars on the host, named "split/name"
Split = Literal["train", "val", "test"]
SPLITS = get_args(Split)
CHUNK_SIZE = 64  # scalars that `Mean` adds up at a time


class Diverged(Exception):
    """Raised by a trainable, anywhere in a step, when training cannot go on. It ends the run as "diverged"."""


class Data(Protocol):
    """The training and validation batches of a family. They live outside the module, so that trials can share them.

    It may have a method `test()` beside `val()`, for data that no decision of a sweep reads (`split_batches`).

    A family's class is built as `Data(*, device, seed, **fields of its YAML)`. It may keep expensive parts (a corpus, a
    solved problem) in `core.cache.machine_cache`, for all processes of a machine.
    """

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the batches of one epoch, on the device.

        They must be a pure function of `epoch`: a resumed run relies on it. Several workers get the same batches, and
        the core gives each worker its shard of the first axis.
        """

    def val(self) -> Sequence[Batch]:
        """Return the validation batches, on the device: the same at every call."""


class Step(Protocol):
    """The means of an update, which the core hands to `Trainable.train_step` with each batch."""

    @property
    def model(self) -> nn.Module:
        """The trainable itself, inside its DistributedDataParallel wrapper where there is one."""

    def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
        """Step the named optimizer on `loss`, a scalar: backward, average over ranks, unscale, clip, step.

        Only this optimizer's parameters get gradients. Returns the gradient norm before clipping, a scalar on the
        device. Raises KeyError for a name that `Trainable.optimizers` does not have.
        """


class Trainable(nn.Module, ABC):
    """A model together with the loss that trains it: `forward` returns the loss.

    Declare a loss (`forward`), and the defaults below train it. Own the step (override `train_step`) where one loss and
    one optimizer are not enough. A family's class is built as `Trainable(data, **fields of its YAML)`: shapes come from
    the data, hyperparameters from the YAML. State that must survive a restart (counters, adaptive weights, running
    statistics) lives in buffers.
    """

    stackable: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that may differ within a stack: learning rate, weight decay, and those of `register_stacked`."""

    progress: Tensor
    """The fraction of the run done, 0 to 1, a scalar buffer. The core sets it before each step; schedules read it."""

    epoch: int = 0
    """The number of the epoch under evaluation, from 1, set by the core; 0 outside of evaluation."""

    max_epochs: int = 0
    """The number of epochs of the run, set by the core with `epoch`; 0 before."""

    def __init__(self, *, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr, self.weight_decay = lr, weight_decay
        self.recompute = False  # set by the core: training.activation_checkpointing
        self.register_buffer("progress", torch.zeros(()))

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Return the mean losses of a batch, scalars on the device. `loss` is minimised, the others are reported."""

    def oracle(self, data: Data) -> Metrics | None:
        """Return the gated metrics of `evaluate` for the exact answer in place of the model; None: it is not known.

        Optional. They must pass the gate: no trial can pass a gate that the data itself fails. Called in eval mode.
        """
        return None

    def trivial(self, data: Data) -> Metrics | None:
        """Return the gated metrics of `evaluate` for a baseline that has learned nothing; None: it is not known.

        Optional. They must fail the gate, and they give its shortfalls their units (see `core.gate`). Called in eval
        mode.
        """
        return None

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers by name: `main`, and those of further losses."""
        return {"main": AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)}

    def train_step(self, batch: Batch, step: Step) -> Losses:
        """Train on one batch by one or more calls of `step.update`; returns the losses as `forward` does.

        Raises Diverged where training cannot go on.
        """
        losses = step.model(batch)
        step.update(losses["loss"])
        return losses

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the metrics on the batches of `split`; the core adds its prefix, `val/`. Called in eval mode.

        A run evaluates val alone; test is read once the run has ended. Without the argument `split`, only val can be.
        Expensive metrics may be left out while `due()` is false. The gate then carries the last value, and cannot pass
        in that epoch.
        """
        mean = Mean()
        for batch in split_batches(data, split):
            mean.add(self(batch), samples(batch))
        return mean.value()

    def begin(self, data: Data) -> None:
        """Run once before the first epoch of a fresh run, e.g. to pretrain."""

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        """Run after each evaluation, e.g. to retrain. It may change `metrics`."""

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return functions that draw figures of `split`, by kind.

        Called in eval mode; a figure is drawn only if it is asked for.

        The figures are `matplotlib.figure.Figure()`, not pyplot's; matplotlib is imported only inside the functions.
        Losses and metrics are drawn for every trainable, and need no function here.
        """
        return {}

    def due(self, every: int) -> bool:
        """Return True in the epochs 1, 1 + `every`, ..., in the last epoch, and outside of a run."""
        return self.epoch in (0, self.max_epochs) or (self.epoch - 1) % every == 0

    def register_stacked(self, **values: float) -> None:
        """Register hyperparameters as scalar buffers, so that they may differ between the members of a stack.

        They are not part of the state_dict: a resumed run takes them from its configuration.
        """
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def recomputed(self, block: nn.Module, *inputs: Tensor) -> Any:
        """Return `block(*inputs)`. Under activation checkpointing, the backward pass computes its activations again."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def owns_step(trainable: Trainable) -> bool:
    """Return True if a trainable overrides `train_step`, False if it declares a loss."""
    return type(trainable).train_step is not Trainable.train_step


class MissingSplit(InputError):
    """Raised for a split that data, or the code of a trainable, do not have."""


def split_batches(data: Data, split: Split) -> Sequence[Batch]:
    """Return the batches of a split, on the device; of train, those of the first epoch.

    Raises MissingSplit where the data have no `test()`, or nothing in the split.
    """
    if split == "test" and not callable(getattr(data, "test", None)):
        raise MissingSplit(f"{type(data).__name__} has no test split: give it a method test(self), as val(self) is")
    batches = data.train(0) if split == "train" else data.val() if split == "val" else data.test()  # type: ignore[attr-defined]
    if len(batches) == 0 or samples(batches[0]) == 0:
        raise MissingSplit(f"the {split} split of {type(data).__name__} is empty")
    return batches


class Mean:
    """The running mean of named scalars, weighted by samples. It stays on the device until `value` is called.

    A step costs one copy of each scalar: the copies are added up `CHUNK_SIZE` at a time.
    """

    def __init__(self) -> None:
        self.weights: dict[str, int] = {}
        self.sums: dict[str, Tensor] = {}
        self.pending: dict[tuple[str, int], list[Tensor]] = {}  # by name and weight: scalars that are in no sum yet

    def add(self, scalars: Losses, weight: int = 1) -> None:
        """Add one value of each scalar, with `weight` samples. No host sync."""
        for name, scalar in scalars.items():
            self.weights[name] = self.weights.get(name, 0) + weight
            pending = self.pending.setdefault((name, weight), [])
            pending.append(scalar.detach().clone())  # it may be a buffer, which will change
            if len(pending) == CHUNK_SIZE:
                self._add_pending(name, weight)

    def value(self) -> Metrics:
        """Return the means. One host sync."""
        return self.means(*to_host(self.totals))

    @property
    def totals(self) -> list[Tensor]:
        """The weighted sum of each name, on the device, as `means` takes them."""
        for name, weight in self.pending:
            self._add_pending(name, weight)
        return [self.sums[name] for name in self.weights]

    def means(self, totals: Sequence[float]) -> Metrics:
        """Return the means, from `totals` that are already on the host."""
        return {name: total / self.weights[name] for name, total in zip(self.weights, totals, strict=True)}

    def _add_pending(self, name: str, weight: int) -> None:
        if pending := self.pending[name, weight]:
            scalars = torch.stack(pending)
            total = weight * (scalars.double() if scalars.device.type != "mps" else scalars.float()).sum(dim=0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            pending.clear()


def to_host(*groups: Sequence[Tensor]) -> list[list[float]]:
    """Copy scalars to the host, group by group, in float64 (MPS: float32). One host sync for all of them."""
    stacked = [torch.stack(list(group)).detach() for group in groups if group]
    if not stacked:
        return [[] for _ in groups]
    dtype = torch.float32 if stacked[0].device.type == "mps" else torch.float64
    numbers = iter(torch.cat([scalars.to(dtype) for scalars in stacked]).tolist())
    return [list(islice(numbers, len(group))) for group in groups]


def samples(batch: Batch) -> int:
    """Return the number of samples of a batch: the length of the first axis of its first tensor.

    Raises TypeError for a batch without a tensor.
    """
    if isinstance(batch, Tensor):
        return batch.shape[0]
    parts = batch.values() if isinstance(batch, dict) else batch
    for part in parts:
        if isinstance(part, Tensor | dict | list | tuple):
            return samples(part)
    raise TypeError(f"a batch needs a tensor in it, got {type(batch).__name__} without one")
